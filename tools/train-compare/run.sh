#!/bin/sh
# Times training beside sentence-transformers; see README.md.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${VENV:?a folder for the Python packages}" "${PAIRS:?a JSONL file of pairs}" "${MODEL:?the folder of a model}"
if [ ! -x "$VENV/bin/python" ]; then
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install -q torch sentence-transformers accelerate
fi
cd "$here/../.."
bench=${BENCH:-$(cargo bench --bench train --no-run 2>&1 | sed -n 's/.*Executable .*(\(.*\))/\1/p')}
exec "$VENV/bin/python" "$here/compare.py" "$MODEL" "$PAIRS" "$bench" "${1:-1}" "${2:-4}"
