#!/usr/bin/env python3
"""The loop of the README, on a BEIR set: import, searches with clicks, `retrain --plan`, `retrain`, and the same with clicks
that are worth nothing.

    loop.py EMBDB SET [--model DIR] [--precision f32] [--work DIR] [--one-thread] [--shuffled] [-- RETRAIN ARGUMENTS]

A sixth of the queries, by the CRC-32 of their ids, only judges. Of the others each is searched once, and every right document
that was among its first ten is clicked. With `--shuffled` the clicks then go to the queries at random, in a second database.
After `--` follow more arguments of `retrain`. Prints what each command printed, with its seconds of wall and of processor time
and its peak of memory.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time
import zlib

from gate import Collection, log_lines


class Timed:
    """Runs commands and prints what they cost."""

    def __init__(self, embdb, one_thread):
        self.embdb = embdb
        self.environment = dict(os.environ, **({"CANDLE_NUM_THREADS": "1"} if one_thread else {}))

    def run(self, *arguments, codes=(0,)):
        command = [str(self.embdb), *map(str, arguments), "--json", "--quiet"]
        start = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment)
        printed = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in codes:
            sys.exit(f"{' '.join(command)}: exit {child.returncode}")
        cost = {"wall": round(time.monotonic() - start, 1), "cpu": round(used.ru_utime + used.ru_stime, 1),
                "peak_mb": used.ru_maxrss // 1024}
        print(" ".join(map(str, arguments[1:])), json.dumps(cost))
        print("   ", printed.strip(), flush=True)


def learn(timed, collection, pairs, names, val, more, plan):
    database, log = collection.work / "loop.embdb", collection.work / "log.jsonl"
    shutil.rmtree(database, ignore_errors=True)
    shutil.copytree(collection.base, database)
    log.write_text("".join(json.dumps(line) + "\n" for line in log_lines(names, pairs, collection)))
    timed.run(database, "log", "import", log)
    timed.run(database, "log", "stats")
    timed.run(database, "eval", *val)
    if plan:
        timed.run(database, "retrain", "--plan", *more)
    timed.run(database, "retrain", *more, codes=(0, 7))
    timed.run(database, "eval", *val)


def main():
    given = [*sys.argv[1:], "--"]
    own, more = given[:given.index("--")], given[given.index("--") + 1:-1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embdb")
    parser.add_argument("set", type=pathlib.Path)
    parser.add_argument("--model")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("loop"))
    parser.add_argument("--one-thread", action="store_true")
    parser.add_argument("--shuffled", action="store_true")
    options = parser.parse_args(own)
    options.work.mkdir(parents=True, exist_ok=True)
    timed, base = Timed(options.embdb, options.one_thread), options.work / "base.embdb"
    if not base.exists():
        timed.run(base, "create", *(["--model", options.model] if options.model else []),
                  "--precision", options.precision)
        timed.run(base, "import", options.set)
    collection = Collection(options.embdb, options.set, options.work, options.model)
    aside = {name for name in collection.names if zlib.crc32(name.encode()) % 6 == 0}
    names = [name for name in collection.names if name not in aside]
    val = collection.judges(sorted(aside))
    print(f"{len(names)} queries are searched, {len(aside)} judge")
    pairs = [(n, d) for n in names for d in collection.shown[n] if d in collection.qrels[n]]
    learn(timed, collection, pairs, names, val, more, plan=True)
    if options.shuffled:
        documents = [document for _, document in pairs]
        random.Random(0).shuffle(documents)
        learn(timed, collection, list(zip((n for n, _ in pairs), documents)), names, val, more, plan=False)


if __name__ == "__main__":
    main()
