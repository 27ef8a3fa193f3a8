#!/usr/bin/env python3
"""Makes the databases of tests/golden.rs with a program: tools/golden/make.py PROGRAM

They go to tests/fixtures/golden/<version of the file format>. What a version wrote never changes: databases that are there
stay as they are. Run it once for each version that is released, and when the format changes. Needs Python 3 alone.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENCODER = ROOT / "tests/fixtures/encoder/tiny-bert"
TEXTS = ["how do i reset my password", "it rains in paris today", "cats and dogs", "the train to london is late",
         "a password must be long", "dogs bark at trains", "the weather in london", "cats sleep all day"]
QUERIES = ["forgot my password", "rain", "a dog and a cat"]


def vector(n):
    """The same in tests/golden.rs."""
    return [float((n * (i + 3) * 37 + i * 101) % 97 - 48) for i in range(8)]


def scattered(n):
    """The same in tests/golden.rs."""
    return [float(((n * 8 + i + 1) * 2654435761 % 2**32 >> 16) % 2001) - 1000 for i in range(8)]


def rows(numbers, version):
    return "".join(json.dumps({"id": f"v{n}", "text": f"{version} {n}", "vector": vector(n), "n": n,
                               "kind": f"k{n % 3}"}) + "\n" for n in numbers)


def main():
    program = os.path.abspath(sys.argv[1])
    place = Path(tempfile.mkdtemp())

    def run(*args, stdin=""):
        done = subprocess.run([program, *args], cwd=place, input=stdin, text=True, capture_output=True)
        if done.returncode:
            sys.exit(f"{args}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    run("empty", "create", "--vectors", "8")
    version = json.loads(run("empty", "info", "--json"))["format"]
    target = ROOT / "tests/fixtures/golden" / version

    # Sealed rows of every stored form and metric.
    for codec, metric in [("int8+f32", "cosine"), ("int8", "l2"), ("f32", "dot")]:
        name = f"vectors-{metric}"
        run(name, "create", "--vectors", "8", "--codec", codec, "--metric", metric)
        run(name, "import", "-", "--format", "jsonl", stdin=rows(range(120), "first"))
        run(name, "compact")

    # Enough rows for a graph; without f32 rows, which have the same form everywhere.
    run("graph", "create", "--vectors", "8", "--codec", "int8")
    lines = (json.dumps({"id": f"v{n}", "text": "", "vector": scattered(n)}) + "\n" for n in range(4200))
    run("graph", "import", "-", "--format", "jsonl", stdin="".join(lines))
    run("graph", "compact")

    # Sealed rows, and in the log others that replace some, deletions, and half of a frame, as a kill leaves it.
    run("tail", "create", "--vectors", "8")
    run("tail", "import", "-", "--format", "jsonl", stdin=rows(range(60), "first"))
    run("tail", "compact")
    run("tail", "import", "-", "--format", "jsonl", stdin=rows(range(50, 90), "second"))
    run("tail", "delete", "v3", "v7", "v70")
    log = sorted((place / "tail/log").iterdir())[-1]
    log.write_bytes(log.read_bytes() + b"EFRM" + bytes(range(50)))

    # Texts, a log of searches, and a generation that was learnt.
    run("text", "create", "--model", str(ENCODER), "--precision", "f32")
    texts = [{"id": f"t{n}", "text": text, "n": n} for n, text in enumerate(TEXTS)]
    run("text", "import", "-", "--format", "jsonl", stdin="".join(json.dumps(t) + "\n" for t in texts))
    found = json.loads(run("text", "search", QUERIES[0], "--log", "--json"))
    run("text", "click", found["query_id"], found["hits"][0]["id"])
    pairs = [{"query": f"{q} {n}", "positive": f"{t} {n}"} for n in range(20)
             for q, t in zip(QUERIES, [TEXTS[4], TEXTS[1], TEXTS[2]])]
    (place / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    run("text", "retrain", "--data", "pairs.jsonl", "--method", "adapter", "--epochs", "2", "--force")
    answers = [json.loads(run("text", "search", q, "--exact", "-k", "5", "--json")) for q in QUERIES]
    expected = [{"query": q, "hits": [[h["id"], h["distance"]] for h in a["hits"]]} for q, a in zip(QUERIES, answers)]

    target.mkdir(parents=True, exist_ok=True)
    fresh = [path for path in sorted(place.iterdir()) if path.is_dir() and not (target / path.name).exists()]
    for database in fresh:
        shutil.copytree(database, target / database.name, ignore=shutil.ignore_patterns("LOCK*"))
    if place / "text" in fresh:
        # The encoder is a fixture already; the test puts it back.
        for model in (target / "text/models").iterdir():
            if (model / "model.safetensors").exists():
                shutil.rmtree(model)
                (target / "text-encoder").write_text(model.name + "\n")
        (target / "text-answers.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(target, "new:", " ".join(path.name for path in fresh) or "nothing")
    shutil.rmtree(place)


main()
