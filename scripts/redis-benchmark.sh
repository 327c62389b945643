#!/usr/bin/env bash
# redis-benchmark against three durable Lockstep servers and against one Redis with two asynchronous replicas and without
# persistence, in turns, so that both meet the same machine. Prints a table and the ratios of the medians.
#
#     scripts/redis-benchmark.sh [BIN]        BIN: folder with lockstep-server, target/release if not given
#
# ROUNDS (3), REQUESTS (500000, for -P 16; a third of it for -P 1) and BASE_PORT (18400, some twenty ports from there on)
# come from the environment. Takes about a minute a round. Ends what it starts.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
bin="${1:-$target/release}"
rounds="${ROUNDS:-3}"
requests="${REQUESTS:-500000}"
base="${BASE_PORT:-18400}"
PATH="$PATH:$target/redis-tools/bin"

for tool in redis-server redis-benchmark redis-cli; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: run scripts/redis-tools.sh first" >&2; exit 1; }
done

folder="$(mktemp -d)"
started=()
finish() {
    [ "${#started[@]}" = 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT

"$bin/lockstep-server" dev --servers 3 --resp --port "$base" --data-dir "$folder/lockstep" \
    >"$folder/lockstep.out" 2>"$folder/lockstep.log" &
started+=($!)
for replica in 0 1 2; do
    port=$((base + 100 + replica))
    mkdir "$folder/redis-$replica"
    of=()
    [ "$replica" = 0 ] || of=(--replicaof 127.0.0.1 $((base + 100)))
    redis-server --port "$port" --bind 127.0.0.1 --save "" --appendonly no --dir "$folder/redis-$replica" "${of[@]}" \
        >"$folder/redis-$replica.log" &
    started+=($!)
done

await() { # WHAT COMMAND: until it succeeds
    for _ in $(seq 300); do
        if eval "$2" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "waited in vain for $1" >&2
    exit 1
}
await "Lockstep" "grep -q ready '$folder/lockstep.log'"
await "the replicas of Redis" "[ \$(redis-cli -p $((base + 100)) info replication | grep -c state=online) = 2 ]"

# The server that is primary.
lockstep=""
for port in $(grep -o 'redis 127.0.0.1:[0-9]*' "$folder/lockstep.out" | cut -d: -f2); do
    if [ "$(redis-cli -p "$port" role | head -1)" = master ]; then lockstep="$port"; fi
done
[ -n "$lockstep" ] || { echo "no Lockstep server is primary" >&2; exit 1; }

measure() { # NAME PORT LOAD...
    local name="$1" port="$2"
    shift 2
    local line load="$*"
    line="$(redis-benchmark -p "$port" "$@" -d 100 -r 100000 -q 2>/dev/null | tr '\r' '\n' | grep 'requests per second' | tail -1)"
    printf '%-32s %-9s %s\n' "$load" "$name" "${line#*: }"
    printf '%s\t%s\t%s\n' "${load%% -n *}" "$name" "$(sed 's/.*: \([0-9.]*\) requests.*/\1/' <<<"$line")" >>"$folder/figures"
}

for _ in $(seq "$rounds"); do
    for load in "-t set -c 50 -P 16 -n $requests" "-t get -c 50 -P 16 -n $requests" "-t set -c 256 -P 1 -n $((requests / 3))" \
        "-t get -c 256 -P 1 -n $((requests / 3))"; do
        # shellcheck disable=SC2086  # the load is several words
        measure lockstep "$lockstep" $load
        # shellcheck disable=SC2086
        measure redis $((base + 100)) $load
    done
done

echo
printf '%-24s %12s %12s %8s\n' load lockstep/s redis/s ratio
cut -f1 "$folder/figures" | sort -u | while IFS= read -r load; do
    median() {
        awk -F '\t' -v load="$load" -v name="$1" '$1 == load && $2 == name { print $3 }' "$folder/figures" |
            sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
    }
    ours="$(median lockstep)" theirs="$(median redis)"
    printf '%-24s %12.0f %12.0f %8.2f\n' "$load" "$ours" "$theirs" "$(awk "BEGIN { print $ours / $theirs }")"
done
