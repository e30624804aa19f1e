#!/bin/sh
# Installs Debian packages where that is possible without asking: apt is there, and we are root or sudo needs no password.
# Exits 1 with one sentence that names the packages otherwise.
set -eu

missing=$*
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
  echo "Missing on this machine: $missing (there is no apt-get here; install what these are called on your system)." >&2
  exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
  if ! sudo -n true 2>/dev/null; then
    echo "Missing on this machine: $missing. Install them with: sudo apt-get install $missing" >&2
    exit 1
  fi
  as_root="sudo -n"
fi
echo "Installing system packages: $missing"
# An index that is too old names files that are gone; one refresh, only when the first try fails.
install() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing </dev/null >/dev/null; }
install 2>/dev/null || { $as_root apt-get update -qq </dev/null >/dev/null && install; } || {
  echo "apt-get could not install: $missing" >&2
  exit 1
}
