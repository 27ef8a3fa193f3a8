#!/usr/bin/env bash
# Runs tests under AddressSanitizer, leaks included, or under valgrind's memcheck, which also tells values that nothing set;
# nothing is suppressed. Needs no nightly compiler.
#
#   tools/sanitize.sh [CARGO TEST ARGUMENTS]            without arguments: the library's own tests, damage, repair, vectors;
#                                                       without the encoder
#   tools/sanitize.sh valgrind [CARGO TEST ARGUMENTS]   without arguments: the library's tests of files and their formats
set -euo pipefail
cd "$(dirname "$0")/.."
tool=address
if [ "${1-}" = valgrind ]; then
    tool=valgrind
    shift
fi
tests=("$@")
target=$(rustc -vV | sed -n 's/^host: //p')
if [ $tool = address ]; then
    [ ${#tests[@]} -gt 0 ] || tests=(--lib --test healing --test engine --test repair --test vectors)
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS=detect_leaks=1:abort_on_error=1
else
    [ ${#tests[@]} -gt 0 ] || tests=(--lib -- format:: storage::log storage::documents storage::segment)
    # Valgrind knows the calls of the C library, and no AVX-512.
    export RUSTFLAGS="--cfg rustix_use_libc" EMBDB_SIMD=avx2
    runner="valgrind --quiet --leak-check=full --errors-for-leak-kinds=definite --error-exitcode=99"
    export "CARGO_TARGET_$(tr a-z- A-Z_ <<<"$target")_RUNNER=$runner"
fi
# With a target, build scripts and macros are not instrumented.
cargo test --no-default-features --target "$target" --target-dir "${CARGO_TARGET_DIR-target}/$tool" "${tests[@]}"
