#!/usr/bin/env bash
# Runs tests under AddressSanitizer, leaks included; nothing is suppressed. Needs no nightly compiler.
#
#   tools/sanitize.sh [CARGO TEST ARGUMENTS]   without arguments: the library's own tests, damage, repair, vectors; without the encoder
set -euo pipefail
cd "$(dirname "$0")/.."
tests=("$@")
if [ ${#tests[@]} = 0 ]; then
    tests=(--lib --test healing --test engine --test repair --test vectors)
fi
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=1:abort_on_error=1
# With a target, build scripts and macros are not instrumented.
cargo test --no-default-features --target x86_64-unknown-linux-gnu --target-dir "${CARGO_TARGET_DIR-target}/address" "${tests[@]}"
