#!/bin/sh
# Times encoders beside one another; see README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${VENV:?a folder for the Python packages}" "${TEXTS_TSV:?a file of texts}" "${MODEL:?the folder of a model}"
threads=${1:-1}
work=${WORK:-$VENV/bench-compare}

if [ ! -x "$VENV/bin/python" ]; then
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install -q torch sentence-transformers onnx onnxscript onnxruntime openvino
fi
mkdir -p "$work"
export OMP_NUM_THREADS="$threads" TOKENIZERS_PARALLELISM=false
"$VENV/bin/python" "$here/bench.py" texts "$TEXTS_TSV" "$MODEL" "$work"
"$VENV/bin/python" "$here/bench.py" export "$MODEL" "$work"
cd "$here/../.."
bench=$(cargo bench --bench encode --no-run 2>&1 | sed -n 's/.*Executable .*(\(.*\))/\1/p')
"$VENV/bin/python" "$here/bench.py" run "$MODEL" "$work" "$threads" "$bench"
