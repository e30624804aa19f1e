#!/bin/sh
# Makes the passwords that compose.yaml reads, once; what is there stays. They never leave this folder.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
make() {
  if [ -s "secrets/$1" ]; then echo "secrets/$1 is there and stays."; return; fi
  printf '%s\n' "$2" >"secrets/$1"
  # The folder is closed to others; the container's user, another one, has to read the file.
  chmod 444 "secrets/$1"
  echo "Made secrets/$1."
}
make database-password "$(random)"
make database-address "postgresql://scfm:$(cat secrets/database-password)@database/registry"
make admin-password "$(random)"
echo "The admin's password is in secrets/admin-password."
