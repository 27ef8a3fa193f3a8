#!/usr/bin/env python3
"""Makes a corpus of any size of real-looking text, to measure imports with.

    tools/big_corpus.py --megabytes 1000 texts.jsonl… > big.jsonl

Sentences of the given texts (JSON lines with `text`) are shuffled into documents of 0.5 to 20 KB, with equal shares
of each order of magnitude; one in 2000 has 1 MB. The same arguments give the same bytes.
"""

import argparse
import json
import random
import re
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("texts", nargs="+")
    arguments = parser.parse_args()
    sentences = []
    for path in arguments.texts:
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                sentences.extend(re.split(r"(?<=[.!?])\s+", json.loads(line)["text"]))
    sentences = [sentence for sentence in sentences if sentence]
    chance = random.Random(arguments.seed)
    left, number = arguments.megabytes * 1_000_000, 0
    while left > 0:
        size = 1_000_000 if number % 2000 == 1999 else int(500 * 40 ** chance.random())
        parts, length = [], 0
        while length < size:
            parts.append(chance.choice(sentences))
            # Now and then a paragraph ends.
            parts.append("\n\n" if chance.random() < 0.1 else " ")
            length += len(parts[-2].encode()) + len(parts[-1])
        document = {"id": f"doc{number}", "title": parts[0][:60], "text": "".join(parts), "n": number % 97}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        left -= length
        number += 1


if __name__ == "__main__":
    main()
