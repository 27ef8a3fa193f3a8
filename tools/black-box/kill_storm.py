#!/usr/bin/env python3
"""Kills imports at random moments, many times on the same database; nothing acknowledged may be lost, no batch be there in part.

    kill_storm.py EMBDB [--kills 500] [--seed 0]
"""

import random
import signal
import subprocess
import time

from common import BATCH, Place, acknowledged, arguments, create, documents, must, oracle

DOCUMENTS = 3000


def main():
    wish = arguments(__doc__, kills=500)
    with Place() as place:
        database, file = place / "db", place / "documents.jsonl"
        create(wish.embdb, database)
        batches = alive = 0
        for number in range(wish.kills):
            prefix, acks = f"r{number:05}", place / f"acks-{number}"
            documents(file, prefix, DOCUMENTS)
            command = [wish.embdb, database, "import", file, "--batch", BATCH, "--acks", acks, "--quiet"]
            child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(random.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
            alive += child.wait() == -signal.SIGKILL
            batches += acknowledged(acks)
            oracle(wish.embdb, database, prefix, acks, DOCUMENTS)
            acks.unlink(missing_ok=True)
            if number % 20 == 19:
                # The database keeps its size, and seals, merges and deletions are hit as well.
                must(wish.embdb, database, "delete", "--where", f"id LIKE '{prefix[:-1]}%' OR id < '{prefix}'")
                must(wish.embdb, database, "compact")
        print(f"{wish.kills} kills, {alive} of them while it ran, {batches} acknowledged batches: none lost, none in part")


main()
