#!/usr/bin/env bash
# Runs a command on a bare machine: a fresh Debian or Ubuntu base system in a directory, this repository's HEAD copied in.
#
#   clean_machine.sh [--dir DIR] [--keep] [--mirror URL] [bookworm|noble] [COMMAND...]
#
#   --dir DIR     where the system goes (default: a new directory under /tmp); one that is there is used again
#   --keep        leaves the directory in place (an existing --dir always stays)
#   --mirror URL  the package mirror (default: the one this machine's apt uses for that distribution)
#   COMMAND       run by sh in the repository (default: scripts/test.sh && scripts/quickstart.sh)
#
# Wants root and debootstrap. The mirror, proxy and certificate settings of this machine's apt go along.
set -euo pipefail
cd "$(dirname "$0")/.."

directory= keep=no mirror=
while [ $# -gt 0 ]; do
  case $1 in
    --dir) directory=$2; shift 2 ;;
    --keep) keep=yes; shift ;;
    --mirror) mirror=$2; shift 2 ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "clean_machine: no option $1; see --help" >&2; exit 2 ;;
    *) break ;;
  esac
done
suite=${1:-bookworm}
[ $# -eq 0 ] || shift
case $suite in
  bookworm) distribution=debian components=main ;;
  noble) distribution=ubuntu components=main,universe ;;
  *) echo "clean_machine: the system must be bookworm or noble; got $suite" >&2; exit 2 ;;
esac
command=${*:-scripts/test.sh && scripts/quickstart.sh}

[ "$(id -u)" = 0 ] || { echo "clean_machine: wants root" >&2; exit 1; }
command -v debootstrap > /dev/null || { echo "clean_machine: wants debootstrap; apt-get install debootstrap" >&2; exit 1; }
if [ -z "$mirror" ]; then
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep "/$distribution/\?$" | head -1) ||
    { echo "clean_machine: this machine's apt knows no $distribution mirror; give --mirror URL" >&2; exit 1; }
fi

if [ -z "$directory" ]; then
  directory=$(mktemp -d /tmp/clean_machine.XXXXXX)
  fresh=yes
else
  [ -e "$directory" ] && fresh=no || fresh=yes
  mkdir -p "$directory"
fi
# Mounts live in the namespace of the command alone, so nothing of this machine hangs below the directory here.
cleanup() { if [ "$keep" = no ] && [ "$fresh" = yes ]; then rm -rf --one-file-system "$directory"; fi; }
trap cleanup EXIT

if [ ! -x "$directory/usr/bin/apt-get" ]; then
  echo "clean_machine: $suite into $directory"
  # debootstrap before noble's time knows its older sisters, which are installed in the same way.
  script=/usr/share/debootstrap/scripts/$suite
  if [ ! -e "$script" ] && [ "$distribution" = ubuntu ]; then script=/usr/share/debootstrap/scripts/jammy; fi
  debootstrap --variant=minbase --components="$components" --include=ca-certificates,git "$suite" "$directory" "$mirror" "$script" \
    > "$directory.log" 2>&1 || { tail -20 "$directory.log" >&2; exit 1; }
  rm -f "$directory.log"
fi
for component in ${components//,/ }; do echo "deb $mirror $suite $component"; done > "$directory/etc/apt/sources.list"
apt-config dump | grep -E '^Acquire::(http|https|Check|Retries)' | grep -v '"";$' > "$directory/etc/apt/apt.conf.d/90machine" || true
for file in /etc/resolv.conf /etc/hosts; do
  [ ! -e "$file" ] || cp -L "$file" "$directory$file"
done
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
  mkdir -p "$directory/etc/ssl/certs"
  cp /etc/ssl/certs/ca-certificates.crt "$directory/etc/ssl/certs/ca-certificates.crt"
fi

rm -rf "$directory/srv/taper"
mkdir -p "$directory/srv/taper"
git archive HEAD | tar -x -C "$directory/srv/taper"

echo "clean_machine: $suite: $command"
started=$SECONDS
inside="cd /srv/taper && $command"
set +e
unshare --mount bash -c '
  mount -t proc proc "$0/proc" 2> /dev/null || echo "clean_machine: no /proc inside"
  mount -t tmpfs tmpfs "$0/dev/shm" 2> /dev/null
  exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb \
    ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
    chroot "$0" sh -c "$1"' "$directory" "$inside"
status=$?
echo "clean_machine: $suite: exit $status after $((SECONDS - started)) s"
exit $status
