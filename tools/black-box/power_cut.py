#!/usr/bin/env python3
"""Cuts the power of a file system in the midst of imports: it is shut down without writing its journal, as by a power cut
(EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN, flag 2), and mounted again. Acknowledgements are written elsewhere.

Those of before the cut count. A call of fdatasync that is under way at the cut may return 0 for what is then lost (ext4, Linux
6.18: so it does for ten lines that write and sync); after a cut of real power nobody would hear of it. So one may be missing.

    power_cut.py EMBDB [--cuts 50] [--seed 0]          as root; needs mkfs.ext4, mkfs.xfs and a free loop device
"""

import fcntl
import os
import random
import shutil
import struct
import subprocess
import time

from common import BATCH, Place, acknowledged, arguments, create, documents, oracle, skip, wrong

SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
DOCUMENTS = 10_000
MEGABYTES = 512  # The least that mkfs.xfs takes is 300.


def call(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if done.returncode:
        skip(f"{' '.join(map(str, words))}: {done.stderr.strip()}")


def cut(embdb, place, kind, cuts):
    image, mounted = place / f"{kind}.img", place / kind
    with open(image, "wb") as file:
        file.truncate(MEGABYTES << 20)
    call(f"mkfs.{kind}", "-q", image)
    mounted.mkdir()
    call("mount", "-o", "loop", image, mounted)
    batches, midst = 0, 0
    try:
        create(embdb, mounted / "db")
        os.sync()
        for number in range(cuts):
            prefix, acks, file = f"r{number:05}", place / f"acks-{kind}-{number}", place / "documents.jsonl"
            documents(file, prefix, DOCUMENTS)
            command = [embdb, mounted / "db", "import", file, "--batch", BATCH, "--acks", acks, "--quiet"]
            child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(random.uniform(0.01, 0.2))
            folder = os.open(mounted, os.O_RDONLY)
            before = acknowledged(acks)
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
            os.close(folder)
            child.wait(timeout=30)
            if child.returncode not in (0, 4):
                wrong(f"{kind}: the import ended with exit code {child.returncode}")
            call("umount", mounted)
            call("mount", "-o", "loop", image, mounted)
            batches += before
            midst += child.returncode == 4
            after = acknowledged(acks)
            acks.write_bytes(b"\n" * before)
            there = oracle(embdb, mounted / "db", prefix, acks, DOCUMENTS)
            if there + 1 < after:
                wrong(f"{kind}: {after - there} batches that were acknowledged after the cut are not there")
    finally:
        subprocess.run(["umount", "-l", str(mounted)], capture_output=True)
    print(f"{kind}: {cuts} power cuts, {midst} of them while it wrote, {batches} acknowledged batches: none lost, none in part")


def main():
    wish = arguments(__doc__, cuts=50)
    if os.geteuid():
        skip("mounting needs root")
    with Place() as place:
        for kind in ("ext4", "xfs"):
            if shutil.which(f"mkfs.{kind}"):
                cut(wish.embdb, place, kind, wish.cuts)
            else:
                print(f"skipped: there is no mkfs.{kind}")


main()
