#!/bin/sh
# Restores the registry from a backup that backup.sh made. Stop the server first.
#
#   restore.sh FOLDER
#
#   DATABASE   address of the database; its tables are replaced, in one transaction
#   ARTIFACTS  folder of files; files that are not in the backup stay
set -eu

fail() { echo "restore: $*" >&2; exit 1; }
[ $# -eq 1 ] || fail "which backup? For example: restore.sh /backup/registry/20260101T030000Z"
[ -n "${DATABASE:-}" ] || fail "set DATABASE to the database's address, such as postgresql:///scfm-registry."
[ -n "${ARTIFACTS:-}" ] || fail "set ARTIFACTS to the folder of files."
backup=$(CDPATH='' cd -- "$1" 2>/dev/null && pwd) || fail "there is no folder $1."
case $backup in *.unfinished) fail "$backup was never finished; take another." ;; esac
[ -f "$backup/SHA256SUMS" ] && [ -f "$backup/database.dump" ] || fail "$backup is no backup: it has no SHA256SUMS or no database.dump."
command -v pg_restore >/dev/null || fail "pg_restore is not installed; install postgresql-client."

# Every hash first, and no file more or less than they say: nothing is changed for a damaged backup.
(cd "$backup" && sha256sum --check --quiet --strict SHA256SUMS) || fail "the backup $backup is damaged; nothing was changed."
listed=$(wc -l <"$backup/SHA256SUMS")
there=$(cd "$backup" && find . -type f ! -name SHA256SUMS | wc -l)
[ "$listed" -eq "$there" ] || fail "$backup holds $there files and lists $listed; nothing was changed."

umask 077
mkdir -p "$ARTIFACTS"
# Files first, as when they were registered: the database never refers to what is not there.
if command -v rsync >/dev/null; then
  rsync --archive --checksum "$backup/artifacts/" "$ARTIFACTS/"
else
  cp -Rp "$backup/artifacts/." "$ARTIFACTS/"
fi

# PostgreSQL's programs take an address from its command line only, which every process can read; so the password goes by the environment.
address=$(printf '%s' "$DATABASE" | sed 's|^postgres[a-z]*+[a-z0-9]*://|postgresql://|')
password=$(printf '%s\n' "$address" | LC_ALL=C sed -n 's|^[a-z]*://[^/@:]*:\([^/@]*\)@.*|\1|p' | LC_ALL=C awk '
  BEGIN { for (i = 0; i < 256; i++) letter[sprintf("%02x", i)] = sprintf("%c", i) }
  { out = ""
    while (match($0, /%[0-9A-Fa-f][0-9A-Fa-f]/)) {
      out = out substr($0, 1, RSTART - 1) letter[tolower(substr($0, RSTART + 1, 2))]
      $0 = substr($0, RSTART + 3)
    }
    print out $0 }')
if [ -n "$password" ]; then
  PGPASSWORD=$password
  export PGPASSWORD
  address=$(printf '%s' "$address" | sed 's|^\([a-z]*://[^/@:]*\):[^/@]*@|\1@|')
fi
pg_restore --dbname="$address" --single-transaction --exit-on-error --clean --if-exists --no-owner --no-privileges \
  "$backup/database.dump"

echo "Restored from $backup. Start the server, then: scfm-lab registry check ADDRESS --files"
