#!/usr/bin/env python3
"""Kills `retrain` at every system call that changes files, in turn: afterwards the old model answers or the new one, wholly.

    retrain_killed.py EMBDB [--stride 1] [--seed 0]          needs strace
"""

import json
import shutil
import subprocess

from common import Place, arguments, must, skip, wrong

CALLS = ["pwrite64", "write", "fsync", "fdatasync", "rename", "renameat2", "unlink", "unlinkat", "mkdir"]
SUBJECTS = ["cats", "rain", "bread", "trains", "music", "money"]
QUERIES = [f"{subject} number {n}" for n, subject in enumerate(SUBJECTS)]
KILLED = (137, -9)


def texts(place):
    """Documents and pairs that a linear map learns from in a second."""
    with open(place / "t.jsonl", "w", encoding="utf-8") as out:
        for n in range(120):
            out.write(json.dumps({"id": f"d{n}", "text": f"about {SUBJECTS[n % 6]} number {n} and so on"}) + "\n")
    with open(place / "p.jsonl", "w", encoding="utf-8") as out:
        for n in range(60):
            out.write(json.dumps({"query": f"{SUBJECTS[n % 6]} number {n}", "positive": {"id": f"d{n}"}}) + "\n")


def answers(embdb, database):
    """What the database answers, with its generation."""
    found = [json.loads(must(embdb, database, "search", query, "--json")) for query in QUERIES]
    hits = [[(hit["id"], round(hit["score"], 6)) for hit in each["hits"]] for each in found]
    return found[0]["generation"], hits


def retrain(place, database):
    return [database, "retrain", "--data", place / "p.jsonl", "--method", "adapter", "--epochs", 1, "--force", "--quiet"]


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main():
    wish = arguments(__doc__, stride=1)
    embdb = wish.embdb
    if not shutil.which("strace"):
        skip("there is no strace")
    with Place() as place:
        texts(place)
        base, learnt, database = place / "base", place / "learnt", place / "db"
        must(embdb, base, "import", place / "t.jsonl", "--quiet")
        logged = json.loads(must(embdb, base, "search", "cats number 0", "--log", "--json"))
        must(embdb, base, "click", logged["query_id"], "d0")
        shutil.copytree(base, learnt)
        must(embdb, *retrain(place, learnt))
        references = dict([answers(embdb, base), answers(embdb, learnt)])
        if len(references) != 2:
            wrong("retrain published nothing: this proves nothing")
        kills, after = 0, {generation: 0 for generation in references}
        for call in CALLS:
            number = 1
            while True:
                shutil.rmtree(database, ignore_errors=True)
                shutil.copytree(base, database)
                kill = f"inject={call}:signal=SIGKILL:when={number}"
                strace = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", kill]
                done = run_killed(embdb, retrain(place, database), strace)
                must(embdb, database, "check")
                generation, hits = answers(embdb, database)
                if references.get(generation) != hits:
                    wrong(f"{call} {number}: generation {generation} does not answer as it should")
                if not json.loads(must(embdb, database, "log", "stats", "--json"))["clicks"]:
                    wrong(f"{call} {number}: the click is gone")
                if not done:
                    break
                kills += 1
                after[generation] += 1
                if generation == min(references):
                    must(embdb, *retrain(place, database))
                    again = answers(embdb, database)
                    if again[1] != references[max(references)]:
                        wrong(f"{call} {number}: the next retrain comes to something else")
                if size(database) > 1.5 * size(learnt):
                    wrong(f"{call} {number}: {size(database)} bytes are left, {size(learnt)} without a kill")
                number += wish.stride
        print(f"{kills} kills in {', '.join(CALLS)}: the old model answered after {after[min(after)]}, the new after {after[max(after)]}")


def run_killed(embdb, words, strace):
    """Whether it was killed; else it came to its end."""
    done = subprocess.run([*strace, str(embdb), *map(str, words)], capture_output=True, text=True, timeout=120)
    if done.returncode not in (0, *KILLED):
        wrong(f"retrain: exit {done.returncode}: {done.stderr[-2000:]}")
    return done.returncode != 0


main()
