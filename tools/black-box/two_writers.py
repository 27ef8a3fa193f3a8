#!/usr/bin/env python3
"""A second writer is refused at once and opens as soon as the first is killed; readers are right while one writes and compacts.

    two_writers.py EMBDB [--seconds 20] [--readers 8] [--seed 0]
"""

import json
import signal
import struct
import subprocess
import threading
import time

from common import Place, arguments, create, must, run, vector, wrong

KEPT = 500


def second_writer(embdb, place):
    database = place / "db"
    create(embdb, database)
    command = [str(embdb), str(database), "import", "-", "--format", "jsonl", "--batch", "1", "--acks", str(place / "acks")]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first.stdin.write((json.dumps({"id": "one", "text": "x", "vector": vector(1)}) + "\n").encode())
    first.stdin.flush()
    while not (place / "acks").exists() or not (place / "acks").read_bytes():
        time.sleep(0.01)
    times = []
    for _ in range(5):
        start = time.monotonic()
        must(embdb, database, "delete", "one", code=3)
        times.append(time.monotonic() - start)
    first.send_signal(signal.SIGKILL)
    first.wait()
    start = time.monotonic()
    must(embdb, database, "delete", "one")
    took = time.monotonic() - start
    if min(times) > 0.1 or took > 1:
        wrong(f"refused after {min(times):.3f} s at best, opened after {took:.3f} s")
    print(f"the second writer: refused after {1000 * min(times):.0f} ms, opened {1000 * took:.0f} ms after the first was killed")


def queries(file, count):
    """Vectors of the documents that stay, as .fvecs."""
    rows = (struct.pack("<i8f", 8, *vector(number)) for number in range(count))
    file.write_bytes(b"".join(rows))


def numbers(file):
    """The values of an .npy file of integers."""
    raw = file.read_bytes()
    start = 10 + struct.unpack_from("<H", raw, 8)[0]
    return list(struct.unpack(f"<{(len(raw) - start) // 8}q", raw[start:]))


def reader(embdb, database, place, number, until, seen):
    """Searches for documents that stay, each by its own vector, in one process after the other."""
    out = place / f"out-{number}.npy"
    while time.monotonic() < until and not seen["wrong"]:
        done = run(embdb, database, "knn", "--queries", place / "keep.fvecs", "-k", 1, "--exact", "--out", out)
        if done.returncode or numbers(out) != list(range(KEPT)):
            seen["wrong"] = f"exit {done.returncode}: {done.stderr}"
        seen["searches"] += KEPT


def churn(embdb, database, place, until):
    """Imports, deletes and compacts documents that are far from those that stay; gives the number of rounds."""
    file, rounds = place / "churn.jsonl", 0
    while time.monotonic() < until:
        with open(file, "w", encoding="utf-8") as out:
            for n in range(2000):
                line = {"id": f"churn-{n}", "text": "x", "vector": [5 + v for v in vector(10_000 + n + rounds)]}
                out.write(json.dumps(line) + "\n")
        must(embdb, database, "import", file, "--quiet")
        must(embdb, database, "delete", "--where", "id LIKE 'churn-%'")
        must(embdb, database, "compact")
        rounds += 1
    return rounds


def readers(embdb, place, seconds, count):
    database, keep = place / "db2", place / "keep.jsonl"
    must(embdb, database, "create", "--vectors", 8, "--metric", "l2")
    with open(keep, "w", encoding="utf-8") as out:
        for n in range(KEPT):
            out.write(json.dumps({"id": n, "text": "x", "vector": vector(n)}) + "\n")
    must(embdb, database, "import", keep, "--quiet")
    queries(place / "keep.fvecs", KEPT)
    until = time.monotonic() + seconds
    seen = [{"searches": 0, "wrong": None} for _ in range(count)]
    work = [threading.Thread(target=reader, args=(embdb, database, place, n, until, s)) for n, s in enumerate(seen)]
    for thread in work:
        thread.start()
    rounds = churn(embdb, database, place, until)
    for thread in work:
        thread.join()
    problems = [s["wrong"] for s in seen if s["wrong"]]
    if problems:
        wrong(problems[0])
    total = sum(s["searches"] for s in seen)
    print(f"{count} readers: {total} searches beside {rounds} rounds of import, deletion and compaction, all right")


def main():
    wish = arguments(__doc__, seconds=20, readers=8)
    with Place() as place:
        second_writer(wish.embdb, place)
        readers(wish.embdb, place, wish.seconds, wish.readers)


main()
