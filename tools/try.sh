#!/usr/bin/env bash
# Builds embdb, fetches a small encoder, imports a folder of texts (by default this project's documents) and searches it.
# Usage: tools/try.sh [FOLDER] [QUERY]      Needs: Rust, a C compiler, Python with pip (for the encoder alone).
set -euo pipefail
[ $# -eq 0 ] || set -- "$(realpath "$1")" "${@:2}"
cd "$(dirname "$0")/.."
paths=("${1:-README.md}")
[ $# -gt 0 ] || paths+=(storage-format.md CHANGELOG.md)
query=${2:-what survives a power cut?}
database=target/try.embdb

cargo build --release
[ -f target/minilm/config.json ] || tools/fetch-minilm.sh target/minilm
rm -rf "$database"
embdb=${CARGO_TARGET_DIR:-target}/release/embdb
"$embdb" "$database" create --model target/minilm --quiet
"$embdb" "$database" import "${paths[@]}" --format text
"$embdb" "$database" search "$query" -k 3 --log
echo "Go on with: $embdb $database" >&2
