#!/usr/bin/env bash
# Runs CUDA kernels without a GPU: emulate.sh [OPTION...] ROOM... holds rooms to the laws, thread by thread on the CPU
#
#   --asan        stops at a read or write outside of tensors, shared memory, local arrays; slower
#   --all         builds the CUDA files of all rooms anew, not only those of the rooms named and what they call
#   --verbose     every record of the laws
#   --selftest    tests the emulator, no room
#   TAPER_EMULATOR_ORDER=0|1|2...   who runs first (tests/emulator/emulator.cpp); unset: changes from launch to launch
#   TAPER_EMULATOR_CAPABILITY=90|80 a Hopper's kernels (90), or those for cards before it
#   TAPER_EMULATOR_SHARED=BYTES     shared memory of a block (232448); with less, as other cards have, other kernels run
set -euo pipefail
cd "$(dirname "$0")/.."
directory=build-emulate
build=() run=()
for a in "$@"; do
  case $a in
    --asan | --all | --selftest) build+=("$a") ;;
    *) run+=("$a") ;;
  esac
done
if [ $# = 0 ]; then sed -n '2,10s/^# \?//p' "$0" >&2; exit 2; fi
mkdir -p "$directory"

binary=$(mktemp "$directory/laws.XXXXXX")
trap 'rm -f "$binary"' EXIT
python3 tests/emulator/build.py "${build[@]}" "$directory" "$binary" "${run[@]}"
export ASAN_OPTIONS=detect_leaks=0:${ASAN_OPTIONS-}
export TAPER_TEST_DEVICE=cuda:0
"$binary" "${run[@]}"
