#!/usr/bin/env bash
# All black-box cases in their short form; the numbers of each grow by its own flags (see README.md).
# Usage: tools/black-box/run.sh EMBDB
set -euo pipefail
embdb=$(realpath "$1")
cd "$(dirname "$0")"
failed=0
run() {
    echo "== $*"
    python3 "$1" "$embdb" "${@:2}" || failed=1
}
run kill_storm.py --kills 40
run power_cut.py --cuts 10
run disk_full.py
run sync_fails.py --calls 20
run bit_rot.py --copies 200
run garbage.py --rounds 1
run pulled_rug.py
run two_writers.py --seconds 10
run retrain_killed.py --stride 5
run soak.py --seconds 60
run hostile_models.py
run no_network.py
exit $failed
