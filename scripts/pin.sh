#!/bin/sh
# Writes requirements/constraints-3.X.txt for the Python it is given: what a fresh resolution installs today.
#
#   scripts/pin.sh python3.11                 everything anew
#   scripts/pin.sh python3.11 'scanpy<1.12'   anew, with a bound of your own
#
# torch stays where it is: it is named by hand below, because its newest build is not always the one to run.
# Run `make test` with the new list before you commit it; a list stands for a Python that the checks have run on.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$here"
python=${1:?which Python? For example: scripts/pin.sh python3.11}
shift
minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
pip() { "$scratch/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet uv hatchling editables 'torch==2.13.0' "$@"
pip install --quiet --no-build-isolation -e '.[lab,science,server,test,dev]' "$@"
{
  echo "# What make installs on Python $minor. Made by scripts/pin.sh; run make test before committing a new one."
  pip freeze --exclude-editable | sed 's/+cpu$//'
} >"$scratch/list"
mv "$scratch/list" "requirements/constraints-$minor.txt"
