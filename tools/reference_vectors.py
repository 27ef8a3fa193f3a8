#!/usr/bin/env python3
"""Makes the reference vectors of tests/encoder_parity.rs with sentence-transformers.

    python3 tools/reference_vectors.py MINILM_FOLDER

Needs the packages torch and sentence-transformers; MINILM_FOLDER comes from tools/fetch-minilm.sh. Writes
into tests/fixtures/encoder:

    texts.jsonl      200 texts: questions, long and very long ones, other scripts, next to nothing
    tiny-bert/       a small BERT with random weights; mean pooling, normalised
    tiny-cls, tiny-max, tiny-dense
                     files that turn it into variants when laid over it
    *.npy            vectors of every text, float32: minilm, tiny-bert and the variants
    versions.json    what made them

Everything but the arithmetic's last bits follows from the seeds below.
"""

import collections
import json
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy
import sentence_transformers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "encoder"
HIDDEN = 32
DENSE = 24
VOCABULARY = 600
MAX_TOKENS = 48

SUBJECTS = """the old lighthouse|a quarterly report|our database|the northern railway|every gardener
the choir of the village|a flock of starlings|the new compiler|her grandmother|the harbour master
a small bakery|the mountain rescue team|the city council|an honest witness|the winter storm
my neighbour's violin|the museum of clocks|a retired physicist|the school orchestra|the ferry""".replace("\n", "|").split("|")
VERBS = """closes|reports|keeps|forgets|measures|repairs|describes|avoids|collects|announces|misses
follows|rewrites|paints|doubles|questions""".replace("\n", "|").split("|")
OBJECTS = """the price of wool|eleven broken lamps|a list of names|interest on the loan|the shape of the coast
two thousand records|its own shadow|the rules of chess|bread at dawn|a vaccine against measles
the annual budget|letters from abroad|the noise of traffic|snow on the pass|an index of songs
revenue of $4.2 million|the last train home|cells under a microscope|the tides|old maps""".replace("\n", "|").split("|")
ENDINGS = """before sunrise|without a word|in 1987|for the third time|near the border|as the law requires|at 3.5 percent
after the flood|on Tuesdays|with great care|since the merger|because nobody asked|if it rains
against all advice""".replace("\n", "|").split("|")
QUESTIONS = """Who|Why|When|How often|Where""".split("|")

SPECIAL = [
    "", " ", "\n\t ", ".", "?!", "...", "a", "I", "42", "-1.5e-3", "()[]{}<>", "!!!!!!!!!!!!!!!!", "\u0000", "\ufffd",
    "\u200b", "[CLS]", "[SEP] in the middle [SEP] of [MASK] a text", "x" * 99, "y" * 150, "word" * 60,
    "naïve café, Zürich, Ångström, façade, jalapeño", "NAÏVE CAFÉ", "e\u0301 and é are the same letter",
    "Der Zug nach Köln fährt heute später ab, weil es geschneit hat.",
    "Où sont passées les clés de la bibliothèque ?", "El niño comió una manzana y bebió agua.",
    "Поезд отправляется в семь часов утра.", "Το τρένο φεύγει στις επτά το πρωί.",
    "列車は朝七時に出発します。", "火车早上七点出发。我们去北京。", "기차는 아침 일곱 시에 출발합니다.",
    "القطار يغادر في السابعة صباحا", "הרכבת יוצאת בשבע בבוקר", "रेलगाड़ी सुबह सात बजे चलती है।",
    "🚂🚃🚃 leaving 👋🏽", "👩‍👩‍👧‍👦", "½ cup of sugar, 20 °C, 3 × 4 = 12, x² + y²", "ﬁne ﬂour",
    "https://example.org/a/b?c=d&e=%20f#g", "user.name+tag@example.org", "C:\\temp\\new\\file.txt",
    "fn main() { println!(\"{}\", 1 + 1); }", "SELECT id, title FROM docs WHERE year >= 2019 ORDER BY id;",
    "{\"key\": [1, 2, 3], \"other\": null}", "line one\nline two\r\nline three", "tab\tseparated\tvalues",
    "  leading and trailing   ", "“Curly” ‘quotes’ — and dashes – here…", "don't can't won't it's o'clock",
    "U.S.A. vs. U.K., e.g. Dr. Smith et al.",
]


def sentence(rng):
    words = [rng.choice(SUBJECTS), rng.choice(VERBS), rng.choice(OBJECTS)]
    if rng.random() < 0.6:
        words.append(rng.choice(ENDINGS))
    return " ".join(words)


def make_texts():
    rng = random.Random(2024)
    texts = list(SPECIAL)
    while len(texts) < 90:
        texts.append(f"{rng.choice(QUESTIONS)} {sentence(rng)}?")
    while len(texts) < 130:
        texts.append(sentence(rng).capitalize() + ".")
    while len(texts) < 200:
        # 2 to 71 sentences: up to about 900 tokens, far over the limits of both models.
        count = 2 + (len(texts) - 130)
        texts.append(" ".join(sentence(rng).capitalize() + rng.choice(".!?;") for _ in range(count)))
    return texts


def make_tokenizer(texts):
    """WordPiece over all letters, the most frequent words and the most frequent endings."""
    words = collections.Counter(w for text in texts for w in re.findall(r"[a-z]+", text.lower()))
    letters = sorted({c for text in texts for c in text.lower() if c.isascii() and c.isprintable() and c != " "})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary += letters + [f"##{c}" for c in letters] + ["é", "ü", "京", "。", "##é", "##ü"]
    for word, _ in words.most_common():
        # Only three words of four are whole, so that the others are cut into pieces.
        if len(vocabulary) < VOCABULARY - 100 and len(word) > 1 and len(word) % 4:
            vocabulary.append(word)
    endings = collections.Counter(w[i:] for w in words for i in range(1, len(w) - 1))
    for ending, _ in endings.most_common():
        if len(vocabulary) < VOCABULARY:
            vocabulary.append(f"##{ending}")
    ids = {piece: i for i, piece in enumerate(dict.fromkeys(vocabulary))}

    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return tokenizer


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def module(kind, path):
    return {"path": path, "type": f"sentence_transformers.models.{kind}"}


def write_chain(folder, pooling, *rest):
    """modules.json and the pooling's configuration, in the layout that every version reads."""
    modules = [module("Transformer", ""), module("Pooling", "1_Pooling"), *rest]
    write_json(folder / "modules.json", [{"idx": i, "name": str(i), **m} for i, m in enumerate(modules)])
    write_json(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": HIDDEN,
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": pooling == "max",
        "pooling_mode_mean_sqrt_len_tokens": False,
    })


def make_tiny(texts):
    folder = FIXTURES / "tiny-bert"
    tokenizer = make_tokenizer(texts)
    folder.mkdir(parents=True)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64,
    )
    torch.manual_seed(7)
    bert = BertModel(config, add_pooling_layer=False)
    # Wide enough for attention to prefer some tokens, and no two parameters alike.
    state = {name: torch.randn_like(p) * 0.3 + ("LayerNorm.weight" in name) for name, p in bert.named_parameters()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute", "pad_token_id": 0, "type_vocab_size": 2,
        **{key: getattr(config, key) for key in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
            "max_position_embeddings")},
    })
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64, "pad_token": "[PAD]",
        "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
    })
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    write_chain(folder, "mean", module("Normalize", "2_Normalize"))

    write_chain(FIXTURES / "tiny-cls", "cls")
    write_chain(FIXTURES / "tiny-max", "max", module("Normalize", "2_Normalize"))
    dense = FIXTURES / "tiny-dense"
    write_chain(dense, "mean", module("Dense", "2_Dense"), module("Dense", "3_Dense"), module("Normalize", "4_Normalize"))
    for path, inputs, outputs, bias, activation in [
        ("2_Dense", HIDDEN, HIDDEN, True, "activation.Tanh"),
        ("3_Dense", HIDDEN, DENSE, False, "linear.Identity"),
    ]:
        write_json(dense / path / "config.json", {
            "in_features": inputs, "out_features": outputs, "bias": bias,
            "activation_function": f"torch.nn.modules.{activation}",
        })
        state = {"linear.weight": torch.randn(outputs, inputs) * 0.3}
        if bias:
            state["linear.bias"] = torch.randn(outputs) * 0.3
        save_file(state, dense / path / "model.safetensors")


def write_vectors(name, folder, texts):
    model = SentenceTransformer(str(folder), device="cpu")
    vectors = model.encode(texts, convert_to_numpy=True).astype("<f4")
    assert numpy.isfinite(vectors).all()
    numpy.save(FIXTURES / f"{name}.npy", vectors)
    print(name, vectors.shape, "limit", model.max_seq_length)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir(parents=True)
    texts = make_texts()
    with open(FIXTURES / "texts.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    make_tiny(texts)
    write_vectors("minilm", sys.argv[1], texts)
    write_vectors("tiny-bert", FIXTURES / "tiny-bert", texts)
    for variant in ("tiny-cls", "tiny-max", "tiny-dense"):
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copytree(FIXTURES / "tiny-bert", scratch, dirs_exist_ok=True)
            shutil.copytree(FIXTURES / variant, scratch, dirs_exist_ok=True)
            write_vectors(variant, scratch, texts)
    packages = (torch, transformers, sentence_transformers)
    write_json(FIXTURES / "versions.json", {p.__name__: p.__version__ for p in packages})


if __name__ == "__main__":
    main()
