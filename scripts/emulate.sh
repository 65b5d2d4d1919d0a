#!/usr/bin/env bash
# Runs CUDA kernels without a GPU: emulate.sh [--asan] ROOM... holds rooms to the laws in the emulator; --selftest tests it
#
#   TAPER_EMULATOR_ORDER=0|1|2...   who runs first (tests/emulator/emulator.cpp); unset: changes from launch to launch
#   --asan                          reads and writes outside of tensors and shared memory end the run
#   --verbose                       every record of the laws
set -euo pipefail
cd "$(dirname "$0")/.."
directory=build-emulate variant=plain selftest=no
rooms=()
for a in "$@"; do
  case $a in
    --asan) variant=asan ;;
    --selftest) selftest=yes ;;
    *) rooms+=("$a") ;;
  esac
done
if [ ${#rooms[@]} = 0 ] && [ $selftest = no ]; then sed -n '2,6s/^# \?//p' "$0" >&2; exit 2; fi
mkdir -p "$directory"

binary=$(mktemp "$directory/laws.XXXXXX")
[ -n "${TAPER_EMULATOR_KEEP-}" ] || trap 'rm -f "$binary"' EXIT
(  # one at a time builds and links; each runs its own binary
  flock 9
  python3 tests/emulator/plan.py "$directory"
  targets=(cpu "runtime_$variant" "rooms_$variant")
  if [ $selftest = yes ]; then targets=("runtime_$variant" "selftest_$variant" "$directory/cpu/tensor/error.cpp.o"); fi
  ninja -f "$directory/build.ninja" -k 0 -j 2 "${targets[@]}" > "$directory/log" 2>&1 || {
    grep -E '(error|translate.py):' "$directory/log" | cut -c 1-300 | head -30 >&2 || true
    echo "emulate.sh: not compiled: $(sed -n "s#^FAILED: $directory/##p" "$directory/log" | tr '\n' ' '); CUDA files are left out," \
      "CPU files stay as they last compiled; all of it in $directory/log" >&2
  }
  for room in "${rooms[@]}"; do
    if [ -f "cuda/ops/$room.cu" ] && [ ! -f "$directory/$variant/cuda/ops/$room.cu.o" ]; then
      echo "emulate.sh: $room: its CUDA file does not compile here" >&2
      exit 1
    fi
  done
  link=(-fsanitize=alignment)
  if [ $variant = asan ]; then link=(-fsanitize=address,alignment,bounds); fi
  objects=("$directory/$variant"/tests/emulator/{emulator,device,stand_ins}.cpp.o)
  if [ $selftest = yes ]; then
    objects+=("$directory/$variant/tests/emulator/selftest.cu.o")
    mapfile -t more < <(ls "$directory"/cpu/tensor/*.o)
  else
    mapfile -t more < <(
      for f in tensor/*.cpp tensor/ops/*.cpp autograd/*.cpp autograd/ops/*.cpp tests/support/*.cpp tests/ops/*.cpp tests/laws.cpp; do
        o="$directory/cpu/$f.o"; if [ -f "$o" ]; then echo "$o"; fi
      done
      for f in cuda/*.cu cuda/*/*.cu; do
        o="$directory/$variant/$f.o"; if [ -f "$o" ]; then echo "$o"; fi
      done)
  fi
  fast=()
  if command -v ld.lld > /dev/null; then fast=(-fuse-ld=lld); fi
  g++ "${link[@]}" "${fast[@]}" -o "$binary" "${objects[@]}" "${more[@]}" -Wl,--wrap=_ZN5taper6Device8allocateEm -lfmt -lxxhash -lopenblas -pthread
) 9> "$directory/lock"

export ASAN_OPTIONS=detect_leaks=0:${ASAN_OPTIONS-}
export TAPER_TEST_DEVICE=cuda:0
if [ $selftest = yes ]; then "$binary"; else "$binary" "${rooms[@]}"; fi
