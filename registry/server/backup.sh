#!/bin/sh
# Backs the registry up: its database (people included) and all files, with hashes.
#
#   DATABASE   address of the database (libpq's; MLflow's postgresql+psycopg:// is understood too)
#   ARTIFACTS  folder of files
#   BACKUPS    folder of backups; each is a folder of its own, named by its time
#   KEEP       how many to keep [14]
set -eu

fail() { echo "backup: $*" >&2; exit 1; }
[ -n "${DATABASE:-}" ] || fail "set DATABASE to the database's address, such as postgresql:///scfm-registry."
[ -d "${ARTIFACTS:-}" ] || fail "set ARTIFACTS to the folder of files; '${ARTIFACTS:-}' is none."
[ -n "${BACKUPS:-}" ] || fail "set BACKUPS to the folder where backups go."
keep=${KEEP:-14}
case $keep in *[!0-9]* | "" | 0) fail "KEEP is '$keep'; it is a number from 1." ;; esac
command -v pg_dump >/dev/null || fail "pg_dump is not installed; install postgresql-client."

umask 077
mkdir -p "$BACKUPS"
backups=$(CDPATH='' cd -- "$BACKUPS" && pwd)
artifacts=$(CDPATH='' cd -- "$ARTIFACTS" && pwd)
case $backups/ in "$artifacts"/*) fail "BACKUPS lies in ARTIFACTS; each backup would hold all before it." ;; esac
name=$(date -u +%Y%m%dT%H%M%SZ)
[ ! -e "$backups/$name" ] || fail "$backups/$name is there already; try again in a second."
last=$(find "$backups" -mindepth 1 -maxdepth 1 -type d -name '[0-9]*Z' | sort | tail -n 1)
unfinished=$backups/$name.unfinished
# Nothing that is cut off looks like a backup.
trap 'rm -rf "$unfinished"' EXIT
trap 'exit 1' INT TERM HUP
mkdir "$unfinished" "$unfinished/artifacts"

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

# The database first: what it refers to was stored before it.
pg_dump --dbname="$address" --format=custom --no-owner --no-privileges --file="$unfinished/database.dump"

if command -v rsync >/dev/null; then
  rsync --archive ${last:+--link-dest="$last/artifacts"} "$artifacts/" "$unfinished/artifacts/"
elif [ -n "$last" ] && ln "$last/SHA256SUMS" "$unfinished/linked" 2>/dev/null; then
  # What rsync does, where it is not (PostgreSQL's image has none): all of the last backup, linked, then what is other now.
  # Where a disk knows no links all is copied, below. A copy that fails ends it: a backup is whole, or is none.
  rm "$unfinished/linked"
  cp -al "$last/artifacts/." "$unfinished/artifacts/"
  (cd "$unfinished/artifacts" && find . -mindepth 1 -depth -exec sh -c '
    for old; do
      if [ -d "$old" ] && [ ! -h "$old" ]; then
        [ -d "$0/$old" ] || rmdir "$old" || exit 1
      elif [ ! -f "$0/$old" ]; then
        rm -f "$old" || exit 1
      fi
    done' "$artifacts" {} +)
  (cd "$artifacts" && find . -type d -exec sh -c 'for now; do mkdir -p "$0/$now" || exit 1; done' "$unfinished/artifacts" {} +)
  # A link is replaced, and not written into: the last backup stays as it is.
  (cd "$artifacts" && find . -type f -exec sh -c '
    for now; do
      old=$0/$now
      [ -f "$old" ] && [ ! "$now" -nt "$old" ] && [ ! "$now" -ot "$old" ] \
        && [ "$(stat -c %s "$now")" = "$(stat -c %s "$old")" ] || cp -p --remove-destination "$now" "$old" || exit 1
    done' "$unfinished/artifacts" {} +)
else
  cp -Rp "$artifacts/." "$unfinished/artifacts/"
fi

(cd "$unfinished" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
sync
mv "$unfinished" "$backups/$name"

find "$backups" -mindepth 1 -maxdepth 1 -type d -name '[0-9]*Z' | sort -r | tail -n "+$((keep + 1))" | while read -r old; do
  rm -rf "$old"
done
echo "$backups/$name"
