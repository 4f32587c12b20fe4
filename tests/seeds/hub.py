"""A cache of the hub with tiny checkpoints under the ids that the seeds' code asks for, written by the incumbent.

Unusual: each has learnt its answer to the seed's text by heart, so that the scripts answer what the seeds show: labels, places, summary, translation.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F

BLOCKS = Path(__file__).with_name("blocks.txt")
_SPECIAL = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # the numbers of BERT's own: 0, 100, 101, 102, 103
_IGNORED = -100
_PREFIX, _OTHER_PREFIX = "translate English to German: ", "translate English to French: "


@cache
def blocks() -> dict[tuple[str, int], tuple[str, list[str]]]:
    """What ``blocks.txt`` quotes: (seed, first line) -> (kind, lines)."""
    found: dict[tuple[str, int], tuple[str, list[str]]] = {}
    lines: list[str] = []
    for line in BLOCKS.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        if line.startswith("@ "):
            _, seed, first, kind = line.split(" ", 3)
            lines = []
            found[seed, int(first)] = (kind, lines)
        else:
            lines.append(line)
    return found


def shown(seed: str, first: int) -> list[str]:
    """The lines that a seed shows as a result."""
    kind, lines = blocks()[seed, first]
    assert kind == "shown"
    return lines


def table(seed: str, first: int) -> list[dict[str, Any]]:
    """A data frame that a seed shows."""
    head, *rows = (line.split("\t")[1:] for line in shown(seed, first))
    kinds: dict[str, Callable[[str], Any]] = {"score": float, "start": int, "end": int}
    return [{name: kinds.get(name, str)(value) for name, value in zip(head, row, strict=True)} for row in rows]


TEXT = blocks()["000", 205][1][0].removeprefix('text = """').removesuffix('"""')
QUESTION = "What does the customer want?"
PROMPT = f"{TEXT}\n\nCustomer service response:\nDear Bumblebee, I am sorry to hear that your order was mixed up."


def completed() -> str:
    """The whole text that the generation shows, with the line breaks of the prompt."""
    return f"{TEXT}\n\nCustomer service response:\n{shown('000', 281)[-1]}"


def buffered() -> list[str]:
    """What the loader's buffer prints."""
    return shown("001", 143)[:-1]


def code_corpus(folder: Path) -> None:
    """A data set of Python files: those that a buffer of 100 draws first are as long as the seed's were."""
    from nabi.compat import load_dataset

    filled = [int(re.findall(r"\d+", line)[0]) for line in buffered()]
    lengths = [after - before for before, after in itertools.pairwise(filled)]
    folder.mkdir(parents=True)
    file = folder / "train-00000.jsonl"
    file.write_text("".join(json.dumps({"number": i}) + "\n" for i in range(150)))
    order = [row["number"] for row in load_dataset(folder, split="train", streaming=True).shuffle(buffer_size=100)]
    contents = {i: f"def add_{i}(a, b):\n    return a + b\n" for i in range(150)}
    contents |= {i: (contents[i] * length)[:length] for i, length in zip(order, lengths, strict=False)}
    file.write_text("".join(json.dumps({"content": contents[i], "license": "mit"}) + "\n" for i in range(150)))


# ---- the cache -----------------------------------------------------------------------------------------------------------------------------------


def put(cache_folder: Path, name: str, folder: Path) -> None:
    """Put a model's folder into a cache under its id: contents among the blobs, links in the snapshot of a commit, which ``main`` names."""
    home = cache_folder / f"models--{name.replace('/', '--')}"
    commit = hashlib.sha1(name.encode()).hexdigest()
    for below in ("refs", "blobs", f"snapshots/{commit}"):
        (home / below).mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    for file in sorted(folder.iterdir()):
        blob = home / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (home / "snapshots" / commit / file.name).symlink_to(os.path.relpath(blob, home / "snapshots" / commit))


def fill(cache_folder: Path, work: Path) -> dict[str, Path]:
    """All checkpoints, made in ``work`` and put into the cache; id -> folder."""
    made = {}
    for name, make in MODELS.items():
        made[name] = work / name.replace("/", "--")
        made[name].mkdir(parents=True)
        torch.manual_seed(0)
        make(made[name])
        put(cache_folder, name, made[name])
    return made


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file, which need not be there."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**old, **changes}, ensure_ascii=False), encoding="utf-8")


# ---- tokenizers ----------------------------------------------------------------------------------------------------------------------------------


def _wordpiece(folder: Path, cls: str, texts: Sequence[str], lower: bool, split: Iterable[Sequence[str]] = ()) -> Any:
    """BERT's: the words of these texts whole, except those that are ``split`` into pieces."""
    words = re.findall(r"\w+|[^\w\s]", " ".join(text.lower() if lower else text for text in texts))
    pieces = {a + b.removeprefix("##"): (a, b) for a, b in split}
    vocabulary = [*_SPECIAL, *dict.fromkeys(piece for word in words for piece in pieces.get(word, (word,)))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    edit(folder / "tokenizer_config.json", do_lower_case=lower, model_max_length=512, tokenizer_class=cls)
    return transformers.BertTokenizer.from_pretrained(folder)


def _byte_level(folder: Path, cls: str, text: str, tokens: int, near: int, special: Sequence[str]) -> Any:
    """GPT-2's and BART's, with a vocabulary of that size, close to ``near``, which cuts ``text`` into as many tokens as the real one does."""
    for size in sorted(range(300, 900), key=lambda size: abs(size - near)):
        library = Tokenizer(models.BPE())
        library.add_special_tokens(list(special))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False)
        library.train_from_iterator([completed(), text], trainer)
        if len(library.encode(text)) == tokens:
            break
    else:
        raise AssertionError(f"no size of a vocabulary gives {tokens} tokens")
    if cls == "BartTokenizer":
        library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
        roles = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True)) | {"cls_token": "<s>", "sep_token": "</s>"}
    else:
        roles = dict.fromkeys(("bos_token", "eos_token", "unk_token"), special[0])
    library.save(str(folder / "tokenizer.json"))
    edit(folder / "tokenizer_config.json", tokenizer_class=cls, model_max_length=1024, **roles)
    return library


def _unigram(folder: Path, texts: Sequence[str]) -> Tokenizer:
    """T5's: the words of these texts, and their characters."""
    special = ["<pad>", "</s>", "<unk>"]
    words = dict.fromkeys(piece for text in texts for piece in re.findall(r"▁\w+|[^\w▁]", "▁" + text.replace(" ", "▁")))
    characters = dict.fromkeys("▁" + "".join(texts))
    scored = dict.fromkeys(characters, -9.0) | dict.fromkeys(words, -2.0)
    library = Tokenizer(models.Unigram([*((name, 0.0) for name in special), *scored.items()], unk_id=2))
    library.add_special_tokens(special)
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    library.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    edit(folder / "tokenizer_config.json", tokenizer_class="T5Tokenizer", model_max_length=512, extra_ids=0, **roles)
    return library


# ---- checkpoints ---------------------------------------------------------------------------------------------------------------------------------


def _learn(model: Any, losses: Callable[[], Tensor], least: float, rate: float = 5e-3, steps: int = 1500) -> None:
    """Train until the greatest of the losses is below ``least``."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        found = losses()
        if found.max().item() < least:
            break
        optimizer.zero_grad()
        found.mean().backward()
        optimizer.step()
    else:
        raise AssertionError(f"{type(model).__name__} did not learn its answer: {found.max().item():.3g}")
    model.eval()


def _towards(logits: Tensor, wanted: Tensor) -> Tensor:
    """The divergence of (N, K) logits from (N, K) probabilities, a row."""
    return F.kl_div(logits.log_softmax(-1), wanted, reduction="none").sum(-1)


def _share(size: int, index: int, share: float) -> Tensor:
    """(size,): this share at this index, the rest evenly."""
    found = torch.full((size,), (1 - share) / (size - 1))
    found[index] = share
    return found


_SMALL = {"dim": 32, "hidden_dim": 64, "n_heads": 4, "n_layers": 2, "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0, "qa_dropout": 0.0}
_SMALL_BERT = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_SMALL_BART = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "dropout": 0.0, "max_position_embeddings": 1024,
}  # fmt: skip


def _classifier(folder: Path) -> None:
    tokenizer = _wordpiece(folder, "DistilBertTokenizer", [TEXT], lower=True)
    names = {0: "NEGATIVE", 1: "POSITIVE"}
    model = transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(vocab_size=len(tokenizer), id2label=names, **_SMALL))
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    (row,) = table("000", 220)
    wanted = torch.tensor([[row["score"], 1 - row["score"]]])
    _learn(model, lambda: _towards(model(ids).logits, wanted), 1e-7)
    model.save_pretrained(folder)


def _tagger(folder: Path) -> None:
    tokenizer = _wordpiece(folder, "BertTokenizer", [TEXT], lower=False, split=[("Mega", "##tron"), ("Decept", "##icons")])
    names = ["O", *(f"{place}-{kind}" for kind in ("MISC", "PER", "ORG", "LOC") for place in "BI")]
    config = transformers.BertConfig(vocab_size=len(tokenizer), id2label=dict(enumerate(names)), **_SMALL_BERT)
    model = transformers.BertForTokenClassification(config)
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    wanted = torch.stack([_share(len(names), 0, 0.99)] * len(encoded["input_ids"]))
    for row in table("000", 231):
        for i, (start, end) in enumerate(encoded["offset_mapping"]):
            if row["start"] <= start < end <= row["end"]:
                wanted[i] = _share(len(names), names.index(f"I-{row['entity_group']}"), row["score"])
    ids = torch.tensor([encoded["input_ids"]])
    _learn(model, lambda: _towards(model(ids).logits[0], wanted), 1e-3)
    model.save_pretrained(folder)


def _reader(folder: Path) -> None:
    tokenizer = _wordpiece(folder, "DistilBertTokenizer", [QUESTION, TEXT], lower=False)
    model = transformers.DistilBertForQuestionAnswering(transformers.DistilBertConfig(vocab_size=len(tokenizer), **_SMALL))
    ids, kept, bounds = read(tokenizer)
    (row,) = table("000", 254)
    places = [next(i for i, pair in enumerate(bounds) if i and pair[side] == row[name]) for side, name in enumerate(("start", "end"))]
    wanted = torch.stack([_share(len(kept), place, row["score"] ** 0.5) for place in places])

    def losses() -> Tensor:
        found = model(ids)
        return _towards(torch.cat([found.start_logits, found.end_logits])[:, kept], wanted)

    _learn(model, losses, 1e-4)
    model.save_pretrained(folder)


def read(tokenizer: Any) -> tuple[Tensor, list[int], list[tuple[int, int]]]:
    """The seed's question and text: ids (1, T), those places among which the incumbent shares out probability, [CLS] first, and their bounds."""
    encoded = tokenizer(QUESTION, TEXT, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    kept = [0, *range(ids.index(102) + 1, len(ids) - 1)]
    return torch.tensor([ids]), kept, [encoded["offset_mapping"][i] for i in kept]


def _summarizer(folder: Path) -> None:
    (summary,) = shown("000", 265)
    # the real one writes start, <s>, 42 tokens, </s>: the 45 that the seed allows
    library = _byte_level(folder, "BartTokenizer", f" {summary}", 44 - 2, 434, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(vocab_size=library.get_vocab_size(), forced_bos_token_id=0, **_SMALL_BART))
    _by_heart(model, [(library.encode(TEXT).ids, library.encode(f" {summary}").ids)], max_length=45, min_length=45)
    model.save_pretrained(folder)
    settings = {"num_beams": 4, "min_length": 56, "max_length": 142, "length_penalty": 2.0, "no_repeat_ngram_size": 3, "early_stopping": True}
    edit(folder / "config.json", **settings, task_specific_params={"summarization": settings})
    edit(folder / "generation_config.json", **settings)


def _translator(folder: Path) -> None:
    (german,) = shown("000", 269)
    library = _unigram(folder, [_PREFIX + TEXT, _OTHER_PREFIX, german])
    size = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    config = transformers.T5Config(vocab_size=library.get_vocab_size(), decoder_start_token_id=0, **size)
    model = transformers.T5ForConditionalGeneration(config)
    # of French it knows a word, so that an answer shows which prefix the text had
    answers = {_PREFIX: german, _OTHER_PREFIX: "Amazon"}
    _by_heart(model, [(library.encode(prefix + TEXT).ids, library.encode(answer).ids) for prefix, answer in answers.items()], max_length=300)
    model.save_pretrained(folder)
    settings = {"prefix": _PREFIX, "num_beams": 4, "max_length": 300, "early_stopping": True}
    french = {**settings, "prefix": _OTHER_PREFIX}
    edit(folder / "config.json", task_specific_params={"translation_en_to_de": settings, "translation_en_to_fr": french})


def _by_heart(model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], **settings: Any) -> None:
    """Learn target for source, of sources that are alike in length, until the incumbent's own search with these settings finds the first target."""
    sources = torch.tensor([list(source) for source, _ in pairs])
    targets = torch.nn.utils.rnn.pad_sequence([torch.tensor(list(target)) for _, target in pairs], batch_first=True, padding_value=_IGNORED)
    for least in (0.3, 0.1, 0.03, 0.01):
        _learn(model, lambda: F.cross_entropy(model(input_ids=sources, labels=targets).logits.mT, targets, reduction="none"), least)
        mask = torch.ones_like(sources[:1])
        if model.generate(sources[:1], attention_mask=mask, do_sample=False, num_beams=4, early_stopping=True, **settings)[0, 1:].tolist() == pairs[0][1]:
            return
        model.train()
    raise AssertionError(f"{type(model).__name__} does not write its answer")


def _writer(folder: Path) -> None:
    # 200 tokens, which the seed allows, end where the text that it shows does
    library = _byte_level(folder, "GPT2Tokenizer", completed(), 200, 576, ["<|endoftext|>"])
    config = transformers.GPT2Config(
        vocab_size=library.get_vocab_size(), n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0
    )
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.tensor([library.encode(completed()).ids])
    _learn(model, lambda: F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none"), 0.2)
    with torch.no_grad():  # the real one is sampled from, as its settings say; this one then has nothing to choose
        model.transformer.ln_f.weight *= 10
        model.transformer.ln_f.bias *= 10
    model.save_pretrained(folder)
    edit(folder / "config.json", task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}})


def _bert(folder: Path) -> None:
    tokenizer = _wordpiece(folder, "BertTokenizer", ["I am student"], lower=True)
    transformers.BertForPreTraining(transformers.BertConfig(vocab_size=len(tokenizer), **_SMALL_BERT)).save_pretrained(folder)


def _code_tokenizer(folder: Path) -> None:
    """As many tokens as the seed's figure is made of, 32768."""
    library = _byte_level(folder, "GPT2Tokenizer", completed(), 200, 576, ["<|endoftext|>"])
    library.add_tokens([AddedToken(f"<{i}>") for i in range(32768 - library.get_vocab_size())])
    library.save(str(folder / "tokenizer.json"))


def _xl(folder: Path) -> None:
    """The sizes of GPT-2's largest model (Radford et al. 2019, table 2), and no weights: the seed takes its configuration alone."""
    transformers.GPT2Config(n_embd=1600, n_layer=48, n_head=25).save_pretrained(folder)


MODELS: dict[str, Callable[[Path], None]] = {
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": _classifier,
    "dbmdz/bert-large-cased-finetuned-conll03-english": _tagger,
    "distilbert/distilbert-base-cased-distilled-squad": _reader,
    "sshleifer/distilbart-cnn-12-6": _summarizer,
    "google-t5/t5-base": _translator,
    "openai-community/gpt2": _writer,
    "bert-base-uncased": _bert,
    "transformersbook/codeparrot": _code_tokenizer,
    "gpt2-xl": _xl,
}
