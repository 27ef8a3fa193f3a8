#!/usr/bin/env bash
# Lines that tests reach, and branches (each outcome of a condition, those of tests left out), by directory:
#
#   tools/coverage.sh            the library without the encoder, by its own tests and those of crashes, faults, damage,
#                                repair and the oracle: the goals are 95 % of lines and 88 % of branches for
#                                storage, format and recovery
#   tools/coverage.sh whole      everything, by all tests: the goal is 85 % of lines
#
# Needs cargo-llvm-cov and llvm-tools (rustup component add llvm-tools).
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1-}" in
"")
    tests=(--no-default-features --lib)
    for file in tests/*.rs; do
        name=$(basename "$file" .rs)
        case $name in
        crash | engine | faults | format_spec | healing | oracle | golden | repair | torture | vectors) tests+=(--test "$name") ;;
        esac
    done
    ;;
whole) tests=() ;;
*)
    echo "usage: tools/coverage.sh [whole]" >&2
    exit 1
    ;;
esac
report=$(mktemp)
trap 'rm -f "$report"' EXIT
# Tests kill processes, which then leave half a profile.
# Branches are not yet for stable compilers.
RUSTC_BOOTSTRAP=1 cargo llvm-cov --branch --failure-mode all --json --output-path "$report" "${tests[@]}"
python3 - "$report" <<'PYTHON'
import collections, json, os, sys

with open(sys.argv[1]) as file:
    files = json.load(file)["data"][0]["files"]
RECOVERY = ("src/db/state.rs", "src/db/write.rs", "src/db/healing.rs", "src/db/repair", "src/db/check", "src/db/mod.rs")
root = os.getcwd() + "/"


def branches_of(entry, path):
    """How many outcomes were reached, and how many there are, of all instances of a condition together."""
    with open(entry["filename"]) as file:
        source = file.read()
    tests = source.find("mod tests {")
    end = source.count("\n", 0, tests) if tests >= 0 else float("inf")
    outcomes = collections.defaultdict(lambda: [0, 0])
    for *place, true, false, _file, _expanded, _kind in entry["branches"]:
        if place[0] <= end and not path.startswith("tests/") and "/tests" not in path:
            outcomes[tuple(place)][0] += true
            outcomes[tuple(place)][1] += false
    return sum((true > 0) + (false > 0) for true, false in outcomes.values()), 2 * len(outcomes)


found = collections.defaultdict(lambda: [0, 0, 0, 0])
for entry in files:
    path = entry["filename"].removeprefix(root)
    lines, branches = entry["summary"]["lines"], branches_of(entry, path)
    parts = path.split("/")
    groups = ["/".join(parts[: min(len(parts) - 1, 2)]), "whole"]
    if path.startswith(("src/storage/", "src/format/")) or path.startswith(RECOVERY):
        groups.append("storage, format, recovery")
    for group in groups:
        counts = lines["covered"], lines["count"], *branches
        found[group] = [sum(pair) for pair in zip(found[group], counts)]
print("| directory | lines | reached | branches | reached |\n|---|---|---|---|---|")
for group, counts in sorted(found.items(), key=lambda item: (not item[0].startswith("src"), item[0])):
    lines, branches = (f"{count} | {100 * covered / max(count, 1):.1f} %" for covered, count in (counts[:2], counts[2:]))
    print(f"| {group} | {lines} | {branches} |")
low = sorted((e["summary"]["lines"]["percent"], e["filename"].removeprefix(root)) for e in files if e["summary"]["lines"]["count"] > 40)
print("\nleast reached: " + ", ".join(f"{path} {percent:.0f} %" for percent, path in low[:12]))
PYTHON
