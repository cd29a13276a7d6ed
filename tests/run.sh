#!/usr/bin/env bash
# `make test`: the tests without a cluster, while the cluster and the images are prepared; then, as soon as both are
# there, the tests on the cluster beside them: those mostly wait, and where both compute the others stand back. Lint is
# last. Everything runs even if something before it failed; the exit status is 1 if anything did.
set -uo pipefail
cd "$(dirname "$0")/.."

logs=$(mktemp -d)
localcluster() { PYTHONPATH=tests "${PYTHON:-python3}" -m localcluster "$@"; }

prepared_tests() { # on the cluster, once it is prepared; its own exit status is 3 if it could not be
  { localcluster up && localcluster images; } || return 3
  until [ -e "$logs/environment" ]; do sleep 1; done
  eval "$(localcluster env)"
  .venv/bin/pytest tests/cluster
}

failed=()
attempt() { # NAME COMMAND…
  local name=$1
  shift
  printf '\n=== %s\n' "$name"
  "$@" || failed+=("$name")
}

set -m # a process group of its own, so that an interrupted run can end all of it
prepared_tests >"$logs/cluster" 2>&1 &
cluster=$!
set +m
trap 'kill -- "-$cluster" 2>/dev/null; rm -rf "$logs"' EXIT

attempt "virtual environment" make --no-print-directory venv
touch "$logs/environment"
attempt "tests without a cluster" nice make --no-print-directory test-pure
nice make --no-print-directory lint >"$logs/lint" 2>&1 &
lint=$!

printf '\n=== the cluster, the images, and the tests on the cluster (begun meanwhile)\n'
tail --lines +1 --follow --pid "$cluster" "$logs/cluster"
wait "$cluster" || case $? in
  3) failed+=("preparation of the cluster and the images (so the tests on it did not run)") ;;
  *) failed+=("tests on the cluster") ;;
esac

printf '\n=== lint\n'
wait "$lint" || failed+=("lint")
cat "$logs/lint"

if ((${#failed[@]})); then
  printf '\nfailed: %s\n' "${failed[@]}"
  exit 1
fi
printf '\nall passed; the cluster stays up for the next run (make cluster-down ends it)\n'
