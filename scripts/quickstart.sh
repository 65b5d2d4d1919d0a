#!/usr/bin/env bash
# Builds taper, trains a small Mamba-2 and the same with PoST on real text, and compares what they learned.
#
#   quickstart.sh [--corpus PATH] [--steps N] [--dir DIR]
#
#   --corpus PATH  any text: a file or a folder (default: this project's documentation and sources)
#   --steps N      training steps of each model (default: configs/small_mamba2.toml)
#   --dir DIR      where data and runs go (default: runs/quickstart, or the next number that is free)
set -euo pipefail
cd "$(dirname "$0")/.."

corpus=() steps= directory=
while [ $# -gt 0 ]; do
  case $1 in
    --corpus | --steps | --dir)
      [ $# -ge 2 ] || { echo "quickstart: $1 wants a value" >&2; exit 2; }
      case $1 in --corpus) corpus=("$2") ;; --steps) steps=$2 ;; --dir) directory=$2 ;; esac
      shift 2 ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart: no option $1; see --help" >&2; exit 2 ;;
  esac
done
if [ -z "$directory" ]; then
  directory=runs/quickstart
  for ((n = 2; ; ++n)); do
    [ -e "$directory" ] || break
    directory=runs/quickstart-$n
  done
elif [ -e "$directory" ]; then
  echo "quickstart: $directory exists; give another --dir, or remove it" >&2
  exit 73
fi
if [ ${#corpus[@]} = 0 ]; then
  mapfile -t corpus < <(find README.md docs tensor autograd nn cuda data apps tests scripts CMakeLists.txt -type f \
    \( -name '*.md' -o -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.py' -o -name '*.sh' \
    -o -name '*.toml' -o -name 'CMakeLists.txt' \) | LC_ALL=C sort)
elif [ ! -e "${corpus[0]}" ]; then
  echo "quickstart: no such text: ${corpus[0]}" >&2
  exit 66
fi

scripts/build.sh build taper
built=$SECONDS
taper=build/taper
data=$directory/data
models=(mamba2 mamba2_post)
numbers() { grep -o "\"$1\":[-0-9.e+]*" "$2" | cut -d: -f2; }  # the values of a key, in a file of JSON

echo
echo "== text into tokens"
mkdir -p "$directory"
"$taper" prepare "${corpus[@]}" --out "$data" --json > "$directory/prepare.json"
echo "training and held-out bytes: $(numbers bytes "$directory/prepare.json" | paste -sd ' ')"

for model in "${models[@]}"; do
  echo
  echo "== train $model"
  post=false
  [ "$model" = mamba2 ] || post=true
  "$taper" --json train configs/small_mamba2.toml --set run.dir="$directory/$model" --set model.post=$post \
    --set data.train="$data" --set data.validation="$data" ${steps:+--set train.steps="$steps"} > "$directory/$model.train.json"
done

length=$(sed -n 's/^sequence = //p' "$directory/mamba2/config.toml")
for model in "${models[@]}"; do
  "$taper" --json eval "$directory/$model" --length "$length" --length $((4 * length)) > "$directory/$model.eval.json"
  echo
  echo "== $model: what the heads learned (time constants in tokens, exponents of the taper)"
  "$taper" info "$directory/$model" | grep '^layer '
  echo
  echo "== $model: a sample"
  "$taper" generate "$directory/$model" --prompt "The " --tokens 300 --temperature 0.8 --seed 1
  echo
done

row() { printf '%-44s %12s %12s\n' "$@"; }
bits() { numbers bits_per_byte "$directory/$1.eval.json" | sed -n "$2p" | cut -c1-6; }
echo
row "" Mamba-2 "Mamba-2+PoST"
row "held-out bits per byte, windows of $length" "$(bits mamba2 1)" "$(bits mamba2_post 1)"
row "held-out bits per byte, windows of $((4 * length)) (4x)" "$(bits mamba2 2)" "$(bits mamba2_post 2)"
unigram=$(numbers unigram_bits_per_byte "$directory/prepare.json" | cut -c1-6)
row "unigram entropy of the bytes, to compare" "$unigram" "$unigram"
row "training tokens per second" $(for model in "${models[@]}"; do numbers tokens_per_second "$directory/$model.train.json" | cut -d. -f1; done)
"$taper" report "$directory/mamba2" "$directory/mamba2_post" -o "$directory/report.html" --title "Quickstart: Mamba-2 and Mamba-2 + PoST" > /dev/null
echo
echo "quickstart: done in $SECONDS s, $built of them building; the runs are in $directory"
echo "curves, spectra and all settings: open $directory/report.html in a browser"
