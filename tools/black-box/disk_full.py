#!/usr/bin/env python3
"""Fills the disk under imports, compaction and re-indexing; reads go on, and writes resume when there is space.

    disk_full.py EMBDB [--seed 0]          as root for the part with a small file system
"""

import os
import subprocess

from common import BATCH, Place, acknowledged, arguments, create, documents, must, oracle, run, wrong

DOCUMENTS = 20_000


def fill(embdb, database, file, acks, prefix=()):
    """Imports until there is no space left."""
    done = run(embdb, database, "import", file, "--batch", BATCH, "--acks", acks, "--quiet", prefix=prefix)
    if done.returncode != 4 or not any(word in done.stderr for word in ("space", "large", "quota")):
        wrong(f"a full disk gave exit code {done.returncode}: {done.stderr}")
    if acknowledged(acks) == 0:
        wrong("the disk was full before anything was acknowledged")


def reads(embdb, database):
    must(embdb, database, "count")
    if must(embdb, database, "get", "a-000000").count("a-000000") == 0:
        wrong("a document that was acknowledged is not there while the disk is full")


def small_file_system(embdb, place):
    mounted, file, acks = place / "small", place / "a.jsonl", place / "acks"
    mounted.mkdir()
    size = lambda megabytes: f"size={megabytes}m"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", size(8), "tmpfs", str(mounted)]).returncode:
        print("skipped: mounting needs root")
        return
    try:
        database = mounted / "db"
        create(embdb, database)
        documents(file, "a", DOCUMENTS * 5)
        fill(embdb, database, file, acks)
        reads(embdb, database)
        oracle(embdb, database, "a", acks, DOCUMENTS * 5)
        # Compaction has no space either: it may refuse, but loses nothing.
        done = run(embdb, database, "compact")
        if done.returncode not in (0, 4):
            wrong(f"compact on a full disk: exit {done.returncode}: {done.stderr}")
        oracle(embdb, database, "a", acks, DOCUMENTS * 5)
        subprocess.run(["mount", "-o", f"remount,{size(256)}", str(mounted)], check=True)
        must(embdb, database, "import", file, "--batch", BATCH, "--acks", acks, "--quiet")
        must(embdb, database, "compact")
        must(embdb, database, "check")
        if int(must(embdb, database, "count", "--json").split(":")[1].strip(" }\n")) != DOCUMENTS * 5:
            wrong("after space came, documents lack")
    finally:
        subprocess.run(["umount", "-l", str(mounted)], capture_output=True)
    print("a file system of 8 MB: filled, refused, read, compacted, and filled on when it grew")


def small_files(embdb, place):
    database, file, acks = place / "db", place / "b.jsonl", place / "acks-b"
    create(embdb, database)
    documents(file, "a", DOCUMENTS)
    fill(embdb, database, file, acks, prefix=("prlimit", "--fsize=1000000"))
    reads(embdb, database)
    oracle(embdb, database, "a", acks, DOCUMENTS)
    must(embdb, database, "import", file, "--batch", BATCH, "--quiet")
    must(embdb, database, "check")
    print("files of 1 MB at most: refused, read, and written on when the limit was gone")


def main():
    wish = arguments(__doc__)
    with Place() as place:
        small_files(wish.embdb, place)
        small_file_system(wish.embdb, place)


main()
