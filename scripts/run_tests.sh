#!/usr/bin/env bash
# run_tests.sh -m MARKS [pytest's words]: first what may run side by side, one process per core, then
# what must run alone. PILOTHOUSE_TESTS_PROCESSES says how many processes; 1 runs all in one.
set -uo pipefail
cd "$(dirname "$0")/.."
[[ ${1:-} == -m && $# -ge 2 ]] || { echo "usage: $0 -m MARKS [pytest's words]" >&2; exit 2; }
marks=$2
shift 2

# A process takes up to 5 GiB: its own engines and a server with its engine and worker.
most=$(($(awk '/^MemAvailable/ {print $2}' /proc/meminfo) / (5 << 20)))
cores=$(nproc)
processes=${PILOTHOUSE_TESTS_PROCESSES:-$((cores < most ? cores : most > 1 ? most : 1))}

nothing_selected=5
status=$nothing_selected
run() {
    .venv/bin/python -m pytest --durations=25 --durations-min=2 "$@"
    local code=$?
    if ((code != nothing_selected && (status == nothing_selected || status == 0))); then
        status=$code
    fi
    # An interrupted or broken run has no second part.
    ((code <= 1 || code == nothing_selected)) || exit "$code"
}

if ((processes > 1)); then
    run -m "($marks) and not alone" -n "$processes" --dist loadgroup --no-loadscope-reorder "$@"
    run -m "($marks) and alone" "$@"
else
    run -m "$marks" "$@"
fi
exit "$status"
