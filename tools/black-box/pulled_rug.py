#!/usr/bin/env python3
"""Cuts files short under an open shell, one after the other, and removes the database: errors, never a signal.

    pulled_rug.py EMBDB [--seed 0]
"""

import os
import shutil
import struct
import subprocess

from common import EXIT_CODES, Place, arguments, must, vector, wrong


def shell(embdb, database):
    return subprocess.Popen([str(embdb), str(database), "--keep-going", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def ask(process, *statements):
    for statement in statements:
        process.stdin.write(statement + "\n")
    process.stdin.flush()


def pulled(embdb, base, place, name):
    """What a shell says when a file is cut short between two searches."""
    database = place / "db"
    shutil.rmtree(database, ignore_errors=True)
    shutil.copytree(base, database)
    process = shell(embdb, database)
    knn = f"knn --queries {place / 'q.fvecs'} -k 3 --out {place / 'out.npy'}"
    ask(process, knn, knn + " --exact", "count --json")
    while "count" not in process.stdout.readline():
        pass
    if name is None:
        shutil.rmtree(database)
    else:
        os.truncate(database / name, min(4096, (database / name).stat().st_size))
    ask(process, knn, knn + " --exact", "get 17", "ids", "check", "count")
    said, _ = process.communicate(timeout=60)
    if process.returncode not in EXIT_CODES or "panicked" in said:
        wrong(f"{name or 'the directory'} went away: exit {process.returncode}\n{said[-2000:]}")
    return process.returncode


def main():
    wish = arguments(__doc__)
    with Place() as place:
        base = place / "base"
        must(wish.embdb, base, "create", "--vectors", 8)
        with open(place / "a.jsonl", "w", encoding="utf-8") as out:
            for n in range(20_000):
                out.write(f'{{"id": {n}, "text": "document {n}", "vector": {vector(n)}}}\n')
        must(wish.embdb, base, "import", place / "a.jsonl", "--quiet")
        must(wish.embdb, base, "compact")
        rows = (struct.pack("<i8f", 8, *vector(n)) for n in range(0, 20_000, 50))
        (place / "q.fvecs").write_bytes(b"".join(rows))
        names = [str(file.relative_to(base)) for file in sorted((base / "seg").rglob("*")) if file.is_file()]
        codes = [pulled(wish.embdb, base, place, name) for name in [*names, None]]
        print(f"{len(names)} files cut short in turn under a shell, and the directory removed: exit codes {codes}")


main()
