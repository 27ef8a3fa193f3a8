#!/usr/bin/env python3
"""Tries the tests: takes one check at a time out of the storage engine, and sees whether a test fails.

    tools/mutants/run.py            [WORD ...]   only the mutants whose names have one of the words

The tree is copied to target/mutants; there each check of MUTANTS is put behind a switch, all are built once, and the tests
run once for each mutant with EMBDB_MUTANT set to its name. A mutant that no test fails for is printed as MISSED, and the
exit code is 1. Needs Python 3 alone. `--list` only sees that every place is still found in the source; `--built` takes what the last
run built.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OFF = '''
/// Whether a check is taken out: see tools/mutants.
pub fn off(name: &str) -> bool {
    static MUTANT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    MUTANT.get_or_init(|| std::env::var("EMBDB_MUTANT").ok()).as_deref() == Some(name)
}
'''

UNIT, CRASH, FAULTS, GOLDEN, HEALING, ORACLE = "lib", "crash", "faults", "golden", "healing", "oracle"
SWEEP = "every_call_may_fail --skip while --skip normal"
DAMAGE = "damage::a_damaged_file_is_told damage::a_rotten_encoder damage::files_that_changed"
FILE, FRAME, SCAN = "src/format/file.rs", "src/format/frame.rs", "src/format/scan.rs"
LOG, SEGMENT, STATE = "src/storage/log.rs", "src/storage/segment.rs", "src/db/state.rs"
SEGMENT_FILE, GRAPH, WALK = "src/storage/segment_file.rs", "src/format/graph.rs", "src/index/hnsw/walk.rs"

# Name, file, what stands there, what stands there with the check switched off by OFF, and the tests that are to fail: each a
# target and words of test names.
MUTANTS = [
    ("checksum of a container's header", FILE, "if Some(xxh3_64(&bytes[..CHECKSUM_OFFSET])) != u64_at",
     "if !OFF && Some(xxh3_64(&bytes[..CHECKSUM_OFFSET])) != u64_at", [(UNIT, "format::file"), (FAULTS, DAMAGE)]),
    ("end mark of a container", FILE, "if bytes[trailer + TRAILER_MAGIC_OFFSET..] != END_MAGIC",
     "if !OFF && bytes[trailer + TRAILER_MAGIC_OFFSET..] != END_MAGIC", [(UNIT, "format::file"), (FAULTS, DAMAGE)]),
    ("length in the trailer", FILE, "if field(TRAILER_LENGTH_OFFSET) != bytes.len() as u64",
     "if !OFF && field(TRAILER_LENGTH_OFFSET) != bytes.len() as u64", [(UNIT, "format::file"), (FAULTS, DAMAGE)]),
    ("checksum of the trailer", FILE,
     "if xxh3_64(&bytes[body_len + sums_len..trailer + TRAILER_CHECKSUM_OFFSET]) != checksum",
     "if !OFF && xxh3_64(&bytes[body_len + sums_len..trailer + TRAILER_CHECKSUM_OFFSET]) != checksum",
     [(UNIT, "format::file"), (FAULTS, DAMAGE)]),
    ("checksum of page checksums", FILE, "if bytes.get(first..end).map(xxh3_64) != of_block",
     "if !OFF && bytes.get(first..end).map(xxh3_64) != of_block", [(UNIT, "format::file"), (FAULTS, DAMAGE)]),
    ("checksum of a page", FILE, "Some(data) if Some(xxh3_64(data)) == stored =>",
     "Some(data) if OFF || Some(xxh3_64(data)) == stored =>", [(UNIT, "format::file"), (FAULTS, DAMAGE)]),
    ("kind of a container", FILE, "if u16_at(bytes, KIND_OFFSET) != Some(kind as u16)",
     "if !OFF && u16_at(bytes, KIND_OFFSET) != Some(kind as u16)", [(UNIT, "format::file"), (FAULTS, DAMAGE)]),
    ("major version of a container", FILE, "if major != MAJOR {", "if !OFF && major != MAJOR {",
     [(UNIT, "format::file"), (GOLDEN, "next_version")]),
    ("features of a container", FILE, "if features & !PAGE_SUMS != 0 ||", "if !OFF && features & !PAGE_SUMS != 0 ||",
     [(UNIT, "format::file")]),
    ("bounds of a section", FILE, "&& start.checked_add(len).is_some_and(|e| e <= body_len)",
     "&& (OFF || start.checked_add(len).is_some_and(|e| e <= body_len))", [(UNIT, "format::file")]),
    ("length in the manifest", SEGMENT_FILE, "if length != entry.length {", "if !OFF && length != entry.length {",
     [(FAULTS, DAMAGE), (UNIT, "storage::")]),
    ("file that the manifest names", SEGMENT_FILE, "if layout.checksum != entry.checksum || layout.database != *database",
     "if !OFF && (layout.checksum != entry.checksum || layout.database != *database)", [(HEALING, "small_database")]),
    ("bounds of an element", SEGMENT_FILE, "(end <= range.end).then_some(start..end)",
     "(OFF || end <= range.end).then_some(start..end)", [(UNIT, "storage::")]),
    ("first touch of a page", SEGMENT_FILE, "(self.verified.left() > 0).then(|| Guard::new",
     "(self.verified.left() > 0 && !OFF).then(|| Guard::new",
     [(HEALING, "large_database_is_told_or_healed")]),
    ("damage that a walk met", SEGMENT_FILE, "self.damage.get().is_some()", "!OFF && self.damage.get().is_some()",
     [(UNIT, "storage::segment_file"), (HEALING, "large_database_is_told_or_healed")]),
    ("checksum of a log's header", FRAME, "if u32_at(head, LOG_CHECKSUM_OFFSET) != Some",
     "if !OFF && u32_at(head, LOG_CHECKSUM_OFFSET) != Some", [(UNIT, "format::"), (FAULTS, DAMAGE)]),
    ("major version of a log", FRAME, "if major != MAJOR {", "if !OFF && major != MAJOR {",
     [(UNIT, "format::frame"), (GOLDEN, "next_version")]),
    ("checksum of a frame", FRAME, "|| checksum(header, payload, salt, offset) != stored",
     "|| (!OFF && checksum(header, payload, salt, offset) != stored)", [(UNIT, "format::"), (FAULTS, DAMAGE)]),
    ("salt of a frame", FRAME, "|| u32_at(header, FRAME_SALT_OFFSET)? != salt as u32",
     "|| (!OFF && u32_at(header, FRAME_SALT_OFFSET)? != salt as u32)", [(UNIT, "format::")]),
    ("frame within the file", FRAME, "(len <= limits::FRAME_BYTES).then_some(len)",
     "(OFF || len <= limits::FRAME_BYTES).then_some(len)", [(UNIT, "format::")]),
    ("end of a batch", SCAN, "if !commit_covers(&frame, &frames, end) {", "if !OFF && !commit_covers(&frame, &frames, end) {",
     [(UNIT, "format::")]),
    ("frames that a commit counts", SCAN, "&& u32_at(commit.payload, COMMIT_FRAMES_OFFSET) == Some(batch.len() as u32)",
     "&& (OFF || u32_at(commit.payload, COMMIT_FRAMES_OFFSET) == Some(batch.len() as u32))", [(UNIT, "format::")]),
    ("digest of a batch", SCAN, "&& u32_at(commit.payload, COMMIT_DIGEST_OFFSET) == Some(digest)",
     "&& (OFF || u32_at(commit.payload, COMMIT_DIGEST_OFFSET) == Some(digest))", [(UNIT, "format::")]),
    ("damage before what was synced", SCAN, "match window.synced_beyond(end)? {",
     "match window.synced_beyond(end)?.filter(|_| !OFF) {", [(UNIT, "format::"), (FAULTS, DAMAGE)]),
    ("log shorter than its end", LOG, "if until > length {", "if !OFF && until > length {",
     [(UNIT, "storage:: db::state"), (FAULTS, DAMAGE), (CRASH, "every_acknowledged what_a_killed")]),
    ("log damaged before its end", LOG, "if to.is_some() && scan.end != until {", "if !OFF && to.is_some() && scan.end != until {",
     [(UNIT, "storage:: db::state"), (FAULTS, DAMAGE), (CRASH, "every_acknowledged what_a_killed")]),
    ("log of another place", STATE, "if header.number != number || header.database != *database {",
     "if !OFF && (header.number != number || header.database != *database) {", [(UNIT, "db::state"), (FAULTS, DAMAGE)]),
    ("number in a manifest", "src/format/manifest.rs", "if self.number != number || self.database != *database {",
     "if !OFF && (self.number != number || self.database != *database) {", [(UNIT, "format::"), (FAULTS, DAMAGE)]),
    ("documents of a segment", SEGMENT, "if segment.ids.count::<u64>(ids::SEQUENCES)? != entry.documents as usize {",
     "if !OFF && segment.ids.count::<u64>(ids::SEQUENCES)? != entry.documents as usize {", [(UNIT, "storage:: db::state"), (FAULTS, DAMAGE)]),
    ("tombstones of a segment", SEGMENT, "if bitmap.len() != u64::from(self.entry.deleted)",
     "if !OFF && bitmap.len() != u64::from(self.entry.deleted)", [(UNIT, "storage:: db::state"), (FAULTS, DAMAGE)]),
    ("hash of an encoder", "src/db/encoders.rs", "if encoder.model_id() != model_id {",
     "if !OFF && encoder.model_id() != model_id {", [(FAULTS, DAMAGE)]),
    ("poison after a failed sync", LOG, "inspect_err(|error| self.poisoned = Some(error.to_string()))",
     "inspect_err(|error| self.poisoned = (!OFF).then(|| error.to_string()))", [(FAULTS, "only_reads")]),
    ("log given up after a failed write", LOG, "            self.broken = true;\n            return Err(error);",
     "            self.broken = !OFF;\n            return Err(error);", [(UNIT, "storage::log"), (FAULTS, "writes_resume"), (FAULTS, SWEEP)]),
    ("log written again after a failed sync", LOG, "while at < end {", "while !OFF && at < end {",
     [(FAULTS, "only_reads"), (FAULTS, SWEEP)]),
    ("folder written again after a failed sync", "src/storage/mod.rs",
     "    vfs.create_dir(&passing)?;\n    vfs.remove_dir_all(&passing)?;",
     "    if !OFF {\n        vfs.create_dir(&passing)?;\n        vfs.remove_dir_all(&passing)?;\n    }", [(FAULTS, SWEEP)]),
    ("lock of the writer", "src/storage/real.rs",
     "            Ok(()) => Ok(Some(Box::new(RealLock { file, path: path.to_path_buf() }))),",
     "            Ok(()) => Ok(Some(Box::new(RealLock { file, path: path.to_path_buf() }))),\n"
     "            Err(_) if OFF => Ok(Some(Box::new(RealLock { file, path: path.to_path_buf() }))),", [(UNIT, "storage::lock storage::vfs")]),
    ("regular files alone", "src/storage/real.rs", "if metadata.is_file() { Ok(file) } else {",
     "if OFF || metadata.is_file() { Ok(file) } else {", [(UNIT, "storage::real")]),
    ("length of a graph", GRAPH, "if header.length != bytes.len() as u64 {", "if !OFF && header.length != bytes.len() as u64 {",
     [(UNIT, "format::graph")]),
    ("entry of a graph", GRAPH, "if header.entry >= header.nodes.max(1) {", "if !OFF && header.entry >= header.nodes.max(1) {",
     [(UNIT, "format::graph index::hnsw::search")]),
    ("links a node of a graph", GRAPH, "if !(1..=MAX_STRIDE).contains(&stride) {",
     "if !OFF && !(1..=MAX_STRIDE).contains(&stride) {", [(UNIT, "format::graph index::hnsw::search")]),
    ("bounds of a folded row", "src/index/hnsw/search.rs", "folded.filter(|&row| (row as usize) < self.graph.nodes())",
     "folded.filter(|&row| OFF || (row as usize) < self.graph.nodes())", [(UNIT, "index::hnsw::search index::hnsw::walk")]),
    ("graph of these rows", "src/index/hnsw/search.rs", "|| graph.nodes() != block.len ||",
     "|| (!OFF && graph.nodes() != block.len) ||", [(UNIT, "index::hnsw::search index::hnsw::walk")]),
]


def slug(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def plant(root):
    """Puts every check behind its switch."""
    texts = {}
    for name, file, old, new, _ in MUTANTS:
        text = texts.setdefault(file, (root / file).read_text())
        if text.count(old) != 1:
            sys.exit(f"{name}: {file} has {text.count(old)} times: {old}")
        switch = f'crate::off("{slug(name)}")'
        texts[file] = text.replace(old, re.sub(r"\bOFF\b", lambda _: switch, new))
    return texts


def copy(place, texts):
    """The tree with the switches in it."""
    args = ["git", "ls-files", "-co", "--exclude-standard"]
    files = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, check=True)
    for file in files.stdout.splitlines():
        if (ROOT / file).exists():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, place / file)
    texts["src/lib.rs"] = (ROOT / "src/lib.rs").read_text() + OFF
    for file, text in texts.items():
        (place / file).write_text(text)


def build(place):
    """Builds the test programs into `programs`; the library's own tests are `lib`."""
    targets = sorted({target for *_, tests in MUTANTS for target, _ in tests} - {UNIT})
    args = ["cargo", "test", "--no-run", "--message-format=json-render-diagnostics", "--lib"] + [a for t in targets for a in ("--test", t)]
    done = subprocess.run(args, cwd=place, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    (place / "programs").mkdir(exist_ok=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            # Another build may write to the same place.
            target = message["target"]
            name = UNIT if "lib" in target["kind"] else target["name"]
            shutil.copy2(message["executable"], place / "programs" / name)


def fails(program, words, mutant, place):
    """The name of a test that fails, if one does."""
    env = dict(os.environ, EMBDB_MUTANT=mutant, EMBDB_CRASH_IMAGES="4000", EMBDB_FAULT_STRIDE="9", RUST_BACKTRACE="0")
    try:
        done = subprocess.run([program, *words.split()], cwd=place, env=env, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return "(no end)"
    failed = re.findall(r"^test (\S+) \.\.\. FAILED", done.stdout, re.M)
    if failed:
        return failed[0]
    if done.returncode:
        return f"(exit {done.returncode})"
    if not re.search(r"test result: ok\. [1-9]", done.stdout):
        sys.exit(f"no test of {program} has one of: {words}")
    return None


def main():
    words = [word for word in sys.argv[1:] if word != "--built"]
    texts = plant(ROOT)
    if words == ["--list"]:
        print("\n".join(name for name, *_ in MUTANTS))
        return
    place = Path(os.environ.get("EMBDB_MUTANTS_DIR", ROOT / "target/mutants")).resolve()
    if "--built" not in sys.argv:
        copy(place, texts)
        build(place)
    chosen = [m for m in MUTANTS if not words or any(word in m[0] for word in words)]
    missed = 0
    for target, test in sorted({test for *_, tests in chosen for test in tests}):
        if failed := fails(place / "programs" / target, test, "none", place):
            sys.exit(f"{failed} fails without a mutant")
    print("| check that is taken out | caught by | s |\n|---|---|---|")
    for name, _, _, _, tests in chosen:
        start, caught = time.time(), None
        for target, test in tests:
            if caught := fails(place / "programs" / target, test, slug(name), place):
                caught = f"`{target}::{caught}`" if caught[0] != "(" else f"`{target}` {caught}"
                break
        missed += caught is None
        print(f"| {name} | {caught or 'MISSED'} | {time.time() - start:.1f} |", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught")
    sys.exit(missed > 0)


main()
