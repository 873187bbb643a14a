#!/usr/bin/env bash
# Writes reports/trust.md: 100,000 right expansions, and more than 100,000 mistakes in them.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked --release
page=$(mktemp)
trap 'rm "$page"' EXIT
date=$(date -u +%F)
commit=$(git describe --always --dirty --exclude '*')
target/release/lemon-check mutants --cases 4350 --changes 2 --seed 4 >"$page" ||
    echo "something is not as it should be: see the end of the page" >&2
sed "1s/.*/# How far a verdict can be trusted\n\n\`reports\/trust.sh\`, $date, commit $commit./" \
    "$page" >reports/trust.md
