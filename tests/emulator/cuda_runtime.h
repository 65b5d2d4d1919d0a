// What a CUDA file finds without asking: the thread's coordinates, barriers, warp calls, vectors, arithmetic, the API.
#pragma once
#include <math.h>

#include "tests/emulator/api.h"
#include "tests/emulator/arithmetic.h"
#include "tests/emulator/block.h"
#include "tests/emulator/vector_types.h"
#include "tests/emulator/warp.h"
