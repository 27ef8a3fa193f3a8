#!/bin/bash
# Runs the comparison with embdb among the peers:
#
#   ANN_HARNESS=DIR tools/ann/run.sh DATASET PEERS OUT.json [further arguments of bench.py]
#
# ANN_HARNESS is the harness (bench.py, worker.py, adapters/); it stays as it is, a copy gets our adapter. PEERS are names
# separated by commas, such as hnswlib,svs_lvq4x8,embdb. Prints tables and draws OUT.svg. $BENCH_DIR (default
# ~/embdb-bench) holds the data sets and the Python environment `venv`, both made by the harness's prepare.sh.
set -euo pipefail
[ $# -ge 3 ] && [ -f "${ANN_HARNESS:-}/bench.py" ] || { sed -n '2,9s/^# \?//p' "$0" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
dataset=$1 peers=$2 out=$(realpath -m "$3"); shift 3
export BENCH_DIR=${BENCH_DIR:-$HOME/embdb-bench}
target=${CARGO_TARGET_DIR:-$here/../../target}
cargo build -q --release --manifest-path "$here/Cargo.toml"
export EMBDB_ANN=$target/release/embdb-ann
copy=$(mktemp -d); trap 'rm -rf "$copy"' EXIT
cp -r "$ANN_HARNESS"/. "$copy"
chmod -R u+w "$copy"
cp "$here/embdb_.py" "$copy/adapters/"
peers_of_ours="'embdb':('embdb_','Embdb'),'embdb_int8':('embdb_','EmbdbInt8'),"
peers_of_ours+="'embdb_dense':('embdb_','EmbdbDense'),'embdb_hnsw_rs':('embdb_','EmbdbHnswRs'),"
sed -i "s/^R={/R={\n $peers_of_ours/" "$copy/adapters/registry.py"
"$BENCH_DIR/venv/bin/python" "$copy/bench.py" --dataset "$dataset" --peers "$peers" --out "$out" "$@"
"$BENCH_DIR/venv/bin/python" "$copy/report.py" "$out"
if "$BENCH_DIR/venv/bin/python" "$here/plot.py" "$out" "${out%.json}.svg"; then
    echo "recall against searches a second: ${out%.json}.svg"
fi
