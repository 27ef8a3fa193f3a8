#!/usr/bin/env bash
# Builds embdb, imports a folder of texts (by default this project's documents) and searches it with the built-in encoder.
# Usage: tools/try.sh [FOLDER] [QUERY]      Needs: Rust, a C compiler.
set -euo pipefail
[ $# -eq 0 ] || set -- "$(realpath "$1")" "${@:2}"
cd "$(dirname "$0")/.."
paths=("${1:-README.md}")
[ $# -gt 0 ] || paths+=(storage-format.md CHANGELOG.md)
query=${2:-what survives a power cut?}
database=target/try.embdb
mkdir -p target

embdb=(cargo run --release --quiet --)

cargo build --release
rm -rf "$database"
"${embdb[@]}" "$database" import "${paths[@]}" --format text
"${embdb[@]}" "$database" search "$query" -k 3 --log
echo "Go on with: cargo run --release -- $database" >&2
