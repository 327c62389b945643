#!/usr/bin/env bash
# The main job: starts real clusters, loads them, measures, and writes results with plots and one page.
#
#   scripts/reproduce.sh quick|full|smoke RESULTS_FOLDER BIN_FOLDER
#
# quick is what `make reproduce` runs (under ten minutes with the build, on two cores), full what `make reproduce-full`
# runs, smoke the same in a minute, for CI.
set -euo pipefail

mode=${1:?quick, full or smoke}
results=${2:?the folder for results}
bin=${3:?the folder with the built programs}
loadgen=$bin/lockstep-loadgen

case $mode in
quick) servers=1..5 repeat=1 duration=4s warmup=1s sweep=5k..320k:6 sweep_duration=4s failovers=10 ;;
full) servers=1..7 repeat=5 duration=15s warmup=3s sweep=1k..1024k:11 sweep_duration=15s failovers=30 ;;
smoke) servers=1,3 repeat=1 duration=1s warmup=500ms sweep=5k,20k sweep_duration=1s failovers=2 ;;
*)
    echo "unknown mode '$mode': choose quick, full or smoke" >&2
    exit 2
    ;;
esac

out=$results/$(date -u +%Y%m%dT%H%M%SZ)-$mode
mkdir -p "$out"
void=0

# A VOID verdict (exit code 3) is a result like any other: it is shown as such, and does not end the series.
measure() {
    printf '\n== %s\n' "$1"
    shift
    local status=0
    "$loadgen" "$@" --results "$out" || status=$?
    case $status in
    0) ;;
    3) void=$((void + 1)) ;;
    *) exit "$status" ;;
    esac
}

window=(--duration "$duration" --warmup "$warmup")

measure "what this machine can do at best" calibrate

# With a delay on every link and little load, latency shows the protocol and not the contention for two cores.
measure "latency against servers, 1 ms on every link" \
    matrix --servers "$servers" --fanout parallel,sequential --ack majority,all --repeat "$repeat" \
    --link-delay 1ms --rate 500 "${window[@]}" --name servers-1ms-links

# Without a delay it shows what this host does, and the control how much of that is only more processes.
measure "latency against servers, on loopback, with the control" \
    matrix --servers "$servers" --fanout parallel,sequential --ack majority,all --repeat "$repeat" --control \
    --rate 1000 "${window[@]}" --name servers-loopback

measure "latency against offered rate, three servers" \
    sweep --servers 3 --rates "$sweep" --connections 32 --duration "$sweep_duration" --warmup "$warmup" --name sweep

measure "one request in flight, three servers" \
    run --servers 3 --saturate --connections 1 --in-flight 1 "${window[@]}" --name unloaded

measure "saturation, three servers, writes" \
    run --servers 3 --saturate --connections 64 --in-flight 128 "${window[@]}" --name saturated

measure "YCSB B, three servers" \
    run --servers 3 --rate 20k --workload b "${window[@]}" --name ycsb-b

# Exit code 1, which ends the series, when an acknowledged write was lost or happened twice.
measure "failover: kill -9 of the primary, three servers, 5,000 requests/s" \
    failover --repeat "$failovers" --warmup "$warmup" --name failover-kill-primary

measure "failover: planned handover" \
    failover --fault handover --repeat "$failovers" --warmup "$warmup" --name failover-handover

"$loadgen" report "$out" --output "$out/index.html"
printf '\nResults and plots: %s\nOne page with all of them: %s\n' "$out" "$out/index.html"
if [ "$void" -gt 0 ]; then
    printf '%s of the series have runs that are VOID (this machine was too busy); they are marked as such.\n' "$void"
fi
