#!/usr/bin/env python3
"""Puts garbage in the place of a database and of each of its files: an error and an exit code, never a crash, a hang or much
memory. A file that is not needed to answer may be ignored.

    garbage.py EMBDB [--rounds 3] [--seed 0]
"""

import os
import random
import shutil
import struct

from common import Place, arguments, create, documents, must, run, wrong

MEMORY = "1000000000"  # Of address space, with all that threads and mapped files take of it.
SECONDS = 5
COMMANDS = (["count"], ["ids"], ["check"], ["info"], ["get", "a-000001"], ["log", "stats"], ["search", "x"], ["compact"], ["delete", "a-000002"])
ALLOWED = {0, 1, 2, 4, 5, 6}


def sound(embdb, place):
    """A database with segments, a log, feedback and older manifests."""
    database, file = place / "sound", place / "a.jsonl"
    create(embdb, database)
    documents(file, "a", 500)
    must(embdb, database, "import", file, "--quiet")
    must(embdb, database, "compact")
    documents(file, "b", 300)
    must(embdb, database, "import", file, "--quiet")
    log = place / "log.jsonl"
    log.write_text('{"query_id": "q", "user_query": "x", "timestamp": "2024-01-01T00:00:00Z"}\n')
    must(embdb, database, "log", "import", log)
    return database


def noise(file):
    file.write_bytes(random.randbytes(random.randint(0, 20_000)))


def zeros(file):
    file.write_bytes(bytes(file.stat().st_size))


def sparse(file):
    """The beginning is that of a sound file."""
    os.truncate(file, 10 << 30)


def ones(file):
    """A field of the header at a time is all ones; its checksum is wrong then."""
    raw = bytearray(file.read_bytes())
    at = random.randrange(0, max(1, min(len(raw), 256)), 4)
    raw[at : at + 4] = b"\xff" * len(raw[at : at + 4])
    file.write_bytes(raw)


def newer(file):
    """Another major version, where the header has it."""
    raw = bytearray(file.read_bytes())
    if len(raw) >= 12:
        struct.pack_into("<H", raw, 8, 99)
    file.write_bytes(raw)


def cut(file):
    os.truncate(file, random.randint(0, file.stat().st_size))


def fifo(file):
    file.unlink()
    os.mkfifo(file)


def loop(file):
    file.unlink()
    file.symlink_to(file.name)


def folder(file):
    file.unlink()
    file.mkdir()


def gone(file):
    file.unlink()


DAMAGES = [noise, zeros, sparse, ones, newer, cut, fifo, loop, folder, gone]


def asked(embdb, database, what):
    """All commands on a damaged database; gives the exit codes."""
    codes = []
    for words in COMMANDS:
        prefix = ("prlimit", f"--as={MEMORY}")
        done = run(embdb, database, *words, timeout=SECONDS, prefix=prefix, stdin=-3)
        if done.returncode not in ALLOWED:
            wrong(f"{what}: {' '.join(words)}: exit {done.returncode}: {done.stderr}")
        if done.returncode and not (done.stderr + done.stdout).strip():
            wrong(f"{what}: {' '.join(words)}: exit {done.returncode} without a word")
        codes.append(done.returncode)
    return codes


def whole(embdb, place):
    """Things that are no database at all."""
    count = 0
    target = place / "thing"
    makers = [
        lambda: target.write_bytes(random.randbytes(10_000)),
        lambda: os.mkfifo(target),
        lambda: target.symlink_to("thing"),
        lambda: target.symlink_to("/dev/zero"),
        lambda: target.mkdir(),
        lambda: (target.mkdir(), (target / "manifest").write_bytes(b"no folder")),
        lambda: (target.mkdir(), (target / "manifest").mkdir(), (target / "manifest" / "0000000001").write_bytes(b"")),
    ]
    for make in makers:
        make()
        asked(embdb, target, "no database")
        count += 1
        shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()
    return count


def main():
    wish = arguments(__doc__, rounds=3)
    with Place() as place:
        base = sound(wish.embdb, place)
        names = sorted(str(file.relative_to(base)) for file in base.rglob("*") if file.is_file())
        database, cases, refused = place / "db", whole(wish.embdb, place), 0
        for name in names:
            for damage in DAMAGES:
                for number in range(wish.rounds if damage in (noise, ones, cut) else 1):
                    shutil.copytree(base, database)
                    damage(database / name)
                    codes = asked(wish.embdb, database, f"{name}: {damage.__name__} {number}")
                    cases, refused = cases + 1, refused + any(codes)
                    shutil.rmtree(database)
        print(f"{cases} cases of garbage over {len(names)} files: {refused} refused, the others answered; none crashed or hung")


main()
