#!/usr/bin/env bash
# Fuzzes the parsers, the command line and the two oracles. Needs cargo-fuzz; stable Rust is enough.
#
#   fuzz/run.sh smoke             every target for 3000 cases with a fixed seed, at most a minute each,
#                                 from the seeds alone
#   fuzz/run.sh SECONDS [TARGET]  every target (or one) for so long
#   fuzz/run.sh full [TARGET]     every target (or one) for 10 million cases or 20 minutes of CPU
#                                 time; ends each with its row of reports/fuzzing.md
#
# Ends with an error if a target fails, or if the canary, which must fail, does not.
set -euo pipefail
cd "$(dirname "$0")"

# One core is what a case gets: the work of small models is not worth dividing.
export RAYON_NUM_THREADS=1

targets=(header index config folder pair)
corpus=corpus

what=${1:?smoke, full, or a number of seconds}

# fuzz TARGET FLAGS: goes on from the corpus that earlier runs left.
fuzz() {
    local target=$1 dictionary=dictionaries/config.dict
    shift
    case $target in header | index) dictionary=dictionaries/safetensors.dict ;; esac
    mkdir -p "$corpus/$target"
    cargo fuzz run --sanitizer none "$target" "$corpus/$target" "seeds/$target" -- \
        -dict="$dictionary" -close_fd_mask=1 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -len_control=0 \
        "$@" 2>&1 | grep -vE '^(error|warning|  )|^#[0-9]+.*(NEW|REDUCE|RELOAD)'
    return "${PIPESTATUS[0]}"
}

# full TARGET: as many runs as it takes, for CPU time is not what the clock says.
full() {
    local target=$1 executions=0 seconds=0 log end
    log=$(mktemp)
    while ((executions < 10000000 && seconds < 1200)); do
        TIMEFORMAT='cpu %U %S'
        { time fuzz "$target" -runs=$((10000000 - executions)) \
            -max_total_time=$((1210 - seconds)) >"$log"; } 2>"$log.time" ||
            { cat "$log"; return 1; }
        executions=$((executions + $(awk '/number_of_executed_units/ { print $2 }' "$log")))
        seconds=$((seconds + $(awk '/^cpu/ { printf "%d", $2 + $3 }' "$log.time")))
    done
    end=$(sed -nE 's|^#[0-9]+.DONE +cov: ([0-9]+) ft: ([0-9]+) corp: ([0-9]+).*|\1 \| \2 \| \3|p' "$log")
    echo "| $target | $executions | $seconds | $end | none |"
    rm "$log" "$log.time"
}

cargo fuzz build --sanitizer none
case $what in
smoke)
    corpus=$(mktemp -d)
    trap 'rm -r "$corpus"' EXIT
    for target in "${targets[@]}"; do
        fuzz "$target" -seed=1 -runs=3000 -max_total_time=60
    done
    if fuzz canary -seed=1 -runs=2000000 >/dev/null; then
        echo "the canary does not fail: failures are not seen" >&2
        exit 1
    fi
    echo "no target fails, and the canary does"
    ;;
full)
    for target in ${2:-"${targets[@]}"}; do
        full "$target"
    done
    ;;
*)
    for target in ${2:-"${targets[@]}"}; do
        fuzz "$target" -max_total_time="$what"
    done
    ;;
esac
