#!/usr/bin/env python3
"""How often the gate is wrong: many retrains on logs that are poisoned, and on logs that are good.

    gate.py EMBDB SET [--poisoned 200] [--good 50] [--seed 0] [--work DIR] [--model DIR] [--out FILE]

SET is a BEIR folder with queries and judgements. A database is made of it once. Each trial copies it, imports a log of
searches that were really made there (the first ten hits) with simulated clicks, and runs `retrain`, of good logs with
`--force`: what the gate would have said stands in its reason. Poisoned logs come in six kinds:

  shuffled     the right documents, dealt out to the wrong queries
  random       a click on any of the hits shown
  spam         every query is answered by one of three documents
  misled       queries of one half of the documents click those of the other half, always the same way
  last         a click on the last of the hits shown
  few          20 clicks, all of them right

Good logs are clicks on right documents where they were shown, seen with probability 1/rank, one click in ten random.
The true gain of each good log is measured by `eval` on queries that the log has none of.

Prints one line of JSON for each trial and a summary; `--out` keeps them.
"""

import argparse
import json
import math
import pathlib
import random
import shutil
import subprocess
import sys

HITS = 10


def run(embdb, *arguments, codes=(0,)):
    """The JSON that a command prints."""
    done = subprocess.run([embdb, *map(str, arguments), "--json", "--quiet"], capture_output=True, text=True)
    if done.returncode not in codes:
        sys.exit(f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


class Collection:
    """Queries, judgements and what a database shows for each query."""

    def __init__(self, embdb, folder, work, model):
        self.embdb, self.work, self.scores = embdb, work, None
        self.queries = {}
        for line in (folder / "queries.jsonl").open():
            query = json.loads(line)
            self.queries[query["_id"]] = query["text"]
        self.qrels = {}
        for file in sorted((folder / "qrels").glob("*.tsv")):
            for line in file.read_text().splitlines()[1:]:
                query, document, grade = line.split("\t")
                if float(grade) > 0:
                    self.qrels.setdefault(query, []).append(document)
        self.names = sorted(query for query in self.qrels if query in self.queries)
        self.base = work / "base.embdb"
        if not self.base.exists():
            if model:
                run(embdb, self.base, "create", "--model", model)
            run(embdb, self.base, "import", folder)
        self.shown = self.search()
        self.documents = sorted({document for hits in self.shown.values() for document in hits})

    def search(self):
        trec = self.work / "shown.trec"
        if not trec.exists():
            wanted = self.work / "queries.jsonl"
            wanted.write_text("".join(json.dumps({"_id": n, "text": self.queries[n]}) + "\n" for n in self.names))
            run(self.embdb, self.base, "batch-search", "--queries", wanted, "-k", HITS, "--exact", "--trec", trec)
        shown = {}
        for line in trec.read_text().splitlines():
            query, _, document, *_ = line.split()
            shown.setdefault(query, []).append(document)
        return shown

    def base_score(self, names):
        if self.scores is None:
            file = self.work / "scores.jsonl"
            self.evaluated(self.base, self.names, "--per-query", file)
            lines = map(json.loads, file.read_text().splitlines())
            self.scores = {line["query"]: line["ndcg@10"] for line in lines}
        return sum(self.scores[name] for name in names) / len(names)

    def true_score(self, database, names):
        return self.evaluated(database, names)[0]["ndcg@10"]

    def judges(self, names):
        """Flags of `eval` for the queries of these names."""
        judged, grades = self.work / "judged.jsonl", self.work / "judged.tsv"
        judged.write_text("".join(json.dumps({"_id": n, "text": self.queries[n]}) + "\n" for n in names))
        rows = [f"{n}\t{document}\t1\n" for n in names for document in self.qrels[n]]
        grades.write_text("query-id\tcorpus-id\tscore\n" + "".join(rows))
        return ["--queries", judged, "--qrels", grades]

    def evaluated(self, database, names, *flags):
        return run(self.embdb, database, "eval", *self.judges(names), *flags)


def clicks(kind, names, collection, rng):
    """What is clicked: (query, document) pairs."""
    shown, qrels = collection.shown, collection.qrels
    if kind == "good":
        made = []
        for name in names:
            for rank, document in enumerate(shown[name], 1):
                if document in qrels[name] and rng.random() < 1 / rank:
                    made.append((name, document))
            if rng.random() < 0.1:
                made.append((name, rng.choice(shown[name])))
        return made
    if kind == "few":
        return [(name, document) for name in names for document in shown[name] if document in qrels[name]][:20]
    if kind == "shuffled":
        right = [rng.choice(qrels[name]) for name in names]
        rng.shuffle(right)
        return list(zip(names, right))
    if kind == "last":
        return [(name, shown[name][-1]) for name in names]
    if kind == "random":
        return [(name, rng.choice(shown[name])) for name in names]
    if kind == "spam":
        spam = rng.sample(collection.documents, 3)
        return [(name, rng.choice(spam)) for name in names]
    if kind == "misled":
        half = sorted(collection.documents)
        rng.shuffle(half)
        other = {document: half[len(half) - 1 - place] for place, document in enumerate(half)}
        return [(name, other.get(shown[name][0], shown[name][0])) for name in names]
    raise ValueError(kind)


def log_lines(names, pairs, collection):
    """The log as UBI records, one search a minute."""
    clicked = {}
    for name, document in pairs:
        clicked.setdefault(name, []).append(document)
    for number, name in enumerate(names):
        second = number * 60
        time = f"2026-01-{1 + second // 86400:02}T{second // 3600 % 24:02}:{second // 60 % 60:02}:00Z"
        hits = collection.shown[name]
        yield {"application": "trial", "query_id": f"s{number}", "user_query": collection.queries[name],
               "object_id_field": "id", "timestamp": time, "query_response_hit_ids": hits,
               "query_attributes": {"generation": 1}}
        for document in clicked.get(name, []):
            yield {"application": "trial", "action_name": "click", "query_id": f"s{number}", "timestamp": time,
                   "event_attributes": {"object": {"object_id": document, "object_id_field": "id"}}}


def trial(kind, seed, collection, method):
    rng = random.Random(seed)
    names = [name for name in collection.names if name in collection.shown]
    rng.shuffle(names)
    size = int(math.exp(rng.uniform(math.log(min(600, len(names) // 2)), math.log(len(names) * 0.8))))
    inside, outside = names[:size], names[size:][:1000]
    database, log = collection.work / "trial.embdb", collection.work / "log.jsonl"
    shutil.rmtree(database, ignore_errors=True)
    shutil.copytree(collection.base, database)
    pairs = clicks(kind, inside, collection, rng)
    log.write_text("".join(json.dumps(line) + "\n" for line in log_lines(inside, pairs, collection)))
    run(collection.embdb, database, "log", "import", log)
    force = ["--force"] if kind == "good" else []
    report = run(collection.embdb, database, "retrain", *force, "--method", method, "--seed", seed, codes=(0, 7))[0]
    gate = report["gate"]
    passed = report["published"] and "by force" not in gate["reason"]
    result = {"kind": kind, "seed": seed, "clicks": len(pairs), "published": passed, "gain": gate["gain"],
              "ci95": gate["ci95"], "reason": gate["reason"]}
    if report["published"] and outside:
        result["true_gain"] = collection.true_score(database, outside) - collection.base_score(outside)
    shutil.rmtree(database)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embdb")
    parser.add_argument("set", type=pathlib.Path)
    parser.add_argument("--poisoned", type=int, default=200)
    parser.add_argument("--good", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("trials"))
    parser.add_argument("--model")
    parser.add_argument("--method", default="best")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    collection = Collection(options.embdb, options.set, options.work, options.model)
    poisons = ["shuffled", "random", "spam", "misled", "last", "few"]
    kinds = [poisons[n % len(poisons)] for n in range(options.poisoned)] + ["good"] * options.good
    results = []
    for number, kind in enumerate(kinds):
        results.append(trial(kind, options.seed * 100_000 + number, collection, options.method))
        print(json.dumps(results[-1]), flush=True)
    if options.out:
        options.out.write_text("".join(json.dumps(result) + "\n" for result in results))
    for kind in dict.fromkeys(kinds):
        of = [result for result in results if result["kind"] == kind]
        print(f"{kind}: {sum(r['published'] for r in of)} of {len(of)} published", file=sys.stderr)
    better = [r for r in results if r["kind"] == "good" and r.get("true_gain", 0) >= 0.02]
    if better:
        passed = sum(r["published"] for r in better)
        print(f"good with a true gain of .02 or more: {passed} of {len(better)} published", file=sys.stderr)


if __name__ == "__main__":
    main()
