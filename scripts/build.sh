#!/usr/bin/env bash
# Configures and builds: build.sh DIR TARGET [CMAKE_OPTION...]; with CUDA only where a GPU answers or an option says so.
set -euo pipefail
cd "$(dirname "$0")/.."
directory=$1 target=$2
shift 2

scripts/install.sh
cuda=OFF
if nvidia-smi -L > /dev/null 2>&1; then cuda=AUTO; fi
if [ -x /usr/local/cuda/bin/nvcc ]; then PATH=$PATH:/usr/local/cuda/bin; fi
launcher=()
if command -v ccache > /dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi

echo "build: $directory, target $target"
cmake -S . -B "$directory" -G Ninja -DTAPER_CUDA="$cuda" "${launcher[@]}" "$@" > "$directory.log" 2>&1 ||
  { cat "$directory.log" >&2; exit 1; }
rm "$directory.log"
cmake --build "$directory" --target "$target" -j "$(nproc)"
