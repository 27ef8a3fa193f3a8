#!/usr/bin/env python3
"""Offers model folders that were made to do harm: each is refused within 5 s and 300 MB, writes nothing beside the database, and
the model that was there goes on to serve.

    hostile_models.py EMBDB
"""

import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time

from common import Place, arguments, must, wrong

SECONDS, RESIDENT_KB = 5, 300 << 10
REFUSED = {1, 2, 5}


def table_of(folder):
    """The header of the weights, and where the values begin."""
    with open(folder / "model.safetensors", "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def with_table(change):
    """Weights with another header before the same values."""

    def spoil(folder, _):
        table, start = table_of(folder)
        change(table, next(name for name in table if name.endswith("word_embeddings.weight")))
        raw, file = json.dumps(table).encode(), folder / "model.safetensors"
        values = file.read_bytes()[start:]
        file.write_bytes(struct.pack("<Q", len(raw)) + raw + values)

    return spoil


def with_header_length(length):
    def spoil(folder, _):
        with open(folder / "model.safetensors", "r+b") as file:
            file.write(struct.pack("<Q", length))

    return spoil


def with_json(name, change):
    def spoil(folder, _):
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return spoil


def config(field, value):
    return with_json("config.json", lambda config: config.update({field: value}))


def module(path):
    return with_json("modules.json", lambda modules: modules[1].update(path=path))


def splitter(regex):
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return with_json("tokenizer.json", lambda tokenizer: tokenizer.update(pre_tokenizer=step))


def merges(folder, _):
    """Merges of a piece that no token is."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b" * 5000]], "unk_token": "a"}
    with_json("tokenizer.json", lambda tokenizer: tokenizer.update(model=model))(folder, None)


def vast_vocabulary(folder, _):
    with open(folder / "tokenizer.json", "wb") as file:
        file.truncate(1 << 30)


def nested(folder, _):
    (folder / "config.json").write_text("[" * 500_000)


def not_a_number(folder, _):
    table, start = table_of(folder)
    first, last = table["embeddings.LayerNorm.weight"]["data_offsets"]
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(start + first)
        file.write(struct.pack("<f", math.nan) * ((last - first) // 4))


def link(folder, outside):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(outside / "config.json")


def linked_folder(folder, outside):
    shutil.rmtree(folder / "2_Dense")
    (folder / "2_Dense").symlink_to(outside / "2_Dense")


def pipe(folder, _):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def device(folder, _):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


def archive(folder, _):
    """A packed gigabyte of zeros where the folder should be."""
    shutil.rmtree(folder)
    with open(folder, "wb") as file:
        subprocess.run(["sh", "-c", "head -c 1000000000 /dev/zero | gzip"], stdout=file, check=True)


def empty(folder, _):
    shutil.rmtree(folder)
    folder.mkdir()


CASES = {
    "a header of 2^63 bytes": with_header_length(1 << 63),
    "a header of 1 GB": with_header_length(1 << 30),
    "tensors that overlap": with_table(lambda t, n: t[n].update(data_offsets=t["embeddings.LayerNorm.bias"]["data_offsets"])),
    "a tensor beyond the file": with_table(lambda t, n: t[n].update(data_offsets=[0, 1 << 40])),
    "a tensor that ends before it begins": with_table(lambda t, n: t[n].update(data_offsets=[4096, 0])),
    "a shape whose product overflows": with_table(lambda t, n: t[n].update(shape=[1 << 40, 1 << 40])),
    "a shape that does not fit": with_table(lambda t, n: t[n].update(shape=[3, 5])),
    "an unknown type": with_table(lambda t, n: t[n].update(dtype="F1")),
    "values that are no numbers": not_a_number,
    "a width of 2^31": config("hidden_size", 1 << 31),
    "2^31 layers": config("num_hidden_layers", 1 << 31),
    "no heads": config("num_attention_heads", 0),
    "2^31 tokens": config("vocab_size", 1 << 31),
    "inner units beyond any": config("intermediate_size", 1 << 40),
    "a width that is text": config("hidden_size", "wide"),
    "brackets in brackets": nested,
    "a module above the folder": module("../../outside"),
    "a module at an absolute path": module("/etc"),
    "a link to a file outside": link,
    "a link to a folder outside": linked_folder,
    "a pipe": pipe,
    "a device": device,
    "an archive": archive,
    "an empty folder": empty,
    "a regular expression without end": splitter(r"(a+)+$"),
    "a regular expression that looks back": splitter(r"(?<=a)b(\1)"),
    "a repetition of repetitions": splitter(r"((a{1000}){1000}){1000}"),
    "merges of what is no token": merges,
    "a vocabulary of 1 GB": vast_vocabulary,
}


def measured(embdb, *words):
    """Exit code, message, seconds and kilobytes of a command, which is ended when it takes much too long."""
    start = time.monotonic()
    child = subprocess.Popen([str(embdb), *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    killer = subprocess.Popen(["sh", "-c", f"sleep {4 * SECONDS}; kill -9 {child.pid} 2>/dev/null"])
    message = child.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    killer.kill()
    killer.wait()
    return child.returncode, message, time.monotonic() - start, used.ru_maxrss


def inside(folder):
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*"))


def main():
    given = arguments(__doc__)
    with Place() as place:
        database, note = place / "db", place / "note.jsonl"
        note.write_text(json.dumps({"id": "a", "text": "cats and dogs"}) + "\n")
        must(given.embdb, database, "import", note, "--quiet")
        good, outside = place / "good", place / "outside"
        must(given.embdb, database, "model", "export", good)
        shutil.copytree(good, outside)
        answer = must(given.embdb, database, "search", "dogs", "--json")
        slowest, largest = 0.0, 0
        for name, spoil in CASES.items():
            folder = place / "model"
            shutil.copytree(good, folder)
            spoil(folder, outside)
            before = inside(database), inside(outside), sorted(os.listdir(place))
            code, message, seconds, kilobytes = measured(given.embdb, database, "model", "add", folder, "--quiet")
            if code not in REFUSED or "panicked" in message:
                wrong(f"{name}: exit {code}\n{message}")
            if seconds > SECONDS or kilobytes > RESIDENT_KB:
                wrong(f"{name}: {seconds:.1f} s, {kilobytes >> 10} MB")
            if (inside(database), inside(outside), sorted(os.listdir(place))) != before:
                wrong(f"{name}: something was written")
            if json.loads(must(given.embdb, database, "search", "dogs", "--json"))["hits"] != json.loads(answer)["hits"]:
                wrong(f"{name}: the model that was there answers otherwise")
            slowest, largest = max(slowest, seconds), max(largest, kilobytes)
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        must(given.embdb, database, "model", "add", good, "--name", "good", "--quiet")
        print(f"{len(CASES)} models refused, at most {slowest:.1f} s and {largest >> 10} MB; the stored one serves, a sound one is taken")


if sys.platform != "linux":
    sys.exit("needs Linux")
main()
