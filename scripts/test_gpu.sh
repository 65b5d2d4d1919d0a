#!/usr/bin/env bash
# Holds every room to the laws on the GPU, then runs compute-sanitizer's four tools on small shapes. Leaves a record with the
# commit in bench/records/<device>/tests.jsonl. test_gpu.sh [--build DIR] [--sanitizer-rooms "ROOM ..."] [--huge]
set -euo pipefail
cd "$(dirname "$0")/.."
build=build-cuda rooms= huge=
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --sanitizer-rooms) rooms=$2; shift 2 ;;
    --huge) huge=1; shift ;;
    *) echo "test_gpu.sh: no option '$1'; --build DIR, --sanitizer-rooms \"ROOM ...\", --huge" >&2; exit 2 ;;
  esac
done
if ! nvidia-smi -L > /dev/null 2>&1; then
  echo "test_gpu.sh: skipped: no GPU answers here"
  exit 0
fi
if [ ! -x "$build/taper_laws" ]; then scripts/build.sh "$build" taper_laws -DTAPER_CUDA=ON; fi

device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr ' ' '_')
commit=$(git rev-parse --short HEAD 2> /dev/null || echo "${TAPER_COMMIT:-unknown}")
records=bench/records/$device/tests.jsonl
mkdir -p "$(dirname "$records")"
export TAPER_TEST_DEVICE=cuda:0
laws() { "$build/taper_laws" --records "$records" --commit "$commit" "$@"; }

failed=0
laws || failed=1
if [ -n "$huge" ]; then laws --law huge || failed=1; fi

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
if [ ! -x "$sanitizer" ]; then
  echo "test_gpu.sh: compute-sanitizer is missing; it comes with the CUDA toolkit" >&2
  exit 1
fi
for tool in memcheck racecheck initcheck synccheck; do
  # The poison law reads what nobody wrote on purpose: initcheck is run without it.
  if "$sanitizer" --tool $tool --error-exitcode 9 "$build/taper_laws" --law definition --law bf16 --examples 3 $rooms > sanitizer.log 2>&1; then
    result=ok
  else
    result=failed failed=1
    tail -40 sanitizer.log
  fi
  echo "test_gpu.sh: $tool: $result, $(grep -o 'ERROR SUMMARY: .*\|RACECHECK SUMMARY: .*' sanitizer.log | tail -1)"
  echo "{\"commit\":\"$commit\",\"device\":\"$device\",\"sanitizer\":\"$tool\",\"result\":\"$result\"}" >> "$records"
  rm -f sanitizer.log
done
[ $failed = 0 ] && echo "test_gpu.sh: all laws hold on $device and the sanitizer found nothing; $SECONDS s"
exit $failed
