#!/usr/bin/env bash
# Builds taper, trains a small Mamba-2 and the same with PoST on real text, and compares what they learned.
#
#   quickstart.sh [--corpus PATH] [--steps N] [--dir DIR]
#
#   --corpus PATH  any text: a file or a folder (default: this project's documentation and sources)
#   --steps N      training steps of each model (default: configs/quickstart.toml)
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
  mapfile -t corpus < <(find README.md docs tensor autograd nn cuda data apps tests scripts configs CMakeLists.txt -type f \
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
field() { sed -n "s/.*\"$1\": *\([-0-9.e+]*\).*/\1/p" | head -1; }  # one number out of a JSON line

echo
echo "== text into tokens"
"$taper" prepare "${corpus[@]}" --out "$data"

lengths=(--set data.train="$data" --set data.validation="$data")
[ -z "$steps" ] || lengths+=(--set train.steps="$steps")
for model in mamba2 mamba2_post; do
  echo
  echo "== train $model"
  post=false
  [ "$model" = mamba2 ] || post=true
  "$taper" train configs/quickstart.toml --set run.dir="$directory/$model" --set model.post=$post "${lengths[@]}"
done
