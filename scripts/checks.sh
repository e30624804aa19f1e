#!/bin/sh
# Every check, in the order of what fails fastest; all of them run, and the exit status tells whether all passed.
# `make test` calls it after set-up. Arguments go to pytest.
set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$here" || exit 1
venv=${SCFM_VENV:-.venv}
case $venv in /*) ;; *) venv=$here/$venv ;; esac
PATH=$venv/bin:$PATH
export PATH
# Where it is set, each of the hundreds of processes that the tests start compiles what it imports anew.
unset PYTHONDONTWRITEBYTECODE
failed=""

section() { printf '\n── %s ──\n' "$1"; }
# run NAME COMMAND...
run() {
  name=$1; shift
  section "$name"
  "$@" </dev/null || failed="$failed $name,"
}

has_browser() {
  for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null 2>&1; then return 0; fi
  done
  [ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ] || [ -n "${SCFM_CHROMIUM:-}" ]
}

section "system packages for the browser tests"
if has_browser; then
  echo "A Chromium is there."
else
  sh scripts/system-packages.sh chromium fonts-dejavu-core || echo "The browser tests will be skipped."
fi

has_postgres() {
  command -v initdb >/dev/null 2>&1 && return 0
  for initdb in /usr/lib/postgresql/*/bin/initdb; do
    if [ -x "$initdb" ]; then return 0; fi
  done
  return 1
}

section "system packages for the registry's server"
if has_postgres; then
  echo "A PostgreSQL is there."
else
  sh scripts/system-packages.sh postgresql || echo "The tests on PostgreSQL will be skipped."
fi

run "style (ruff)" sh -c 'ruff check . && ruff format --check .'
run "import contracts (import-linter)" lint-imports
# Types take one core for two minutes: they are checked beside the front end and the first tests.
types=$(mktemp)
mypy </dev/null >"$types" 2>&1 &
typing=$!

section "front end (Node)"
if command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1; then
  run "front end: packages" npm --prefix widgets ci --no-audit --no-fund --loglevel=error
  if [ -x widgets/node_modules/.bin/vitest ]; then
    run "front end: style and types" npm --prefix widgets run --silent lint
    run "front end: unit tests" npm --prefix widgets test --silent
    run "front end: the bundle in git equals a fresh build" npm --prefix widgets run --silent check
  fi
else
  echo "Node and npm are not on this machine: the front end's own tests and the check of its bundle are left out."
fi

# Most tests run side by side, one thread each, which is what uses all cores. What drives a browser or notices how busy
# the machine is has it to itself afterwards. pytest comes last, so that its closing line is the one that closes the run.
alone="browser or alone"
workers=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
[ "$workers" -le 8 ] || workers=8
# What is marked thorough says the same at length, and has a run of its own before a release (make test-thorough).
run "tests, side by side (pytest)" \
  env OMP_NUM_THREADS=1 pytest -n "$workers" --dist loadfile --no-loadscope-reorder -m "not ($alone or thorough)" "$@"
typed() { wait "$typing"; status=$?; cat "$types"; rm -f "$types"; return $status; }
run "types (mypy)" typed
# Of all files only those that have such tests are loaded again.
run "tests, one at a time (pytest)" \
  pytest -m "($alone) and not thorough" $(grep -rlE 'mark\.(browser|alone)' tests --include='test_*.py') "$@"

if [ -n "$failed" ]; then
  printf '\nFailed: %s.\n' "${failed%,}"
  exit 1
fi
