#!/usr/bin/env bash
# What checkpoints of a million keys cost under load: the same load on three servers in turns, with a journal so large that no
# checkpoint falls into the measurement, and with one so small that checkpoints follow each other. Prints p99.9 of each run, the
# medians, and their difference.
#
#     scripts/checkpoint-cost.sh [BIN]        BIN: folder with lockstep-server and lockstep-loadgen, target/release if not given
#
# ROUNDS (3), DURATION (20s) and RATE (20k requests/s) come from the environment. Takes about a minute a round. Exit code 1: they
# cost more than 5 ms, or a run failed.
set -euo pipefail
cd "$(dirname "$0")/.."

bin="${1:-${CARGO_TARGET_DIR:-target}/release}"
rounds="${ROUNDS:-3}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

run() { # NAME JOURNAL: adds the p99.9, in us, to those of NAME
    local results="$folder/results" status=0 verdict=""
    rm -rf "$results"
    "$bin/lockstep-loadgen" run --servers 3 --server-bin "$bin/lockstep-server" --keys 1M --rate "${RATE:-20k}" --warmup 2s \
        --duration "${DURATION:-20s}" --journal-size "$2" --results "$results" --name checkpoint-cost >"$folder/out" 2>&1 || status=$?
    case $status in
        0) ;;
        3) verdict="  (VOID: $(sed -n 's/^VOID: //p' "$folder/out"))" ;;
        *) cat "$folder/out" >&2; return 1 ;;
    esac
    local p999 checkpoints
    p999="$(awk '/"response"/ { inside = 1 } inside && /"p999_us"/ { gsub(/[^0-9.]/, "", $2); print $2; exit }' \
        "$results"/*/summary.json)"
    checkpoints="$(awk '/^lockstep_checkpoint_duration_seconds_count/ { count += $2 } END { print count + 0 }' \
        "$results"/*/server-0.metrics.txt)"
    awk -v name="$1" -v us="$p999" -v count="$checkpoints" -v verdict="$verdict" \
        'BEGIN { printf "%-8s p99.9 %6.2f ms  %d checkpoints completed%s\n", name, us / 1000, count, verdict }'
    echo "$p999" >>"$folder/$1"
}

median() { sort -n "$folder/$1" | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

for _ in $(seq "$rounds"); do
    run without 800MiB
    run with 128MiB
done
awk -v without="$(median without)" -v with="$(median with)" 'BEGIN {
    printf "medians: %.2f ms without checkpoints, %.2f ms with; they add %.2f ms\n", without / 1000, with / 1000,
        (with - without) / 1000
    exit with - without > 5000
}'
