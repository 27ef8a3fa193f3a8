"""Times encoders on the same texts. Steps: texts, export, run; see README.md."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

# Lengths of real texts in tokens, by deciles: descriptions and documentation, cut at the limit.
MIXED = [12, 16, 20, 26, 34, 48, 70, 110, 180, 256]
BATCH = 32
SECONDS = float(os.environ.get("SECONDS_EACH", "3"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))


def tokenizer(model):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    return tokenizer


def texts(source, model, work):
    """Sets of texts with chosen numbers of tokens, joined from the lines of `source`."""
    lines = Path(source).read_text(encoding="utf-8").splitlines()
    summaries = [line.split("\t")[-1] for line in lines]
    summaries = [s for s in summaries if len(s) > 20 and s.isascii()]
    random.Random(1).shuffle(summaries)
    encoder, feed = tokenizer(model), iter(summaries)

    def text(tokens):
        while True:
            joined = ""
            while True:
                joined = f"{joined} {next(feed)}".strip()
                encoding = encoder.encode(joined)
                if len(encoding.ids) >= tokens:
                    break
            cut = joined[: encoding.offsets[tokens - 2][1]]
            if len(encoder.encode(cut).ids) == tokens:
                return cut

    sets = {f"{count} x {tokens}": [text(tokens) for _ in range(count)] for count in (1, 32) for tokens in (16, 64, 256)}
    lengths = MIXED * 16
    random.Random(2).shuffle(lengths)
    sets["160 x mixed"] = [text(tokens) for tokens in lengths]
    sets["640 x summary"] = [next(feed) for _ in range(640)]
    (Path(work) / "texts.json").write_text(json.dumps(sets))


def export(model, work):
    """The model for ONNX Runtime and OpenVINO: in f32, and with int8 weights."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import BertModel

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel.from_pretrained(model, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state

    f32, int8 = Path(work) / "model.onnx", Path(work) / "model_int8.onnx"
    if int8.exists():
        return
    ids = torch.randint(5, 3000, (2, 9))
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "tokens"} for name in [*names, "states"]}
    arguments = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    torch.onnx.export(
        Wrapped(), arguments, str(f32), input_names=names, output_names=["states"], dynamic_axes=axes, opset_version=17, dynamo=False
    )
    quantize_dynamic(f32, int8, weight_type=QuantType.QInt8, per_channel=True)


def pooled(states, mask):
    mask = mask[:, :, None].astype(np.float32)
    vectors = (states * mask).sum(1) / mask.sum(1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def torch_engine(model, threads):
    import torch
    from transformers import BertModel

    torch.set_num_threads(threads)
    bert = BertModel.from_pretrained(model, attn_implementation="sdpa").eval()

    def run(ids, mask):
        with torch.inference_mode():
            states = bert(torch.from_numpy(ids), torch.from_numpy(mask)).last_hidden_state
        return pooled(states.numpy(), mask)

    return run


def onnx_engine(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(ids, mask):
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return pooled(session.run(None, {name: inputs[name] for name in names})[0], mask)

    return run


def openvino_engine(path, threads):
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    names = [i.get_any_name() for i in compiled.inputs]

    def run(ids, mask):
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return pooled(compiled({name: inputs[name] for name in names})[0], mask)

    return run


def batches(ids):
    """Positions, ids and mask of batches of texts of nearly equal lengths."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        width = max(len(ids[i]) for i in part)
        padded = np.zeros((len(part), width), np.int64)
        mask = np.zeros_like(padded)
        for row, i in enumerate(part):
            padded[row, : len(ids[i])], mask[row, : len(ids[i])] = ids[i], 1
        yield part, padded, mask


def measure(engine, ids):
    """Vectors, and the least processor time of a pass."""
    made = list(batches(ids))
    vectors = np.zeros((len(ids), 0), np.float32)
    for part, padded, mask in made:
        result = engine(padded, mask)
        if vectors.shape[1] == 0:
            vectors = np.zeros((len(ids), result.shape[1]), np.float32)
        vectors[part] = result
    best, begin = float("inf"), time.monotonic()
    while time.monotonic() - begin < SECONDS:
        start = time.process_time()
        for _, padded, mask in made:
            engine(padded, mask)
        best = min(best, time.process_time() - start)
    return vectors, best


def run(model, work, threads, bench):
    work = Path(work)
    sets = json.loads((work / "texts.json").read_text())
    encoder = tokenizer(model)
    ids = {name: [e.ids for e in encoder.encode_batch(texts)] for name, texts in sets.items()}
    engines = {
        "torch f32": torch_engine(model, threads),
        "ONNX Runtime f32": onnx_engine(work / "model.onnx", threads),
        "ONNX Runtime int8": onnx_engine(work / "model_int8.onnx", threads),
        "OpenVINO f32": openvino_engine(work / "model.onnx", threads),
    }
    best, reference, least = {}, {}, {}

    def note(engine, name, vectors, seconds):
        reference.setdefault(name, vectors)
        cosine = float((vectors * reference[name]).sum(1).min())
        least[engine] = min(cosine, least.get(engine, 1.0))
        key = (engine, name)
        best[key] = min(seconds, best.get(key, float("inf")))

    for _ in range(ROUNDS):
        for engine, call in engines.items():
            for name in sets:
                note(engine, name, *measure(call, ids[name]))
        environment = dict(os.environ, EMBDB_BENCH_MODEL=model, EMBDB_BENCH_TEXTS=str(work / "texts.json"))
        environment |= {"EMBDB_BENCH_THREADS": str(threads), "EMBDB_BENCH_OUT": str(work)}
        for line in subprocess.run([bench, "--bench"], env=environment, check=True, capture_output=True, text=True).stdout.splitlines():
            precision, _, rest = line.partition(" ")
            columns = rest.rsplit(None, 4)
            if precision in ("f32", "int8") and columns[1] == str(threads):
                name = columns[0].strip()
                vectors = np.fromfile(work / f"{precision} {name}.f32", np.float32).reshape(len(sets[name]), -1)
                note(f"embdb {precision}", name, vectors, float(columns[2]) / 1e3)

    print(f"{threads} thread(s), processor time\n")
    print("| real tokens/s (ms where it is one text) |", " | ".join(sets), "| mixed, to OpenVINO f32 | least cosine to torch |")
    print("|---|" + "---|" * (len(sets) + 2))
    for engine in dict.fromkeys(engine for engine, _ in best):
        cells = []
        for name in sets:
            seconds, tokens = best[engine, name], sum(map(len, ids[name]))
            cells.append(f"{seconds * 1e3:.2f} ms" if len(sets[name]) == 1 else f"{tokens / seconds:,.0f}")
        ratio = best["OpenVINO f32", "160 x mixed"] / best[engine, "160 x mixed"]
        print(f"| {engine} |", " | ".join(cells), f"| {ratio:.2f} | {least[engine]:.5f} |")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["texts", source, model, work]:
            texts(source, model, work)
        case ["export", model, work]:
            export(model, work)
        case ["run", model, work, threads, bench]:
            run(model, work, int(threads), bench)
        case _:
            sys.exit(__doc__)
