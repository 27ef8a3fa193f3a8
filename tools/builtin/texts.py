"""Plain English texts out of Debian packages, one JSON object a line.

    texts.py FOLDER COUNT > TEXTS.jsonl

FOLDER has the .deb files. Passages of one to three sentences come from documentation, entries and examples from dictionaries;
to about every third passage a search is made from its own words: a question or a few keywords. COUNT of all of them are
printed, in random order. Equal input gives equal output.
"""

import gzip
import html
import json
import pathlib
import random
import re
import subprocess
import sys
import tarfile

# Passages of a package at most, so that none fills the list.
MOST = 35_000
MOST_OF = {"dict-wn": 140_000}
LENGTH = range(20, 421)  # characters of a passage
FILE_BYTES = 40_000_000

COMMON = set("the of and to in a is that for it as with on by be are this or an from not at which can you if was has have its "
             "use will all may".split())
STOP = COMMON | set("these those their there they them then than when where what who how why we our i he she his her but so such "
                    "also any each more most other some no into over under only must should would could been were being do does "
                    "did done about between through after before during per via within without using used one two new see same "
                    "own very just like yes".split())
# What people write into a search field about one thing, or two.
ONE = ["{0}", "{0}", "What is {0}?", "What are {0}?", "How does {0} work?", "What is the purpose of {0}?", "What does {0} mean?",
       "How is {0} used?", "Why is {0} important?", "What are the main types of {0}?", "What is an example of {0}?",
       "Who is responsible for {0}?", "What was the total {0} in {y}?", "How much did {0} increase in {y}?",
       "What are the risks of {0}?", "How many {0} were there in {y}?", "How did {0} change from {z} to {y}?"]
TWO = ["{0} {1}", "{0} {1}", "{0} and {1}", "How does {0} affect {1}?", "What is the relationship between {0} and {1}?",
       "What does {0} include regarding {1}?", "How are {0} and {1} related?", "What role does {0} play in {1}?",
       "Which {0} are used for {1}?", "What is {0} in {1}?", "Why does {0} require {1}?",
       "What caused the change in {0} related to {1} in {y}?", "How is {0} used for {1}?", "What influences {0} and {1}?"]

SPACE = re.compile(r"\s+")
SENTENCE = re.compile(r"(?<=[.!?])[\"')]?\s+(?=[A-Z\"'(])")
OTHER_LANGUAGE = re.compile(r"/(de|fr|es|pt|pt_BR|pt_PT|ru|ja|it|zh|nl|sv|pl|ca|uk|ko|tr|da)[/_.]"
                            r"|[-.](de|fr|es|ja|it|ru|ko|tr|da|zh-cn|pt|pt-br)\.")
MARKUP = re.compile(r"\.(html?|xml|xhp)(\.gz)?$")


def files(package):
    """Paths and texts of a package's files."""
    run = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=run.stdout, mode="r|") as archive:
        for member in archive:
            if member.isfile() and member.size < FILE_BYTES:
                data = archive.extractfile(member).read()
                packed = member.name.endswith((".gz", ".dz"))
                yield member.name, (gzip.decompress(data) if packed else data).decode("utf-8", "replace")


def english(text):
    """Whether a text is long enough, made of words, and English."""
    if len(text) not in LENGTH or text.count(" ") < 3 or len(re.findall(r"[{}<>|\\=_]", text)) > 1:
        return False
    if sum(c.isascii() and (c.isalpha() or c == " ") for c in text) < 0.85 * len(text):
        return False
    if sum(not c.isascii() for c in text) > 1:
        return False
    words = re.findall(r"[a-z']+", text.lower())
    return len(words) > 2 and (len(words) < 8 or sum(word in COMMON for word in words) >= 0.1 * len(words))


def passages(rng, text):
    """One to three sentences at a time."""
    sentences = SENTENCE.split(SPACE.sub(" ", text).strip())
    first = 0
    while first < len(sentences):
        count = rng.choice((1, 1, 1, 2, 2, 3))
        passage = " ".join(sentences[first : first + count])
        yield passage if len(passage) < LENGTH.stop else passage[: LENGTH.stop - 1].rsplit(" ", 1)[0]
        first += count


def of_markup(text):
    text = re.sub(r"(?is)<(script|style|pre|code|nav|head|table)\b.*?</\1>", " ", text)
    parts = re.split(r"(?i)</?(?:p|li|dd|dt|h\d|div|title|td|tr|br|section|item)\b[^>]*>", text)
    return [html.unescape(re.sub(r"<[^>]+>", "", part)) for part in parts]


def of_wordnet(text):
    """`word: gloss`, and the examples by themselves."""
    head, gloss = None, ""
    for line in text.split("\n") + ["end"]:
        sense = re.match(r"\s+(?:(?:n|v|adj|adv) )?(?:\d+: |: )(.*)", line)
        if gloss and (sense or not line[:1].isspace()):
            gloss = re.sub(r"\[(syn|ant|also):.*", "", gloss)
            meaning = re.split(r'[;"]', gloss)[0].strip()
            yield f"{head}: {meaning}"
            yield from re.findall(r'"([^"]{15,})"', gloss)
            gloss = ""
        if sense:
            gloss = sense.group(1)
        elif line[:1].isspace() and gloss:
            gloss += " " + line.strip()
        elif line.strip() and not line[0].isspace():
            head = line.strip().replace("_", " ")


def of_dictionary(text):
    """The first six sentences of an entry, two at a time, the word before the first."""
    for entry in re.split(r"\n(?=\S)", text):
        head, _, body = entry.partition("\n")
        head = head.split("\\")[0].strip()
        body = SPACE.sub(" ", re.sub(r"\[[^\]]*\]|[{}]", "", body)).strip()
        if head and len(head) <= 60:
            sentences = SENTENCE.split(body)[:6]
            for first in range(0, len(sentences), 2):
                part = " ".join(sentences[first : first + 2])[: LENGTH.stop - 21]
                yield f"{head}: {part}" if first == 0 else part


def of_package(rng, package, name):
    for path, text in files(package):
        if path.endswith(".dict.dz"):
            yield from (of_wordnet if name == "dict-wn" else of_dictionary)(text)
        elif "/fortunes/" in path and not path.endswith((".dat", ".u8")):
            yield from (one for part in text.split("\n%\n") for one in passages(rng, part))
        elif MARKUP.search(path) and not OTHER_LANGUAGE.search(path):
            yield from (one for part in of_markup(text) for one in passages(rng, part))


def phrases(text):
    """Runs of words between stop words and punctuation."""
    found, run = [], []
    for word in re.findall(r"[A-Za-z][A-Za-z'-]*|[^A-Za-z\s]", text) + ["."]:
        if len(word) > 1 and word.lower() not in STOP:
            run.append(word)
            continue
        if 1 <= len(run) <= 4 and sum(map(len, run)) > 4:
            found.append(" ".join(run))
        run = []
    return found


def search(rng, text):
    """What someone might have searched for who looks for this passage; of two passages in three, nothing."""
    found = phrases(text)
    if len(found) < 2 or rng.random() > 0.3:
        return []
    year = rng.randint(2005, 2024)
    first, last = (found[0], found[-1]) if rng.random() < 0.5 else rng.sample(found, 2)
    return [rng.choice(rng.choice((ONE, TWO))).format(first, last, y=year, z=year - 1)]


def main():
    folder, count = sys.argv[1], int(sys.argv[2])
    rng = random.Random(2)
    lines = []
    for package in sorted(pathlib.Path(folder).glob("*.deb")):
        name = package.name.split("_")[0]
        # Keys of a dictionary keep their order, and drop what is there already.
        texts = list(dict.fromkeys(filter(english, of_package(rng, package, name))))
        rng.shuffle(texts)
        most = MOST_OF.get(name, MOST)
        print(f"{name}: {min(len(texts), most)} of {len(texts)} passages", file=sys.stderr)
        lines += texts[:most]
    lines += [line for text in lines for line in search(rng, text)]
    rng.shuffle(lines)
    for text in lines[:count]:
        print(json.dumps({"text": text}))


if __name__ == "__main__":
    main()
