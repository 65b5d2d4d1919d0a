#!/usr/bin/env bash
# Holds every room to the laws on the GPU, runs the tests of whole models, of recorded steps and of decoding there, then
# compute-sanitizer's four tools on small shapes, rooms side by side. Leaves a record with the commit in
# bench/records/<device>/tests.jsonl.
# test_gpu.sh [--build DIR] [--jobs N] [--rooms "ROOM ..."] [--huge] [--no-models] [--no-sanitizer]     --rooms: those, and no models
set -euo pipefail
cd "$(dirname "$0")/.."
build=build-cuda jobs=$(nproc) huge= models=1 sanitize=1
rooms=$(cd tests/ops && ls *.cpp | sed 's/\.cpp$//')
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --jobs) jobs=$2; shift 2 ;;
    --rooms) rooms=$2 models=; shift 2 ;;
    --huge) huge=1; shift ;;
    --no-models) models=; shift ;;
    --no-sanitizer) sanitize=; shift ;;
    *) echo "test_gpu.sh: no option '$1'; --build DIR, --jobs N, --rooms \"ROOM ...\", --huge, --no-models, --no-sanitizer" >&2; exit 2 ;;
  esac
done
if ! nvidia-smi -L > /dev/null 2>&1; then
  echo "test_gpu.sh: skipped: no GPU answers here"
  exit 0
fi
# What else asks TAPER_TEST_DEVICE: layer/file of tests/.
tests=${models:+tensor/upload tensor/graph nn/gpu nn/decoder apps/trainer}
for program in taper_laws ${models:+taper_test_tensor taper_test_nn taper_test_apps}; do
  if [ ! -x "$build/$program" ]; then scripts/build.sh "$build" "$program" -DTAPER_CUDA=ON; fi
done
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [ -n "$sanitize" ] && [ ! -x "$sanitizer" ]; then
  echo "test_gpu.sh: compute-sanitizer is missing; it comes with the CUDA toolkit; --no-sanitizer does without" >&2
  exit 1
fi

device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr ' ' '_')
commit=${TAPER_COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}
records=bench/records/$device/tests.jsonl
mkdir -p "$(dirname "$records")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TAPER_TEST_DEVICE=cuda:0 TAPER_THREADS=${TAPER_THREADS:-2} build commit work sanitizer

# side_by_side NAME SHELL_CODE: the code for each room ($1), its output in $work/NAME.ROOM, the rooms that failed to stdout.
side_by_side() {
  export code=$2 name=$1
  echo "$rooms" | tr -s ' \n' '\n' | xargs -P "$jobs" -I{} bash -c \
    'set -- {}; eval "$code" > "$work/$name.$1" 2>&1 || echo "$1"'
}
failed=0
report() {  # report NAME FAILED_ROOMS WHAT
  if [ -z "$2" ]; then echo "test_gpu.sh: $3: ok"; return; fi
  failed=1
  for room in $2; do echo "test_gpu.sh: $3: $room FAILED"; tail -20 "$work/$1.$room"; done
}
bad=$(side_by_side laws '"$build/taper_laws" --records "$work/records.$1" --commit "$commit" "$1"')
report laws "$bad" "laws"
if [ -n "$huge" ]; then  # one at a time: a case takes a good part of the memory
  bad=$(jobs=1 side_by_side huge '"$build/taper_laws" --law huge --records "$work/records.$1.huge" --commit "$commit" "$1"')
  report huge "$bad" "more than 2^31 elements"
fi
cat "$work"/records.* >> "$records"
for test in $tests; do
  log=$work/test.${test//\//.} fault=
  "$build/taper_test_${test%/*}" --source-file="*/${test#*/}_test.cpp" > "$log" 2>&1 || fault=$test
  if [ -n "$fault" ]; then failed=1 && echo "test_gpu.sh: $test: FAILED" && tail -40 "$log"; else echo "test_gpu.sh: $test: ok"; fi
  echo "{\"commit\":\"$commit\",\"device\":\"$device\",\"test\":\"$test\",\"failed\":\"$fault\"}" >> "$records"
done

if [ -n "$sanitize" ]; then
  for tool in memcheck racecheck initcheck synccheck; do
    export tool
    # The poison law reads what nobody wrote on purpose: initcheck is run without it.
    bad=$(side_by_side "$tool" '"$sanitizer" --tool "$tool" --error-exitcode 9 "$build/taper_laws" --law definition --law bf16 --examples 2 "$1"')
    report "$tool" "$bad" "$tool"
    echo "{\"commit\":\"$commit\",\"device\":\"$device\",\"sanitizer\":\"$tool\",\"rooms\":$(echo $rooms | wc -w),\"failed\":\"$(echo $bad)\"}" >> "$records"
  done
fi
[ $failed = 0 ] && echo "test_gpu.sh: all laws hold on $device${models:+, models train and decode as on the CPU}${sanitize:+ and the sanitizer found nothing}; $SECONDS s"
exit $failed
