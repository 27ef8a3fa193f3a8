"""embdb, driven by a Rust program (tools/ann of the project); the harness runs it for every phase."""
from .base import Adapter
import os


class Embdb(Adapter):
    name = "embdb"
    kind = "db"
    external = True
    bin = os.environ.get("EMBDB_ANN", "embdb-ann")
    args = []


class EmbdbInt8(Embdb):
    name = "embdb_int8"
    args = ["--codec", "int8"]


class EmbdbDense(Embdb):
    name = "embdb_dense"
    args = ["--index", "dense"]


class EmbdbHnswRs(Embdb):
    name = "embdb_hnsw_rs"
    args = ["--builder", "hnsw_rs"]
