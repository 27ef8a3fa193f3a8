#!/usr/bin/env python3
"""Turns one random bit in a copy of a database, again and again: `check` is content or names file and offset, every answer is
that of the sound database or an error, and `repair` loses nothing. A spoilt graph does not change answers and is built again;
of spoilt sectors of the log and of the documents, `repair` lists the lost documents exactly.

    bit_rot.py EMBDB [--copies 300] [--seed 0]
"""

import json
import os
import random
import shutil
import struct

from common import Place, arguments, create, must, run, vector, wrong

SECTOR = 512
QUERIES, K = 20, 5


def sound(embdb, place):
    """A database with a segment that has a graph, and a log."""
    database, file = place / "sound", place / "a.jsonl"
    create(embdb, database)
    for numbers in (range(5000), range(5000, 5300)):
        # Ids are numbers, as `knn --out` wants them.
        lines = ({"id": str(n), "text": f"document {n}", "vector": vector(n)} for n in numbers)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        must(embdb, database, "import", file, "--quiet", "--batch", 100)
        if numbers.start == 0:
            must(embdb, database, "compact")
    queries = place / "queries.fvecs"
    queries.write_bytes(b"".join(struct.pack("<i8f", 8, *vector(number)) for number in range(QUERIES)))
    return database, queries


def files(database):
    return sorted(path for path in database.rglob("*") if path.is_file() and path.stat().st_size and path.name != "LOCK")


class Answers:
    """What a database says, by command; nothing where it tells an error."""

    def __init__(self, embdb, database, queries):
        self.found = queries.with_name("found.npy")
        knn = ("knn", "--queries", queries, "-k", K, "--out", self.found)
        asked = {"knn": knn, "exact": (*knn, "--exact"), "ids": ("ids",), "text": ("get", "123"), "newest": ("get", "5299"), "count": ("count",)}
        self.given = {name: self.ask(embdb, database, words) for name, words in asked.items()}

    def ask(self, embdb, database, words):
        """Lines, or of searches the ids found for each query; nothing for an error."""
        done = run(embdb, database, *words)
        if done.returncode not in (0, 2):
            wrong(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stderr}")
        if done.returncode == 2:
            return None
        if words[0] != "knn":
            return done.stdout.splitlines()
        found = self.found.read_bytes()[-QUERIES * K * 8 :]
        return [found[start : start + K * 8] for start in range(0, len(found), K * 8)]

    def compare(self, sound, what):
        """Those that are the sound ones; what is neither these nor an error is wrong."""
        for name, given in self.given.items():
            # Each query by itself: damage may be met between two of them, and what is left answers exactly.
            others = ["exact"] if name == "knn" else []
            right = [sound.given[other] for other in (name, *others)]
            same = given is None or len(given) == len(right[0])
            if not same or given and not all(line in lines for line, *lines in zip(given, *right)):
                wrong(f"{what}: {name} gives something else than before")
        return sum(given is not None for given in self.given.values())


def copied(database, place):
    copy = place / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(database, copy)
    return copy


def turn_bit(file):
    """Turns a random bit; gives its offset."""
    with open(file, "r+b") as opened:
        at = random.randrange(os.stat(file).st_size)
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1 << random.randrange(8)]))
    return at


def checked(embdb, database, what):
    """Whether `check` found something; it must say where."""
    done = run(embdb, database, "check", "--json")
    if done.returncode not in (0, 2):
        wrong(f"{what}: check ends with {done.returncode}\n{done.stderr}")
    problems = json.loads(done.stdout or "{}").get("problems", [])
    if done.returncode == 2 and not all("file" in found and "offset" in found for found in problems):
        wrong(f"{what}: check does not say where: {done.stdout}")
    return done.returncode == 2


def repaired(embdb, database, place, what):
    """How many documents `repair` says are lost, those ids of them that it could tell, and the ids of what it saved."""
    new = place / "new"
    shutil.rmtree(new, ignore_errors=True)
    done = run(embdb, database, "repair", "--out", new, "--json")
    if done.returncode not in (0, 2):
        wrong(f"{what}: repair ends with {done.returncode}\n{done.stderr}")
    must(embdb, new, "check")
    lost = json.loads(done.stdout)["lost"]
    if (done.returncode == 2) != bool(lost):
        wrong(f"{what}: repair ends with {done.returncode} and lists {lost}")
    ids = {found["id"] for found in lost if found.get("id")}
    return sum(found["documents"] for found in lost), ids, set(must(embdb, new, "ids").split())


def bits(embdb, database, queries, place, before, copies):
    told = answered = 0
    for _ in range(copies):
        copy = copied(database, place)
        file = random.choice(files(copy))
        what = f"a bit at {turn_bit(file)} of {file.relative_to(copy)}"
        told += checked(embdb, copy, what)
        answered += Answers(embdb, copy, queries).compare(before, what)
        if random.random() < 0.1:
            lost, _, saved = repaired(embdb, copy, place, what)
            if lost or saved != set(before.given["ids"]):
                wrong(f"{what}: repair says that {lost} documents are lost, and saved {len(saved)}")
    print(f"{copies} bits turned: {told} told by check, {answered / (len(before.given) * copies):.0%} of the answers given, none wrong")


def spoilt_graph(embdb, database, queries, place, before):
    copy = copied(database, place)
    graph = next(path for path in files(copy) if path.name == "graph")
    graph.write_bytes(random.randbytes(graph.stat().st_size))
    if not checked(embdb, copy, "a spoilt graph"):
        wrong("check is content with a spoilt graph")
    if Answers(embdb, copy, queries).compare(before, "a spoilt graph") != len(before.given):
        wrong("without its graph the database does not answer")
    must(embdb, copy, "compact")
    must(embdb, copy, "check", "--deep")
    print("a spoilt graph: every answer right, built again")


def spoilt_sectors(embdb, database, place, before):
    every, lists = set(before.given["ids"]), 0
    for file in [path for path in files(database) if path.parent.name == "log" or path.name in ("docs", "ids", "full")]:
        copy = copied(database, place)
        here = copy / file.relative_to(database)
        at = random.randrange(here.stat().st_size // SECTOR) * SECTOR
        with open(here, "r+b") as opened:
            opened.seek(at)
            opened.write(random.randbytes(SECTOR))
        what = f"a sector at {at} of {file.relative_to(database)}"
        lost, named, saved = repaired(embdb, copy, place, what)
        if len(every - saved) != lost or saved - every or named & saved:
            wrong(f"{what}: {len(every - saved)} documents are missing, {lost} are listed")
        lists += lost > 0
    print(f"spoilt sectors: what repair lists is what is missing ({lists} lists)")


def main():
    given = arguments(__doc__, copies=300)
    with Place() as place:
        database, queries = sound(given.embdb, place)
        before = Answers(given.embdb, database, queries)
        bits(given.embdb, database, queries, place, before, given.copies)
        spoilt_graph(given.embdb, database, queries, place, before)
        spoilt_sectors(given.embdb, database, place, before)


main()
