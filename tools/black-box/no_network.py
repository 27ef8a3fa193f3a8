#!/usr/bin/env python3
"""Shows that the program has no network code: it links nothing that opens a connection or resolves a name, makes no such system
call, and does all its work in a network namespace without interfaces.

    no_network.py EMBDB [--seed 0]          needs nm, ldd and strace; unshare for the namespace
"""

import json
import shutil
import subprocess

from common import Place, arguments, must, skip, wrong

LIBRARIES = {"linux-vdso", "libgcc_s", "libm", "libc", "ld-linux-x86-64", "ld-linux-aarch64"}
FUNCTIONS = {"socket", "connect", "bind", "listen", "accept", "accept4", "sendto", "getaddrinfo", "gethostbyname", "res_query"}
SUBJECTS = ["cats", "rain", "bread", "trains", "music", "money"]


def lines(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if done.returncode:
        skip(f"{words[0]}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def linked(embdb):
    libraries = {line.split()[0].rsplit("/", 1)[-1].split(".so")[0] for line in lines("ldd", embdb)}
    if libraries - LIBRARIES:
        wrong(f"it links {sorted(libraries - LIBRARIES)}")
    functions = {line.split()[-1].split("@")[0] for line in lines("nm", "-D", "--undefined-only", embdb)}
    if functions & FUNCTIONS:
        wrong(f"it calls {sorted(functions & FUNCTIONS)}")
    print(f"it links {', '.join(sorted(libraries))}, and calls none of {', '.join(sorted(FUNCTIONS))}")


def used(embdb, place, prefix):
    """Import, search, click, learn and check."""
    database = place / "db"
    shutil.rmtree(database, ignore_errors=True)
    texts = [{"id": f"d{n}", "text": f"about {SUBJECTS[n % 6]} number {n} and so on"} for n in range(120)]
    pairs = [{"query": f"{SUBJECTS[n % 6]} number {n}", "positive": {"id": f"d{n}"}} for n in range(60)]
    (place / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in texts))
    (place / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in pairs))
    must(embdb, database, "import", place / "t.jsonl", prefix=prefix)
    found = json.loads(must(embdb, database, "search", "rain", "--log", "--json", prefix=prefix))
    must(embdb, database, "click", found["query_id"], found["hits"][0]["id"], prefix=prefix)
    words = ["--data", place / "p.jsonl", "--method", "adapter", "--epochs", 1, "--force"]
    must(embdb, database, "retrain", *words, prefix=prefix)
    must(embdb, database, "check", prefix=prefix)


def main():
    wish = arguments(__doc__)
    with Place() as place:
        linked(wish.embdb)
        if shutil.which("strace"):
            traced = place / "calls"
            used(wish.embdb, place, ("strace", "-f", "-A", "-o", traced, "-e", "trace=socket,connect,bind,sendto"))
            calls = [line for line in traced.read_text().splitlines() if "(" in line]
            if calls:
                wrong(f"a system call: {calls[0]}")
            print("import, search, click, retrain and check make no call of socket, connect, bind or sendto")
        else:
            print("skipped: there is no strace")
        namespace = ("unshare", "--map-root-user", "--net")
        if subprocess.run([*namespace, "true"], capture_output=True).returncode:
            skip("this system allows no network namespace")
        used(wish.embdb, place, namespace)
        print("they work in a network namespace without interfaces")


main()
