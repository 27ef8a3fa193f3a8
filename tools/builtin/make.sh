#!/usr/bin/env bash
# Makes the built-in encoder again: texts out of Debian packages, a teacher, and `embdb model distil`.
#
#   cargo build --release && tools/builtin/make.sh WORK [TEXTS]
#
# WORK is a folder for what is fetched and made (1 GB); what is there is not made again. The result is in WORK/model, to be
# copied to models/builtin beside its README.md. TEXTS: how many are learned from, 160000 unless it is given. Needs Debian
# with apt-get (its lists up to date), dpkg-deb, python3 with pip; on two cores it takes about an hour.
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: tools/builtin/make.sh WORK [TEXTS]" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "$1/packages"
work=$(cd "$1" && pwd)
count=${2:-160000}
embdb=${CARGO_TARGET_DIR:-$root/target}/release/embdb
[ -x "$embdb" ] || { echo "build first: cargo build --release" >&2; exit 1; }

while read -r package; do
    compgen -G "$work/packages/${package}_*.deb" > /dev/null ||
        (cd "$work/packages" && apt-get download --quiet "$package")
done < <(grep -v '^#' "$here/packages.txt" | cut -d' ' -f1)

[ -s "$work/texts.jsonl" ] || {
    python3 "$here/texts.py" "$work/packages" "$count" > "$work/texts.part"
    mv "$work/texts.part" "$work/texts.jsonl"
}
"$root/tools/fetch-minilm.sh" "$work/teacher"
"$embdb" "$work/none" model distil "$work/teacher" "$work/model" --texts "$work/texts.jsonl"
