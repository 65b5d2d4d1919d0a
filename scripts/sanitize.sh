#!/usr/bin/env bash
# Builds and runs the suite under a sanitizer: sanitize.sh address,undefined|thread [CTEST_OPTION...]
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1-} in
  address,undefined) directory=build-address ;;
  thread) directory=build-thread ;;
  *) echo "usage: sanitize.sh address,undefined|thread [CTEST_OPTION...]" >&2; exit 2 ;;
esac
sanitizer=$1
shift

scripts/build.sh "$directory" all -DTAPER_SANITIZE="$sanitizer" -DTAPER_CUDA=OFF
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
# GCC 12's thread sanitizer wants the old address layout, which newer kernels randomise away.
run=()
if [ "$sanitizer" = thread ] && setarch -R true 2> /dev/null; then run=(setarch -R); fi
"${run[@]}" ctest --test-dir "$directory" -j "$(nproc)" --output-on-failure --no-tests=error --timeout 3000 "$@"
echo "sanitize.sh: $sanitizer: clean, in $SECONDS s"
