// In place of <nv/target>: the branch of the card that is emulated.
#pragma once
#include "tests/emulator/block.h"

#define NV_HAS_FEATURE_SM_90a (::emulator::capability == 90)
#define NV_PROVIDES_SM_90 (::emulator::capability >= 90)
#define TAPER_BARE(...) __VA_ARGS__
#define NV_IF_TARGET(query, then, ...) \
  if (query) { \
    TAPER_BARE then \
  } \
  __VA_OPT__(else { TAPER_BARE __VA_ARGS__ })
#define NV_IF_ELSE_TARGET(query, then, otherwise) NV_IF_TARGET(query, then, otherwise)
