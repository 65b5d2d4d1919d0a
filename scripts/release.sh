#!/usr/bin/env bash
# Builds the program for machines that are not this one: release.sh [DIR] [CMAKE_OPTION...]. Kernels for A100 (sm_80), RTX 30
# (sm_86), RTX 40 and L4 (sm_89), H100 (sm_90a), and PTX, which a driver compiles for cards that came later.
set -euo pipefail
cd "$(dirname "$0")/.."
directory=${1:-build-release}
shift $(($# > 0))
scripts/build.sh "$directory" taper -DTAPER_CUDA=ON -DTAPER_STATIC=ON -DTAPER_TESTS=OFF \
  "-DCMAKE_CUDA_ARCHITECTURES=80-real;86-real;89-real;90a-real;80-virtual" "$@"
echo "release.sh: $directory/taper"
