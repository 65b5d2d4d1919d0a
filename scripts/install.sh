#!/usr/bin/env bash
# Installs what taper is built with (scripts/packages.txt), where it is missing; asks for nothing that is there.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
while read -r package; do
  case $package in
    '#'* | '') continue ;;
    ninja-build) command=ninja ;;
    g++ | cmake | python3) command=$package ;;
    *) command= ;;
  esac
  if [ -n "$command" ] && command -v "$command" > /dev/null; then continue; fi
  if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2> /dev/null)" = installed ]; then continue; fi
  missing+=("$package")
done < scripts/packages.txt
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get > /dev/null; then
  echo "install: no apt-get here; the Debian names of what may be missing: ${missing[*]}" >&2
  exit 0  # CMake looks for the libraries themselves and names the first it lacks
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo > /dev/null; then
    echo "install: neither root nor sudo; as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "install: ${missing[*]}"
quiet=(-qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
"${as_root[@]}" apt-get "${quiet[@]}" update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "${quiet[@]}" install -y --no-install-recommends \
  "${missing[@]}" > /dev/null
