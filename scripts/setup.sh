#!/bin/sh
# Makes .venv and installs the pinned packages into it, from git, make and Python alone.
#
#   scripts/setup.sh base     what `make demo` needs
#   scripts/setup.sh lab      and JupyterLab
#   scripts/setup.sh all      and what the checks need
#
# A second call costs nothing until pyproject.toml, the pins or the interpreter change.
# PYTHON=/path/to/python chooses the interpreter; SCFM_VENV=/path another place than .venv.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$here"
venv=${SCFM_VENV:-.venv}
kind=${1:-all}
case $kind in
  base) extras="" ;;
  lab) extras="[lab]" ;;
  all) extras="[lab,science,server,test,dev]" ;;
  *) echo "scripts/setup.sh: unknown kind '$kind': base, lab or all" >&2; exit 2 ;;
esac

say() { printf '%s\n' "$*"; }
fail() { printf 'make: %s\n' "$*" >&2; exit 1; }

# "3.12" for an interpreter that starts and is new enough, nothing for any other.
minor_of() {
  "$1" -c 'import sys; sys.version_info >= (3, 11) and print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# Debian and Ubuntu leave out of python3 what makes a virtual environment.
can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# Takes the newest Python whose pins are in requirements/, else the newest that is new enough.
choose_python() {
  python=""; fallback=""; lacking=""
  for candidate in ${PYTHON:-python3.15 python3.14 python3.13 python3.12 python3.11 python3 python}; do
    minor=$(minor_of "$candidate")
    [ -n "$minor" ] || continue
    if ! can_make_venv "$candidate"; then lacking=${lacking:-$candidate}; continue; fi
    if [ -f "requirements/constraints-$minor.txt" ]; then python=$candidate; return; fi
    fallback=${fallback:-$candidate}
  done
  python=$fallback
}

choose_python
if [ -z "$python" ] && [ -n "$lacking" ]; then
  say "$lacking cannot make a virtual environment yet: installing the package for it."
  sh scripts/system-packages.sh "python$(minor_of "$lacking")-venv" || true
  choose_python
  [ -n "$python" ] || fail "$lacking cannot make a virtual environment. On Debian or Ubuntu: sudo apt-get install python3-venv"
fi
if [ -z "$python" ]; then
  [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON does not start or is older than 3.11; name one that is 3.11 or newer."
  fail "no Python 3.11 or newer was found on the PATH. Install one, or name it: make demo PYTHON=/path/to/python3"
fi

minor=$(minor_of "$python")
constraints="requirements/constraints-$minor.txt"
if [ ! -f "$constraints" ]; then
  # The nearest older list: a pin in it has most often a build for the next Python too.
  constraints=$(for list in requirements/constraints-3.*.txt; do say "$list"; done | sort -t. -k2 -n | tail -n 1)
  say "Python $minor has no pinned list of its own yet; using $constraints. If a package is refused, use Python ${constraints##*constraints-}" | sed 's/\.txt$/./'
fi

# One number for all that decides what is installed.
wanted=$({ "$python" -c 'import sys; print(sys.version, sys.prefix)'; cat pyproject.toml "$constraints" scripts/setup.sh; } | cksum)
done_for() { [ -f "$venv/.installed-$1" ] && [ "$(cat "$venv/.installed-$1")" = "$wanted" ]; }
for larger in "$kind" all; do
  if done_for "$larger"; then exit 0; fi
done
if [ "$kind" = base ] && done_for lab; then exit 0; fi

if [ ! -x "$venv/bin/python" ] || [ "$(minor_of "$venv/bin/python")" != "$minor" ]; then
  say "Making $venv with Python $minor."
  "$python" -m venv --clear "$venv"
fi
say "Installing the pinned packages into $venv (the first time: a minute or more, about 2 GB)."
quiet=""
[ -t 1 ] || quiet="--quiet"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
# A pip of before 2025 takes minutes to find out what belongs together. The build back end comes from the pins too, which
# build isolation would pass over. PyTorch comes by pip, which finds the builds that a machine's owner has laid out for it.
pip install $quiet -c "$constraints" --no-compile "pip>=25" uv hatchling editables torch
# uv takes seconds for what takes pip minutes. It does not read pip's settings: where it gets nothing, pip does it.
index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(pip config get global.index-url 2>/dev/null || true)}}
[ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
export UV_PYTHON="$venv/bin/python"
everything() { "$UV_PYTHON" -m "$@" install $quiet -c "$constraints" --no-build-isolation -e ".$extras"; }
everything uv pip || { say "uv could not install the packages: pip does."; everything pip --disable-pip-version-check; }
say "$wanted" >"$venv/.installed-$kind"
