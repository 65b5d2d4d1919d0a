#!/usr/bin/env bash
# Proves that a kill loses nothing: kill_test.sh [--kills N] [--seed S] [--dir DIR] [--binary TAPER] [TRAIN_OPTION...]
#
# Trains 200 steps without a break, then again with N (20) kill -9 at random moments, resuming each time, and compares
# the final weights, metrics.jsonl and spectra.jsonl byte for byte. Moments are drawn from the seed S, over the length of the first run.
set -euo pipefail
cd "$(dirname "$0")/.."
kills=20 seed=1 directory= binary=build/taper
while [ $# -gt 0 ]; do
  case $1 in
    --kills) kills=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --dir) directory=$2; shift 2 ;;
    --binary) binary=$2; shift 2 ;;
    *) break ;;
  esac
done
if [ -z "$directory" ]; then
  directory=$(mktemp -d /tmp/kill_test.XXXXXX)
  trap 'rm -rf "$directory"' EXIT
fi
mkdir -p "$directory"
[ -x "$binary" ] || { scripts/build.sh build taper; binary=build/taper; }

[ -e "$directory/data" ] || "$binary" prepare docs README.md tensor/ops --out "$directory/data" > /dev/null
command=("$binary" train configs/small_mamba2.toml --set run.device=cpu
  --set data.train="$directory/data" --set data.validation="$directory/data" --set data.sequence=64
  --set model.post=true --set model.d_model=32 --set model.layers=2 --set model.heads=4 --set model.head_dim=16
  --set model.d_state=16 --set train.steps=200 --set train.batch=4 --set checkpoint.every=7 --set eval.every=50
  --set eval.tokens=2048 --set log.every=1 "$@")

rm -rf "$directory/whole"
started=$(date +%s%N)
"${command[@]}" --set run.dir="$directory/whole" > "$directory/whole.log" 2>&1 || { tail -5 "$directory/whole.log" >&2; exit 1; }
length_ms=$((($(date +%s%N) - started) / 1000000))
echo "kill_test: 200 steps without a break: $length_ms ms"

RANDOM=$seed
done_kills=0 round=0
while [ "$done_kills" -lt "$kills" ]; do
  round=$((round + 1))
  run=$directory/killed-$round
  rm -rf "$run"
  while :; do
    "${command[@]}" --set run.dir="$run" --resume >> "$directory/killed.log" 2>&1 &
    process=$!
    # Twice a fair share of the run, so that most kills land while it works; the rest goes to another round.
    delay=$((RANDOM * 2 * length_ms / (32768 * (kills + 1)) + RANDOM % 50))
    [ "$done_kills" -lt "$kills" ] || delay=
    if [ -n "$delay" ]; then
      sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
      if kill -9 "$process" 2> /dev/null; then
        wait "$process" 2> /dev/null || true
        done_kills=$((done_kills + 1))
        continue
      fi
    fi
    wait "$process" || { echo "kill_test: resuming failed" >&2; tail -5 "$directory/killed.log" >&2; exit 1; }
    break
  done
  for file in metrics.jsonl spectra.jsonl checkpoints/step-000200/model.safetensors; do
    cmp "$directory/whole/$file" "$run/$file" ||
      { echo "kill_test: FAILED: $file differs after $done_kills kills (seed $seed, $run)" >&2; trap - EXIT; exit 1; }
  done
done
echo "kill_test: $done_kills kills in $round runs; weights, metrics and spectra equal byte for byte"
