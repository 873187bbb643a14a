#!/usr/bin/env bash
# Fuzzes the parsers, the command line and the two oracles. Needs cargo-fuzz; stable Rust is enough.
#
#   fuzz/run.sh smoke             every target for a few thousand cases with fixed seeds
#   fuzz/run.sh SECONDS [TARGET]  every target (or one) for so long
#
# Ends with an error if a target fails, or if the canary, which must fail, does not.
set -euo pipefail
cd "$(dirname "$0")"

targets=(header index config folder pair)

# fuzz TARGET FLAGS: goes on from the corpus that earlier runs left.
fuzz() {
    local target=$1 dictionary=dictionaries/config.dict
    shift
    case $target in header | index) dictionary=dictionaries/safetensors.dict ;; esac
    mkdir -p "corpus/$target"
    cargo fuzz run --sanitizer none "$target" "corpus/$target" "seeds/$target" -- \
        -dict="$dictionary" -close_fd_mask=1 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        "$@" 2>&1 | grep -vE '^(error|warning|  )|^#[0-9]+.*(NEW|REDUCE|RELOAD)' 
    return "${PIPESTATUS[0]}"
}

cargo fuzz build --sanitizer none
case ${1:?smoke, or a number of seconds} in
smoke)
    for target in "${targets[@]}"; do
        fuzz "$target" -seed=1 -runs=3000 -max_total_time=60
    done
    if fuzz canary -seed=1 -runs=2000000 >/dev/null; then
        echo "the canary does not fail: failures are not seen" >&2
        exit 1
    fi
    ;;
*)
    for target in ${2:-"${targets[@]}"}; do
        fuzz "$target" -max_total_time="$1"
    done
    ;;
esac
