#!/usr/bin/env bash
# `make test`: the pure tests, while the cluster and the images are prepared in the background; then the tests on the
# cluster, which mostly wait and leave time for lint. Everything runs even if something before it failed; the exit
# status is 1 if anything did.
set -uo pipefail
cd "$(dirname "$0")/.."

preparation_log=$(mktemp)
lint_log=$(mktemp)
localcluster() { PYTHONPATH=tests "${PYTHON:-python3}" -m localcluster "$@"; }
prepare() { localcluster up && localcluster images; }
set -m # a process group of its own, so that an interrupted run can end all of it
prepare >"$preparation_log" 2>&1 &
preparation=$!
set +m
trap 'kill -- "-$preparation" 2>/dev/null; rm -f "$preparation_log" "$lint_log"' EXIT

failed=()
attempt() { # NAME COMMAND…
  local name=$1
  shift
  printf '\n=== %s\n' "$name"
  "$@" || failed+=("$name")
}

attempt "virtual environment" make --no-print-directory venv
attempt "tests without a cluster" make --no-print-directory test-pure
nice make --no-print-directory lint >"$lint_log" 2>&1 &
lint=$!

printf '\n=== preparation of the cluster and the images\n'
if wait "$preparation"; then
  cat "$preparation_log"
  eval "$(localcluster env)"
  attempt "tests on the cluster" .venv/bin/pytest tests/cluster
else
  cat "$preparation_log"
  failed+=("preparation of the cluster and the images (so the tests on it did not run)")
fi

printf '\n=== lint\n'
wait "$lint" || failed+=("lint")
cat "$lint_log"

if ((${#failed[@]})); then
  printf '\nfailed: %s\n' "${failed[@]}"
  exit 1
fi
printf '\nall passed; the cluster stays up for the next run (make cluster-down ends it)\n'
