#!/usr/bin/env bash
# Times every scan, the head's loss, the matmul ladder and a training step of each architecture on the GPU, and appends the records to
# bench/records/<device>/. bench_gpu.sh [--build DIR] [--commit HASH]; README's tables: scripts/bench_tables.py; peers beside them: scripts/bench_peers.py
set -euo pipefail
cd "$(dirname "$0")/.."
build=build-cuda commit=$(git rev-parse --short HEAD 2> /dev/null || echo unknown)
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --commit) commit=$2; shift 2 ;;
    *) echo "bench_gpu.sh: no option '$1'; --build DIR, --commit HASH" >&2; exit 2 ;;
  esac
done
if ! nvidia-smi -L > /dev/null 2>&1; then
  echo "bench_gpu.sh: skipped: no GPU answers here"
  exit 0
fi
for program in taper taper_levels; do
  if [ ! -x "$build/$program" ]; then scripts/build.sh "$build" $program -DTAPER_CUDA=ON; fi
done
device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr ' ' '_')
records=bench/records/$device
mkdir -p "$records"
for op in ssd_scan delta_scan dplr_scan gla_scan linear_cross_entropy matmul rms_norm gated_rms_norm causal_conv1d token_mix; do
  "$build/taper" bench --op $op --device cuda:0 --dtype bf16 --seconds 0.3 --record "$records/$op.jsonl" --commit "$commit"
done
for arch in mamba2 mamba2_post gdn gdn_post rwkv7 rwkv7_post gla gla_post retnet retnet_post; do
  "$build/taper" bench --model ${arch}_180m --vocab 128256 --batch 8 --seq 2048 --device cuda:0 --dtype bf16 --seconds 1 \
    --record "$records/model.jsonl" --commit "$commit"
done
"$build/taper_levels" --seconds 120 --record "$records/levels.jsonl" --commit "$commit"
