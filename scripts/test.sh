#!/usr/bin/env bash
# Installs what is missing, builds, and runs check.py and every test; the last line is the verdict.
set -euo pipefail
cd "$(dirname "$0")/.."
stage=install
trap '[ $? = 0 ] || echo "test.sh: FAILED at: $stage"' EXIT

scripts/install.sh
stage=check.py
python3 scripts/check.py .
stage=build
scripts/build.sh build all
stage=tests
ctest --test-dir build -j "$(nproc)" --output-on-failure --no-tests=error
echo "test.sh: all $(ctest --test-dir build -N | sed -n 's/^Total Tests: //p') tests passed in $SECONDS s"
