#!/usr/bin/env python3
"""Makes the small models of tests/encoder_families.rs, one of each family, and their reference vectors.

    python3 tools/family_models.py

Needs the packages torch, transformers, sentence-transformers and sentencepiece, and model2vec for `static`. Reads
tests/fixtures/encoder/texts.jsonl (of tools/reference_vectors.py), of which every fourth text is used, and writes

    tests/fixtures/encoder/families/NAME/      the model: the real architecture, random weights, a tokenizer of its kind
    tests/fixtures/encoder/families/NAME.npy   vectors of the texts: as queries, then as documents

Everything but the arithmetic's last bits follows from the seeds below.
"""

import base64
import io
import json
import shutil
import sys
from pathlib import Path

import numpy
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from reference_vectors import module, write_json

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "encoder"
FAMILIES = FIXTURES / "families"
HIDDEN = 24
HEADS = 3
INNER = 48
LAYERS = 2
MAX_TOKENS = 72
PROMPTS = {"query": "query: ", "passage": "passage: "}

# What a tokenizer's table of characters does, as sentencepiece wants it: code points to code points.
CHARACTERS = {"\uff21": "A", "ﬁ": "fi", "ﬂ": "fl", "½": "1/2", "²": "2", "\u3000": " ", "\u200b": " ", "…": "...",
              "é": "e", "\t": " ", "\n": " ", "\r": " "}


def read_texts():
    lines = (FIXTURES / "texts.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines][::4]


def template(tokenizer, before, after):
    special = [(t, tokenizer.token_to_id(t)) for t in (before, after) if t]
    single = " ".join(t for t in (before, "$A", after) if t)
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)


def wordpiece(texts, special, lowercase=True):
    """`special`: padding, unknown, first and last of a text, in the order of their ids (any)."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=special["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=special["order"], limit_alphabet=70, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    template(tokenizer, special["cls"], special["sep"])
    return tokenizer


BERT = {"order": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}
ROBERTA = {"order": ["<s>", "<pad>", "</s>", "<unk>"], "pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>"}


def fields(data):
    """Fields of a protocol buffer that hold bytes: (number, bytes)."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        kind = key & 7
        if kind == 2:
            length = varint()
            yield key >> 3, data[at:at + length]
            at += length
        elif kind == 0:
            varint()
        else:
            at += 8 if kind == 1 else 4


def charsmap(texts):
    """A table of characters, compiled by sentencepiece."""
    import sentencepiece

    table = FAMILIES / "rules.tsv"
    hexes = lambda text: " ".join(f"{ord(c):X}" for c in text)
    table.write_text("".join(f"{hexes(a)}\t{hexes(b)}\n" for a, b in CHARACTERS.items()))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=200, hard_vocab_limit=False,
        normalization_rule_tsv=str(table), minloglevel=2)
    table.unlink()
    (normalizer,) = [data for number, data in fields(model.getvalue()) if number == 3]
    (compiled,) = [data for number, data in fields(normalizer) if number == 2]
    return compiled


def unigram(texts):
    """As XLM-R's: a table of characters, runs of spaces joined, words marked by U+2581, pieces by their likelihood."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(charsmap(texts)), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=ROBERTA["order"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    template(tokenizer, "<s>", "</s>")
    return tokenizer


QWEN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def bytes_bpe(texts, end):
    """As Qwen's: pairs of bytes, cut by a regular expression; `end` after each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=[end], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    template(tokenizer, None, end)
    return tokenizer


def spm_bpe(texts):
    """As Mistral's: sentencepiece's pairs, spaces replaced before anything else, `<s>` before and `</s>` after."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], limit_alphabet=90, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    template(tokenizer, "<s>", "</s>")
    return tokenizer


def write_modules(folder, modules):
    write_json(folder / "modules.json", [{"idx": i, "name": str(i), **m} for i, m in enumerate(modules)])


def randomise(model, seed):
    """No two parameters alike, and wide enough for attention to prefer some tokens."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        around = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        p.data = torch.randn(p.shape, generator=generator) * 0.25 + around


def write_transformer(name, config, tokenizer, special, *, pooling="mean", include_prompt=True, prompts=None,
                      dtype=torch.float16, prefix="", shards=1, seed=1):
    folder = FAMILIES / name
    folder.mkdir(parents=True)
    model = transformers.AutoModel.from_config(config)
    randomise(model, seed)
    state = {prefix + key: value.to(dtype).contiguous() for key, value in model.state_dict().items()
             if "pooler" not in key and value.is_floating_point() and "inv_freq" not in key}
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        where = {key: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, key in enumerate(sorted(state))}
        for file in sorted(set(where.values())):
            part = {key: state[key] for key in state if where[key] == file}
            save_file(part, folder / file, metadata={"format": "pt"})
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    write_json(folder / "config.json", {**config.to_diff_dict(), "architectures": [type(model).__name__]})
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512,
        **{f"{key}_token": special[key] for key in ("pad", "unk", "cls", "sep", "eos") if special.get(key)}})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    write_json(folder / "1_Pooling" / "config.json", {
        "word_embedding_dimension": config.hidden_size, "include_prompt": include_prompt,
        **{f"pooling_mode_{key}": key.startswith(pooling) for key in (
            "cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")},
        "pooling_mode_mean_sqrt_len_tokens": False})
    write_modules(folder, [module("Transformer", ""), module("Pooling", "1_Pooling"), module("Normalize", "2_Normalize")])
    if prompts:
        write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})


def write_static(texts):
    """In model2vec's layout, with weights and a mapping; and as sentence-transformers saves it."""
    tokenizer = wordpiece(texts, BERT)
    tokenizer.post_processor = None
    words = tokenizer.get_vocab_size()
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(200, HIDDEN, generator=generator)
    weights = torch.rand(words, generator=generator).double()
    mapping = torch.randint(0, 200, (words,), generator=generator)
    folder = FAMILIES / "static"
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    save_file({"embeddings": table.half(), "weights": weights, "mapping": mapping}, folder / "model.safetensors")
    write_json(folder / "config.json", {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True,
                                        "hidden_dim": HIDDEN, "seq_length": 1000000, "max_length": MAX_TOKENS})
    write_modules(folder, [module("StaticEmbedding", "."), module("Normalize", "1_Normalize")])
    folder = FAMILIES / "static-module"
    inner = folder / "0_StaticEmbedding"
    inner.mkdir(parents=True)
    tokenizer.save(str(inner / "tokenizer.json"), pretty=False)
    save_file({"embedding.weight": torch.randn(words, HIDDEN, generator=generator)}, inner / "model.safetensors")
    write_modules(folder, [module("StaticEmbedding", "0_StaticEmbedding")])


def write_vectors(name, texts):
    if name == "static":
        from model2vec import StaticModel

        # Long texts are cut by model2vec at so many letters; the rest of it is the cut at tokens, which both know.
        model = StaticModel.from_pretrained(FAMILIES / name)
        model.median_token_length = 1000
        vectors = model.encode(texts)
        vectors = numpy.concatenate([vectors, vectors]).astype("<f4")
    else:
        model = SentenceTransformer(str(FAMILIES / name), device="cpu", model_kwargs={"dtype": torch.float32})
        # What stands for documents here is "passage", which newer versions pass over for an empty "document".
        prompt = model.prompts.get("passage", "")
        vectors = numpy.concatenate([
            model.encode_query(texts, convert_to_numpy=True),
            model.encode_document(texts, prompt=prompt, convert_to_numpy=True)]).astype("<f4")
    assert numpy.isfinite(vectors).all()
    numpy.save(FAMILIES / f"{name}.npy", vectors)
    print(name, vectors.shape)


def main():
    texts = read_texts()
    names = sys.argv[1:]
    shutil.rmtree(FAMILIES, ignore_errors=True)
    FAMILIES.mkdir(parents=True)
    torch.manual_seed(7)
    t = transformers
    shape = dict(hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER)

    # BGE's recipe: the first token's state, an instruction before queries.
    words = wordpiece(texts, BERT)
    write_transformer("bge", t.BertConfig(vocab_size=words.get_vocab_size(), max_position_embeddings=128, **shape), words,
                      BERT, pooling="cls", prefix="bert.", seed=1,
                      prompts={"query": "Represent this sentence for searching relevant passages: "})
    write_transformer("unpooled-prompt", t.BertConfig(vocab_size=words.get_vocab_size(), max_position_embeddings=128, **shape),
                      words, BERT, include_prompt=False, prompts=PROMPTS, seed=2)
    pieces = unigram(texts)
    write_transformer("xlm-roberta", t.XLMRobertaConfig(
        vocab_size=pieces.get_vocab_size(), max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, **shape), pieces, ROBERTA, prefix="roberta.", prompts=PROMPTS, seed=3)
    words = wordpiece(texts, ROBERTA)
    write_transformer("mpnet", t.MPNetConfig(
        vocab_size=words.get_vocab_size(), max_position_embeddings=130, layer_norm_eps=1e-5, pad_token_id=1,
        relative_attention_num_buckets=32, **shape), words, ROBERTA, seed=4)
    words = wordpiece(texts, BERT)
    write_transformer("distilbert", t.DistilBertConfig(
        vocab_size=words.get_vocab_size(), max_position_embeddings=128, dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS,
        hidden_dim=INNER), words, BERT, prefix="distilbert.", dtype=torch.bfloat16, seed=5)

    decoder = dict(shape, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-6)
    decoder["hidden_size"] = 32
    qwen = {"pad": "<|endoftext|>", "eos": "<|endoftext|>"}
    codes = bytes_bpe(texts, "<|endoftext|>")
    size = codes.get_vocab_size()
    instruction = {"query": "Instruct: Given a web search query, retrieve passages that answer it\nQuery:"}
    write_transformer("qwen3", t.Qwen3Config(vocab_size=size, head_dim=12, rope_theta=1e6, **decoder), codes, qwen,
                      pooling="lasttoken", dtype=torch.bfloat16, prompts=instruction, seed=6)
    write_transformer("qwen2", t.Qwen2Config(vocab_size=size, rope_theta=1e6, **decoder), codes, qwen,
                      pooling="lasttoken", prefix="model.", seed=7)
    pairs = spm_bpe(texts)
    mistral = {"pad": "</s>", "eos": "</s>", "unk": "<unk>"}
    write_transformer("mistral", t.MistralConfig(vocab_size=pairs.get_vocab_size(), sliding_window=None, **decoder), pairs,
                      mistral, pooling="lasttoken", prefix="model.", shards=2, seed=8)
    write_transformer("llama", t.LlamaConfig(vocab_size=pairs.get_vocab_size(), **decoder), pairs, mistral,
                      pooling="mean", seed=9)
    write_static(texts)
    for folder in sorted(p for p in FAMILIES.iterdir() if p.is_dir() and (not names or p.name in names)):
        write_vectors(folder.name, texts)


if __name__ == "__main__":
    main()
