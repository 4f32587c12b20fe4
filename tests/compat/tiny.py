"""Tiny models and tokenizers of which ``tests/golden/v4_compat.py`` asks the incumbent's version 4 and the tests ask ``nabi.compat``.

The folders are the same on any machine.
"""

from __future__ import annotations

import io
import json
import string
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import Tensor

import nabi.compat as nc
from conformance.kit import randomised
from golden.committed import committed
from nabi.text.spm import read_model
from tasks.written import folder

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "나비", "##가", "꽃", "##에", "앉", "##았다", "이순신", "##이",
    *string.ascii_lowercase, ".", ",", "!", *(f"##{c}" for c in string.ascii_lowercase),
]  # fmt: skip
SIZE = len(WORDS)
_ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 24, "vocab_size": SIZE}
_STACKS = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "max_position_embeddings": 24, "vocab_size": SIZE,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": _ENCODER,
    "DistilBert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 24, "vocab_size": SIZE},
    "Roberta": {**_ENCODER, "max_position_embeddings": 26, "type_vocab_size": 2},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": SIZE, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},
    "OpenAIGPT": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": SIZE, "pad_token_id": 0},
    "T5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": SIZE, "decoder_start_token_id": 0},
    "Bart": _STACKS,
    "Marian": {**_STACKS, "pad_token_id": SIZE - 1, "decoder_start_token_id": SIZE - 1, "eos_token_id": 0},
}
MODELS = [
    "BertModel", "BertForSequenceClassification", "BertForTokenClassification", "BertForQuestionAnswering", "BertForMaskedLM",
    "BertForNextSentencePrediction", "BertForPreTraining", "BertForMultipleChoice", "DistilBertModel", "DistilBertForSequenceClassification",
    "RobertaModel", "RobertaForMaskedLM", "RobertaForSequenceClassification", "GPT2Model", "GPT2LMHeadModel", "GPT2ForSequenceClassification",
    "OpenAIGPTLMHeadModel", "T5Model", "T5ForConditionalGeneration", "T5ForSequenceClassification", "BartModel", "BartForConditionalGeneration",
    "BartForSequenceClassification", "MarianMTModel",
]  # fmt: skip
POOLED = ("ForSequenceClassification", "ForNextSentencePrediction", "ForMultipleChoice")


def stem_of(name: str) -> str:
    """``Bert`` of ``BertForMaskedLM``."""
    return max((stem for stem in CONFIGS if name.startswith(stem)), key=len)


def model_folder(name: str, path: Path, seed: int = 0) -> Path:
    """A model of this class: the committed one, or from another seed."""
    return write_model(name, path, seed) if seed else committed(f"compat-{name}", path, lambda path: write_model(name, path))


def write_model(name: str, path: Path, seed: int = 0) -> Path:
    """A model of this class, its weights from N(0, 0.25)."""
    stem = stem_of(name)
    labels = {} if name.endswith("QuestionAnswering") else {"num_labels": 3}
    randomised(getattr(nc, name)(getattr(nc, f"{stem}Config")(**CONFIGS[stem], **labels)), seed).save_pretrained(path)
    return path


def padded(name: str, side: str) -> dict[str, Tensor]:
    """Three ragged rows with their mask, and what the decoder reads."""
    config = getattr(nc, f"{stem_of(name)}Config")(**CONFIGS[stem_of(name)])
    g = torch.Generator().manual_seed(3)
    ids, mask = torch.randint(5, SIZE - 2, (3, 7), generator=g), torch.ones(3, 7, dtype=torch.int64)
    mask[0, 4:], mask[2, 6:] = 0, 0
    if config.eos_token_id is not None:
        ids[torch.arange(3), mask.sum(1) - 1] = config.eos_token_id
    ids = ids.masked_fill(mask == 0, config.pad_token_id or 0)
    if side == "left":
        ids, mask = (torch.stack([row.roll(int((m == 0).sum())) for row, m in zip(x, mask, strict=True)]) for x in (ids, mask))
    given = {"input_ids": ids, "attention_mask": mask}
    if stem_of(name) in ("Bert", "Roberta"):
        given["token_type_ids"] = (torch.arange(7)[None] > 2).long().expand(3, 7).contiguous()
    if name.endswith(("T5Model", "BartModel", "ConditionalGeneration", "MTModel")):
        given["decoder_input_ids"] = torch.randint(5, SIZE - 2, (3, 4), generator=g)
    return {key: x[None] for key, x in given.items()} if name.endswith("MultipleChoice") else given


def labelled(name: str, problem: str = "single") -> dict[str, Tensor]:
    """``padded`` and labels for it; of question answering rows of one length, as version 4 counts padding into its softmax."""
    given = padded(name, "right")
    mask, g = given["attention_mask"], torch.Generator().manual_seed(5)
    given.pop("decoder_input_ids", None)
    if name.endswith("QuestionAnswering"):
        given["attention_mask"] = torch.ones_like(mask)
        return {**given, "start_positions": torch.tensor([1, 0, 99]), "end_positions": torch.tensor([3, 2, 99])}
    if name.endswith(POOLED):
        size = 2 if "NextSentence" in name else 3
        kinds = {"single": torch.tensor([1, 0, 1]) % size, "multi": torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 1]])}
        return {**given, "labels": kinds[problem]}
    if "decoder_input_ids" in padded(name, "right"):
        return {**given, "labels": torch.randint(5, SIZE - 2, (3, 5), generator=g).masked_fill(torch.arange(5)[None] > torch.tensor([[4], [2], [3]]), -100)}
    labels = torch.randint(3, (3, 7), generator=g) if "Token" in name else given["input_ids"]
    given["labels"] = labels.masked_fill(mask == 0, -100)
    if name == "BertForPreTraining":
        given["next_sentence_label"] = torch.tensor([0, 1, 1])
    return given


def compared(name: str, side: str, key: str) -> bool:
    """Which results are kept: of base models all, padded on the right; else what the head says, or the hidden values."""
    if key == "past_key_values":
        return False
    return (name.endswith("Model") and side == "right" and "LMHead" not in name) or key.endswith(("logits", "last_hidden_state", "pooler_output"))


def part(key: str, value: Any) -> Any:
    """Of the scores of a vocabulary every seventh."""
    return value[..., ::7] if key.endswith("logits") and value.dim() == 3 and value.shape[-1] == SIZE else value


LOSSES = [
    "BertForSequenceClassification", "BertForTokenClassification", "BertForQuestionAnswering", "BertForMaskedLM", "BertForNextSentencePrediction",
    "BertForPreTraining", "GPT2LMHeadModel", "GPT2ForSequenceClassification", "T5ForConditionalGeneration", "BartForConditionalGeneration",
    "BartForSequenceClassification", "MarianMTModel",
]  # fmt: skip
GRADIENT = {"BertForSequenceClassification": "classifier.weight", "GPT2LMHeadModel": "transformer.wpe.weight"}
WRITERS = {"GPT2LMHeadModel": "left", "T5ForConditionalGeneration": "right", "BartForConditionalGeneration": "right", "MarianMTModel": "right"}
GENERATE: list[dict[str, Any]] = [
    {}, {"max_new_tokens": 6}, {"max_length": 12}, {"max_new_tokens": 8, "num_beams": 3}, {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2},
    {"max_new_tokens": 12, "min_length": 11}, {"max_new_tokens": 8, "no_repeat_ngram_size": 2, "num_beams": 2, "length_penalty": 0.5},
    {"max_new_tokens": 5, "min_new_tokens": 5},
]  # fmt: skip

# ---- tokenizers ------------------------------------------------------------------------------------------------------------------------------------

TEXTS = [
    "good film", "나비가 꽃에 앉았다.", "이순신이 Good!! zebra", "", "   ", "a\u0301 naïve\tfilm\n", "👍 ok\u200d", "[MASK] is [SEP] here", "ﬁlm …", "각 가",
    "x" * 30, "a, b. c! d",
]  # fmt: skip
LONG = "good bad film a b c d e f g h i j k l m n o p 나비가 꽃에 앉았다 ."
CALLS: list[tuple[str, list[Any], dict[str, Any]]] = [
    *(("call", [text], {"return_offsets_mapping": True, "return_special_tokens_mask": True}) for text in TEXTS),
    ("call", [TEXTS], {}),
    ("call", [TEXTS], {"padding": True, "return_length": True}),
    ("call", [TEXTS[:3], TEXTS[1:4]], {"padding": "longest", "pad_to_multiple_of": 8, "return_token_type_ids": True}),
    ("call", [TEXTS], {"padding": "max_length", "truncation": True, "max_length": 6, "return_special_tokens_mask": True, "return_offsets_mapping": True}),
    ("call", [TEXTS[:2]], {"padding": True, "return_attention_mask": False, "padding_side": "left"}),
    ("call", ["good film", "나비가"], {}),
    ("call", ["good film", "나비가"], {"add_special_tokens": False}),
    *(("call", [LONG, "bad a b c d e f"], {"truncation": way, "max_length": 18}) for way in (True, "only_first", "longest_first")),
    ("call", ["bad a b", LONG], {"truncation": "only_second", "max_length": 12, "stride": 3, "return_overflowing_tokens": True, "padding": True}),
    ("call", [LONG], {"truncation": True, "max_length": 8, "stride": 2, "return_overflowing_tokens": True, "return_offsets_mapping": True}),
    ("call", [[LONG, "bad"]], {"truncation": True, "max_length": 8, "stride": 2, "return_overflowing_tokens": True, "padding": "max_length"}),
    ("call", [LONG], {"max_length": 5}),
    ("call", [TEXTS[:3]], {"padding": True, "return_tensors": "pt"}),
    ("call", ["good film"], {"return_tensors": "np"}),
    ("call", [], {"text_target": "bad film"}),
    ("call", ["good"], {"text_target": "bad film"}),
    ("encode", ["good film", "bad"], {}),
    ("encode", ["good film"], {"add_special_tokens": False}),
    ("encode_plus", ["good film"], {"truncation": True, "max_length": 4}),
    ("batch_encode_plus", [["good film", "bad"]], {"padding": True}),
    *(("tokenize", [text], {}) for text in TEXTS),
    ("convert_tokens_to_ids", [["good", "a", "nothing-of-it"]], {}),
    ("convert_tokens_to_ids", ["a"], {}),
    ("convert_ids_to_tokens", [[3, 7, 9]], {"skip_special_tokens": True}),
    ("convert_tokens_to_string", [["a", "b"]], {}),
    ("decode", [[2, 7, 9, 8, 3, 0]], {}),
    ("decode", [[2, 7, 9, 8, 3, 0]], {"skip_special_tokens": True}),
    ("decode", [[9, 8, 30, 31]], {"clean_up_tokenization_spaces": True}),
    ("batch_decode", [[[2, 7], [9]]], {"skip_special_tokens": True}),
    ("pad", [{"input_ids": [[5, 6], [7]], "attention_mask": [[1, 1], [1]]}], {"max_length": 4, "padding": "max_length"}),
    ("num_special_tokens_to_add", [True], {}),
]
WORDWISE: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("call", [["good", "zebra", "나비가"]], {"is_split_into_words": True}),
    ("call", [[["good", "zebra"], ["나비가"]]], {"is_split_into_words": True, "padding": True}),
]
FACTS = (
    "vocab_size", "model_max_length", "padding_side", "truncation_side", "model_input_names", "is_fast", "all_special_tokens", "all_special_ids", "pad_token",
    "pad_token_id", "cls_token", "sep_token_id", "mask_token", "unk_token", "eos_token", "bos_token_id", "max_len_single_sentence",
)  # fmt: skip
TOKENIZERS = ("bert", "gpt2", "t5", "bart")
# of Marian's, which has no offsets, and words of its own for a side
CODED = [*TEXTS, ">>fra<< good film", ">>xyz<< bad", "a >>fra<< b", "good</s> film", "<unk> a <pad>", "▁ ▁a▁b▁"]
MARIAN = ("marian", "marian-separate")
SPOKEN = ["good film", "bad film", "나비가 꽃에 앉았다", "이순신이 good film", "a b c d e f g h i j k l m n o p q r s t u v w x y z . , !"] * 20


def coded(kind: str) -> list[str]:
    """Texts; of a target vocabulary of its own version 4 takes the source's id of a pad token, which may stand for another of the target's."""
    return CODED if kind == "marian" else [text for text in CODED if "<pad>" not in text]


def sides(kind: str) -> list[tuple[str, list[Any], dict[str, Any]]]:
    """The calls of Marian's tokenizers."""
    texts = coded(kind)
    return [
        *(("call", [text], {}) for text in texts),
        *(("call", [], {"text_target": text}) for text in texts),
        ("call", [texts, texts[::-1]], {}),
        ("call", [texts], {"padding": True, "return_tensors": "pt", **({"text_target": texts[::-1]} if kind == "marian" else {})}),
        ("call", [LONG], {"truncation": True, "max_length": 8}),
        ("call", [[LONG, "bad"]], {"padding": "max_length", "truncation": True, "max_length": 12, "return_special_tokens_mask": True}),
        *(("tokenize", [text], {}) for text in texts),
        ("convert_tokens_to_ids", [["▁a", ">>fra<<", "</s>", "nothing-of-it"]], {}),
        ("convert_ids_to_tokens", [list(range(40))], {}),
        *(("decode", [ids], {"skip_special_tokens": skip}) for ids in ([5, 9, 6, 0], [0, 1, 12, 30, 31, 8], [33, 7, 7, 21]) for skip in (True, False)),
        ("batch_decode", [[[5, 7], [9]]], {"skip_special_tokens": True}),
        ("get_vocab", [], {}),
        ("num_special_tokens_to_add", [False], {}),
    ]


def tokenizer_folder(kind: str, path: Path) -> Path:
    """BERT's in a vocab.txt, Marian's with a SentencePiece model a side; the others as their models write them."""
    if kind in ("bert", *MARIAN):
        return committed(f"compat-tokenizer-{kind}", path, lambda path: write_tokenizer(kind, path))
    return folder(kind, path)


def write_tokenizer(kind: str, path: Path) -> Path:
    """Such a folder, from its recipe; the two sides of Marian's have pieces of their own, a tenth of which the vocabulary lacks."""
    path.mkdir(parents=True, exist_ok=True)
    if kind in MARIAN:
        pieces: dict[str, list[str]] = {}
        for side, size, texts in (("source", 60, SPOKEN), ("target", 50, [text for text in SPOKEN if "good" not in text])):
            (path / f"{side}.spm").write_bytes(spm(texts, size))
            pieces[side] = read_model((path / f"{side}.spm").read_bytes(), "").of_type(1)
        shared = sorted({*pieces["source"], *pieces["target"]})
        known = {"vocab.json": shared[: len(shared) * 9 // 10]} if kind == "marian" else {"vocab.json": pieces["source"], "target_vocab.json": pieces["target"]}
        for name, found in known.items():
            tokens = ["</s>", "<unk>", *found, *([">>fra<<"] if name == "vocab.json" else []), "<pad>"]
            (path / name).write_text(json.dumps({token: id for id, token in enumerate(tokens)}, ensure_ascii=False), encoding="utf-8")
        settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "eng", "target_lang": "kor", "model_max_length": 24}
        settings |= {"separate_vocabs": True} if kind != "marian" else {}
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
        return path
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False, "model_max_length": 24}))
    return path


def spm(texts: list[str], size: int) -> bytes:
    """A SentencePiece model of probabilities."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, vocab_size=size, unk_id=0, bos_id=-1, eos_id=-1, hard_vocab_limit=False, minloglevel=2,
        num_threads=1, normalization_rule_name="identity",  # the usual one is 240 kB
    )  # fmt: skip
    return written.getvalue()


def asked(tokenizer: Any, kind: str) -> list[Any]:
    """What the tokenizer answers to all calls; an error is ``error``, as its words are not version 4's."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    found: list[Any] = [{name: plain(getattr(tokenizer, name)) for name in FACTS}, len(tokenizer)]
    if kind in MARIAN:
        for text in coded(kind):
            with tokenizer.as_target_tokenizer():  # version 4 leaves the target after the first call in it
                found.append(plain(tokenizer(text)))
    for method, args, options in sides(kind) if kind in MARIAN else [*CALLS, *(WORDWISE if kind in ("bert", "t5") else ())]:
        try:
            answer = (tokenizer if method == "call" else getattr(tokenizer, method))(*args, **options)
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt):
                raise
            found.append("error")
            continue
        found.append(plain(answer))
        if getattr(answer, "encodings", None):
            found.append([[answer.tokens(i), answer.word_ids(i), answer.sequence_ids(i)] for i in range(len(answer.encodings))])
            places = range(len(answer.encodings[0].ids))
            found.append([plain([answer.token_to_chars(0, i), answer.token_to_word(0, i), answer.token_to_sequence(0, i)]) for i in places])
            found.append([[answer.char_to_token(0, i), answer.char_to_word(0, i)] for i in range(12)])
    return found


def plain(value: Any) -> Any:
    """As JSON has it; tensors and arrays with their shape."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "data") and hasattr(value, "keys"):
        return {key: plain(value[key]) for key in value.keys()}  # noqa: SIM118 - an iterator of the incumbent's goes over its data
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    return value
