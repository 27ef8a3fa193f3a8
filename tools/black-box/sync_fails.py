#!/usr/bin/env python3
"""Lets each sync of an import fail in turn: the batch is not acknowledged, nothing after it is, and what was stays.

    sync_fails.py EMBDB [--calls 40] [--seed 0]          needs strace
"""

import shutil

from common import BATCH, Place, acknowledged, arguments, create, documents, oracle, run, skip, wrong

DOCUMENTS = 1000


def main():
    wish = arguments(__doc__, calls=40)
    if not shutil.which("strace"):
        skip("there is no strace")
    with Place() as place:
        file, failed = place / "documents.jsonl", 0
        documents(file, "a", DOCUMENTS)
        for call in ("fsync", "fdatasync"):
            for number in range(1, wish.calls + 1):
                database, acks = place / "db", place / f"acks-{call}-{number}"
                shutil.rmtree(database, ignore_errors=True)
                create(wish.embdb, database)
                inject = f"inject={call}:error=EIO:when={number}"
                strace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject]
                words = ["import", file, "--batch", BATCH, "--acks", acks, "--quiet"]
                done = run(wish.embdb, database, *words, prefix=strace)
                if done.returncode not in (0, 4):
                    wrong(f"{call} {number} failed: exit {done.returncode}: {done.stderr}")
                failed += done.returncode == 4
                # Of syncs that the import does not wait for, the failure may show at the next command.
                if done.returncode == 4 and acknowledged(acks) * BATCH >= DOCUMENTS:
                    wrong(f"{call} {number} failed, and all is acknowledged")
                oracle(wish.embdb, database, "a", acks, DOCUMENTS)
        if failed == 0:
            wrong("no failure reached the import: this proves nothing")
        print(f"2 × {wish.calls} syncs failed in turn, {failed} of them the import's: nothing acknowledged was lost")


main()
