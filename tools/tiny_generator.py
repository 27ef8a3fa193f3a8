"""Writes tests/fixtures/generator/tiny.gguf: a Llama-type model of a few kilobytes that writes letters and spaces.

    python3 tools/tiny_generator.py tests/fixtures/generator/tiny.gguf

Needs NumPy. The weights are random (seed 0); only the rows of letters and of the space in the output matrix are not
zero, so that these are the likeliest tokens whatever is asked. The types of the matrices are mixed on purpose.
"""

import struct
import sys

import numpy as np

HIDDEN, INNER, HEADS, KEY_HEADS, LAYERS, CONTEXT = 32, 64, 2, 1, 2, 1024
F32, Q4_1, Q8_0 = 0, 3, 8


def byte_letters():
    """The characters that stand for bytes in byte-level BPE, as GPT-2 assigns them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    table = {b: chr(b) for b in plain}
    table.update({b: chr(256 + n) for n, b in enumerate(others)})
    return [table[b] for b in range(256)]


def quantize(rows, kind):
    flat = rows.astype(np.float32).ravel()
    if kind == F32:
        return flat.tobytes()
    out = b""
    for block in flat.reshape(-1, 32):
        if kind == Q8_0:
            scale = np.float16(np.abs(block).max() / 127)
            codes = np.zeros(32) if scale == 0 else np.round(block / np.float32(scale))
            out += scale.tobytes() + codes.astype(np.int8).tobytes()
        else:
            low = np.float16(block.min())
            scale = np.float16((block.max() - block.min()) / 15)
            codes = np.clip(np.round((block - np.float32(low)) / max(np.float32(scale), 1e-8)), 0, 15).astype(np.uint8)
            out += scale.tobytes() + low.tobytes() + (codes[:16] | codes[16:] << 4).tobytes()
    return out


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def setting(key, kind, value):
    head = text(key)
    if kind == "u32":
        return head + struct.pack("<II", 4, value)
    if kind == "f32":
        return head + struct.pack("<If", 6, value)
    if kind == "text":
        return head + struct.pack("<I", 8) + text(value)
    if kind == "texts":
        return head + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return head + struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def main(path):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    tokens = special + byte_letters() + [a + b for a, b in merges]
    random = np.random.default_rng(0)
    draw = lambda *shape: random.normal(0, 0.4, shape)
    output = np.zeros((len(tokens), HIDDEN))
    for n, token in enumerate(tokens):
        if token == "Ġ" or len(token) == 1 and token.isascii() and token.islower():
            output[n] = random.normal(0, 3, HIDDEN)
    tensors = [("token_embd.weight", draw(len(tokens), HIDDEN), Q8_0), ("output_norm.weight", np.ones(HIDDEN), F32),
               ("output.weight", output, Q8_0)]
    head = HIDDEN // HEADS
    for layer in range(LAYERS):
        sizes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (KEY_HEADS * head, HIDDEN), "attn_v": (KEY_HEADS * head, HIDDEN),
                 "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
                 "ffn_down": (HIDDEN, INNER)}
        for n, (name, shape) in enumerate(sizes.items()):
            tensors.append((f"blk.{layer}.{name}.weight", draw(*shape), [Q8_0, Q4_1, F32][n % 3]))
        for name in ("attn_norm", "ffn_norm"):
            tensors.append((f"blk.{layer}.{name}.weight", np.ones(HIDDEN), F32))
    settings = [
        ("general.architecture", "text", "llama"),
        ("llama.block_count", "u32", LAYERS), ("llama.context_length", "u32", CONTEXT),
        ("llama.embedding_length", "u32", HIDDEN), ("llama.feed_forward_length", "u32", INNER),
        ("llama.attention.head_count", "u32", HEADS), ("llama.attention.head_count_kv", "u32", KEY_HEADS),
        ("llama.rope.dimension_count", "u32", head), ("llama.attention.layer_norm_rms_epsilon", "f32", 1e-5),
        ("tokenizer.ggml.model", "text", "gpt2"), ("tokenizer.ggml.pre", "text", "smollm"),
        ("tokenizer.ggml.tokens", "texts", tokens),
        ("tokenizer.ggml.token_type", "i32s", [3] * len(special) + [1] * (len(tokens) - len(special))),
        ("tokenizer.ggml.merges", "texts", [f"{a} {b}" for a, b in merges]),
    ]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    header += b"".join(setting(*one) for one in settings)
    data = b""
    for name, rows, kind in tensors:
        data += b"\0" * (-len(data) % 32)
        sizes = rows.shape[::-1]
        header += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, len(data))
        data += quantize(rows, kind)
    header += b"\0" * (-len(header) % 32)
    with open(path, "wb") as file:
        file.write(header + data)


main(sys.argv[1])
