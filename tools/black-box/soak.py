#!/usr/bin/env python3
"""One writer, eight readers that click, compaction and retraining at the same time, with kills between: answers stay right, and
neither memory nor open files nor the disk grow.

    soak.py EMBDB [--seconds 120] [--readers 8] [--kills 1] [--seed 0]

A reader asks for documents by their own text; in all but one of ten times it must find them first. Of memory what is not mapped
counts: in the last third of the time no process may have more than 1.3 times what it had in the second, and a few megabytes. The
directory, but for the log of searches, may have at most 2.5 times the bytes of the compacted database.
"""

import json
import os
import random
import statistics
import subprocess
import threading
import time

from common import Place, arguments, must, wrong

KEPT, PASSING = 400, 400
# Seconds between the searches of one reader that are logged. The log is kept, and who learns reads all of it: an hour of every
# search would measure that alone.
LOGGED_EVERY = 0.25
SUBJECTS = "cats rain bread trains music money rivers bridges winter glass".split()


def text(number):
    chance = random.Random(number)
    words = " ".join(f"{chance.choice(SUBJECTS)} {chance.randrange(10_000)}" for _ in range(6))
    return f"note {number} about {SUBJECTS[number % 10]}: {words}"


def size(folder):
    """Bytes of a database without its log of searches, which is kept and grows with each."""
    found = 0
    for root, folders, files in os.walk(folder):
        folders[:] = (name for name in folders if name != "feedback")
        for name in files:
            try:
                found += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                pass  # Removed between the two looks.
    return found


class Shell:
    """A shell that answers one statement after the other."""

    def __init__(self, embdb, database):
        command = [str(embdb), str(database), "--json", "--quiet", "--keep-going"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdin.write(".logging off\n")
        self.memory, self.files = [], []

    def ask(self, statement):
        """What the statement printed, as JSON; nothing if the shell was killed."""
        try:
            self.process.stdin.write(statement + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def look(self):
        """Notes bytes of memory that are not mapped files, and open files."""
        try:
            with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
                line = next(line for line in status if line.startswith("RssAnon"))
            self.memory.append((time.monotonic(), 1024 * int(line.split()[1])))
            self.files.append(len(os.listdir(f"/proc/{self.process.pid}/fd")))
        except (FileNotFoundError, ProcessLookupError, StopIteration):
            pass

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.stdin.close()
        code = self.process.wait(60)
        if code not in (0, 7):
            wrong(f"a shell ended with {code}")


class Soak:
    def __init__(self, wish, place):
        self.wish, self.place, self.database = wish, place, place / "db"
        self.shells = {}
        self.until = 0.0
        self.counts = {"searches": 0, "first": 0, "rounds": 0, "learnt": 0, "kills": 0}
        self.problem = None
        self.lock = threading.Lock()

    def count(self, **more):
        with self.lock:
            for name, number in more.items():
                self.counts[name] += number

    def shell(self, name):
        shell = self.shells.get(name)
        if shell is None or shell.process.poll() is not None:
            shell = self.shells[name] = Shell(self.wish.embdb, self.database)
        return shell

    def read(self, name):
        chance, logged = random.Random(name), 0.0
        while time.monotonic() < self.until and not self.problem:
            number = chance.randrange(KEPT)
            shell = self.shell(name)
            logs = time.monotonic() - logged > LOGGED_EVERY
            if logs:
                logged = time.monotonic()
            found = shell.ask(f"search '{text(number)}' -k 5" + " --log" * logs)
            if found is None:
                continue
            if "hits" not in found or len(found["hits"]) != 5:
                self.problem = f"{name}: {found}"
                return
            first = found["hits"][0]["id"] == f"keep-{number}"
            self.count(searches=1, first=int(first))
            if logs and first and chance.random() < 0.3:
                shell.ask("click 1")

    def write(self):
        while time.monotonic() < self.until and not self.problem:
            round_ = self.counts["rounds"]
            file = self.place / "passing.jsonl"
            with open(file, "w", encoding="utf-8") as out:
                for n in range(PASSING):
                    line = {"id": f"pass-{n}", "text": text(1_000_000 + n + PASSING * round_), "passing": True}
                    out.write(json.dumps(line) + "\n")
            shell = self.shell("writer")
            shell.ask(f"import {file} --batch 50")
            shell.ask("delete --where passing=true")
            shell.ask("compact")
            if round_ % 3 == 2:
                learnt = shell.ask("retrain --method adapter --force --time-budget 20s")
                self.count(learnt=int(bool(learnt and learnt.get("published"))))
            self.count(rounds=1)

    def watch(self, live):
        largest, last_kill = 0, time.monotonic()
        while time.monotonic() < self.until and not self.problem:
            for shell in list(self.shells.values()):
                shell.look()
            largest = max(largest, size(self.database))
            pause = self.wish.seconds / (self.wish.kills + 1) if self.wish.kills else float("inf")
            if time.monotonic() - last_kill > pause:
                last_kill = time.monotonic()
                self.shells[random.choice(list(self.shells))].kill()
                self.count(kills=1)
            time.sleep(0.5)
        return largest / live

    def grown(self):
        """Looks at memory and open files of each process that lived long enough; tells whose memory grew most."""
        thirds = [self.until - self.wish.seconds * share / 3 for share in (2, 1)]
        worst, growth = 1.0, "of no process"
        for name, shell in self.shells.items():
            middle = [m for t, m in shell.memory if thirds[0] <= t < thirds[1]]
            end = [m for t, m in shell.memory if t >= thirds[1]]
            if len(middle) < 10 or len(end) < 10:
                continue
            before, after = statistics.median(middle), statistics.median(end)
            if after > 1.3 * before + (8 << 20):
                wrong(f"{name} grew from {before / 1e6:.0f} to {after / 1e6:.0f} MB")
            if after / before > worst:
                worst, growth = after / before, f"of {name} from {before / 1e6:.0f} to {after / 1e6:.0f} MB"
            if max(shell.files[-10:]) > 64:
                wrong(f"{name} has {shell.files[-1]} files open")
        return growth

    def run(self):
        embdb, keep = self.wish.embdb, self.place / "keep.jsonl"
        with open(keep, "w", encoding="utf-8") as out:
            for n in range(KEPT):
                out.write(json.dumps({"id": f"keep-{n}", "text": text(n)}) + "\n")
        must(embdb, self.database, "import", keep, "--quiet")
        must(embdb, self.database, "compact")
        live = size(self.database)
        self.until = time.monotonic() + self.wish.seconds
        work = [threading.Thread(target=self.read, args=(f"reader-{n}",)) for n in range(self.wish.readers)]
        work.append(threading.Thread(target=self.write))
        for thread in work:
            thread.start()
        largest = self.watch(live)
        for thread in work:
            thread.join(120)
        if self.problem:
            wrong(self.problem)
        growth = self.grown()
        for shell in self.shells.values():
            shell.end()
        must(embdb, self.database, "delete", "--where", "passing=true")
        must(embdb, self.database, "compact")
        must(embdb, self.database, "check", "--deep")
        if must(embdb, self.database, "count").strip() != str(KEPT):
            wrong("documents are missing")
        c = self.counts
        if c["first"] < 0.9 * c["searches"]:
            wrong(f"{c['first']} of {c['searches']} searches found their document first")
        if largest > 2.5:
            wrong(f"the directory had {largest:.2f} times the bytes of the live database")
        print(
            f"{self.wish.seconds} s: {c['searches']} searches by {self.wish.readers} readers ({c['first']} first), {c['rounds']} rounds of "
            f"import, deletion and compaction, {c['learnt']} encoders learnt, {c['kills']} kills; memory grew most {growth}, disk at most {largest:.2f} times"
        )


def main():
    wish = arguments(__doc__, seconds=120, readers=8, kills=1)
    with Place() as place:
        Soak(wish, place).run()


main()
