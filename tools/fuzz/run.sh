#!/usr/bin/env bash
# Fuzzes with AddressSanitizer: each target (or those named) for SECONDS, one after the other.
#
#   tools/fuzz/run.sh SECONDS [TARGET...]
#
# Needs cargo-fuzz, and a C++ compiler for libFuzzer. Works with a stable compiler. Begins with the sound inputs, the stored
# ones (corpus/) and what earlier runs found (working/), and prints a row of the table in README.md for each target; exits
# with 1 if any target found something, which then lies in artifacts/TARGET/. EMBDB_FUZZ_MINIMIZE=1 replaces working/TARGET by
# the fewest inputs that reach as much.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?usage: tools/fuzz/run.sh SECONDS [TARGET...]}
shift
export RUSTC_BOOTSTRAP=1
# Twice as fast to compile; the fuzzers spend their time in checks anyway.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=${CARGO_PROFILE_RELEASE_OPT_LEVEL-1}
# What was freed counts as memory as long as the sanitizer keeps it: a little will do.
export ASAN_OPTIONS=${ASAN_OPTIONS-quarantine_size_mb=16}
target=${CARGO_TARGET_DIR-$PWD/target}/fuzz
build=(--fuzz-dir . --features libfuzzer --target-dir "$target")
# Seconds of the wall, of which other work may take most; an input of more than ten is kept as slow, which is no failure.
limits=(-rss_limit_mb=512 -timeout=60 -max_len=65536)

names=("$@")
if [ ${#names[@]} = 0 ]; then
    mapfile -t names < <(cd fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')
fi
if [ ${#names[@]} = 1 ]; then
    cargo fuzz build "${build[@]}" "${names[0]}"
else
    cargo fuzz build "${build[@]}"
fi
cargo run --quiet -p embdb-fuzz --example seeds working

failed=0
printf '| target | executions | a second | edges | inputs |\n|---|---|---|---|---|\n'
for name in "${names[@]}"; do
    mkdir -p "working/$name" "corpus/$name" "artifacts/$name"
    program=$(find "$target" -path "*/release/$name" -type f | head -1)
    log="working/$name.log"
    if ! nice -n 10 "$program" "${limits[@]}" -max_total_time="$seconds" -print_final_stats=1 \
        -artifact_prefix="artifacts/$name/" "working/$name" "corpus/$name" >"$log" 2>&1; then
        failed=1
        echo "$name found something; see $PWD/$log" >&2
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    edges=$(grep -o 'cov: [0-9]*' "$log" | tail -1 | cut -d' ' -f2)
    if [ -n "${EMBDB_FUZZ_MINIMIZE-}" ]; then
        rm -rf "working/$name.new"
        mkdir "working/$name.new"
        nice -n 10 "$program" "${limits[@]}" -merge=1 "working/$name.new" "working/$name" "corpus/$name" >>"$log" 2>&1
        rm -rf "working/$name"
        mv "working/$name.new" "working/$name"
    fi
    printf '| %s | %s | %s | %s | %s |\n' "$name" "${executions:-?}" "${speed:-?}" "${edges:-?}" \
        "$(find "working/$name" -type f | wc -l)"
done
exit $failed
