"""What the cases share: a place to work, the program, documents, and the oracle."""

import argparse
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

BATCH = 100
EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 7, 130}


def arguments(description, **numbers):
    """The command line: the program, and numbers that may be set. Without them, those given."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embdb", type=pathlib.Path, help="the program")
    parser.add_argument("--seed", type=int, default=0)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    found = parser.parse_args()
    found.embdb = found.embdb.resolve()
    random.seed(found.seed)
    return found


def skip(why):
    """Ends the case without a verdict, visibly."""
    print(f"skipped: {why}")
    sys.exit(0)


def wrong(what):
    """Ends the case: a promise does not hold."""
    sys.exit(f"WRONG: {what}")


class Place:
    """A folder of the case, removed at its end."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="embdb-black-box-"))

    def __enter__(self):
        return self.folder

    def __exit__(self, kind, *_):
        if kind is None or kind is SystemExit:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"left as it is: {self.folder}", file=sys.stderr)


def run(embdb, *words, timeout=60, prefix=(), **options):
    """Runs a command. A signal, a panic, an unknown exit code or a hang is wrong, whatever is asked."""
    command = [*map(str, prefix), str(embdb), *map(str, words)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, errors="replace", **options)
    except subprocess.TimeoutExpired:
        wrong(f"{' '.join(command)} did not end within {timeout} s")
    if done.returncode not in EXIT_CODES or "panicked" in done.stderr:
        wrong(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done


def must(embdb, *words, code=0, **options):
    """Runs a command that must end with this exit code; gives what it printed."""
    done = run(embdb, *words, **options)
    if done.returncode != code:
        wrong(f"{' '.join(map(str, words))}: exit {done.returncode} instead of {code}\n{done.stderr[-2000:]}")
    return done.stdout


def vector(number):
    """Eight values that a number decides."""
    chance = random.Random(number)
    return [round(chance.uniform(-1, 1), 4) for _ in range(8)]


def documents(file, prefix, count):
    """Writes documents with ids PREFIX-000000 and on, which sort as they stand."""
    with open(file, "w", encoding="utf-8") as out:
        for number in range(count):
            line = {"id": f"{prefix}-{number:06}", "text": f"document {number} of {prefix}", "vector": vector(number)}
            out.write(json.dumps(line) + "\n")


def create(embdb, database):
    """An empty database of plain vectors."""
    must(embdb, database, "create", "--vectors", 8)


def oracle(embdb, database, prefix, acks, count, timeout=60):
    """Checks what must hold after anything: `check` is content, what was acknowledged is there, and every batch of PREFIX is
    there whole or not at all, with none missing before one that is there. Gives the number of batches that are there."""
    must(embdb, database, "check", timeout=timeout)
    there = set(must(embdb, database, "ids", timeout=timeout).split())
    whole = [all(f"{prefix}-{n:06}" in there for n in range(first, min(first + BATCH, count))) for first in range(0, count, BATCH)]
    some = [any(f"{prefix}-{n:06}" in there for n in range(first, min(first + BATCH, count))) for first in range(0, count, BATCH)]
    if whole != some:
        wrong(f"{prefix}: batch {[a == b for a, b in zip(whole, some)].index(False)} is there in part")
    present = sum(whole)
    if not all(whole[:present]):
        wrong(f"{prefix}: a batch is missing before one that is there")
    acked = acknowledged(acks)
    if present < acked:
        wrong(f"{prefix}: {acked} batches were acknowledged, {present} are there")
    return present


def acknowledged(acks):
    """Whole lines of a file of acknowledgements."""
    return pathlib.Path(acks).read_bytes().count(b"\n") if pathlib.Path(acks).exists() else 0
