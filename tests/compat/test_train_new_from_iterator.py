"""``train_new_from_iterator`` of ``nabi.compat`` beside the incumbent's, on the same texts.

Byte-level BPE is compared id by id. The library's trainers of WordPiece and Unigram differ from run to run of their own (an order of hashes decides ties and
the ids of ``##`` letters, and the last digits of scores), so those are compared by their pieces.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

import nabi.compat as nc
from nabi.errors import InputError, OptionError


def corpus(seed: int, stems: str = "", lines: int = 400) -> list[str]:
    dice = random.Random(seed)
    parts = (stems or "tok train merge pair 나비 가 꽃 에서 def return self ing er").split()
    words = ["".join(dice.choices(parts, k=dice.randint(1, 3))) for _ in range(120)]
    return [" ".join(dice.choices(words, weights=range(120, 0, -1), k=12)) + "." for _ in range(lines)]


def gpt2_like(folder: Path) -> None:
    library = Library(models.BPE({token: i for i, token in enumerate(["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.post_processor = processors.ByteLevel(trim_offsets=False)
    library.add_special_tokens(["<|endoftext|>"])
    end = "<|endoftext|>"
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, bos_token=end, eos_token=end, unk_token=end, model_max_length=77).save_pretrained(folder)


def bert_like(folder: Path) -> None:
    roles = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    library = Library(models.WordPiece({token: i for i, token in enumerate([*roles.values(), "a", "##a"])}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer, library.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    library.add_special_tokens(list(roles.values()))
    template = {"single": "[CLS]:0 $A:0 [SEP]:0", "pair": "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"}
    library.post_processor = processors.TemplateProcessing(**template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, **{f"{role}_token": name for role, name in roles.items()}).save_pretrained(folder)


def t5_like(folder: Path) -> None:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("a", -3.0), ("<extra_id_0>", 0.0)]
    library = Library(models.Unigram(pieces, unk_id=2))
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    library.decoder = decoders.Metaspace()
    library.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_0>"])
    library.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, **names, extra_special_tokens=["<extra_id_0>"]).save_pretrained(folder)


MADE = {"gpt2": (gpt2_like, 420), "bert": (bert_like, 220), "t5": (t5_like, 120)}


def both(kind: str, folder: Path, texts: list[str], **more: Any) -> tuple[Any, Any]:
    make, size = MADE[kind]
    make(folder)
    ours = nc.AutoTokenizer.from_pretrained(folder).train_new_from_iterator(iter(texts), size, **more)
    return ours, retrained_by_the_incumbent(kind, folder, texts, **more)


def retrained_by_the_incumbent(kind: str, folder: Path, texts: list[str], **more: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder).train_new_from_iterator(iter(texts), MADE[kind][1], **{**more, "show_progress": False})


def test_a_byte_level_tokenizer_gets_the_incumbents_ids(tmp_path: Path) -> None:
    ours, theirs = both("gpt2", tmp_path, corpus(0), new_special_tokens=["<|cell|>"])
    assert ours.get_vocab() == theirs.get_vocab() and len(ours) == 420
    texts = [*corpus(1, lines=30), "def f(x):\n    return '나비' <|cell|> 👍<|endoftext|>"]
    assert [ours(text)["input_ids"] for text in texts] == [theirs(text)["input_ids"] for text in texts]
    assert ours.eos_token_id == theirs.eos_token_id == 0
    assert ours.model_max_length == theirs.model_max_length == 77 and ours.additional_special_tokens == ["<|cell|>"]


def test_special_tokens_get_the_names_of_the_map(tmp_path: Path) -> None:
    ours, theirs = both("gpt2", tmp_path, corpus(0), special_tokens_map={"<|endoftext|>": "<|end|>"})
    named = theirs.get_vocab()
    named.pop("<|endoftext|>", None)  # the incumbent adds the old name again, behind all others
    assert ours.get_vocab() == named
    assert ours.eos_token == ours.unk_token == theirs.eos_token == "<|end|>" and ours.eos_token_id == theirs.eos_token_id == 0


def test_control_other_texts_give_other_ids(tmp_path: Path) -> None:
    ours, _ = both("gpt2", tmp_path, corpus(0))
    _, theirs = both("gpt2", tmp_path, corpus(0, "other stems of words 다른 글"))
    text = corpus(1, lines=1)[0]
    assert ours(text)["input_ids"] != theirs(text)["input_ids"]
    shared = ours.get_vocab().items() & theirs.get_vocab().items()
    assert len(shared) < 0.7 * len(ours)  # the 256 bytes, by chance a pair


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_others_get_the_incumbents_pieces_and_special_ids(kind: str, tmp_path: Path) -> None:
    ours, theirs = both(kind, tmp_path, corpus(0))
    mine, other = ours.get_vocab(), theirs.get_vocab()
    assert len(mine) == len(other)
    # The incumbent against itself, 8 trainings of each kind, each pair: at least 99.1 % (as of BERT) and all (as of T5) of the pieces are the same, but only
    # 85 % have the same id, for an order of hashes decides between equal pairs, over the ids of ## letters and between equal scores. So 97 % of the pieces
    # are asked of ours, and no fewer than the incumbent has in common with itself but for two.
    again = retrained_by_the_incumbent(kind, tmp_path, corpus(0)).get_vocab()
    assert len(mine.keys() & other.keys()) >= max(0.97 * len(other), len(again.keys() & other.keys()) - 2)
    if kind == "t5":  # ours is the same each time
        assert nc.AutoTokenizer.from_pretrained(tmp_path).train_new_from_iterator(iter(corpus(0)), MADE[kind][1]).get_vocab() == mine
    assert {name: mine[name] for name in ours.all_special_tokens} == {name: other[name] for name in theirs.all_special_tokens}
    for text in corpus(1, lines=20):
        a, b = ours(text), theirs(text)
        assert len(a["input_ids"]) == pytest.approx(len(b["input_ids"]), rel=0.05)
        assert [a["input_ids"][0] == ours.cls_token_id, a["input_ids"][-1]] == [b["input_ids"][0] == theirs.cls_token_id, b["input_ids"][-1]]


def test_control_pieces_of_other_texts_are_others(tmp_path: Path) -> None:
    for kind in ("bert", "t5"):
        ours, _ = both(kind, tmp_path / kind, corpus(0))
        _, theirs = both(kind, tmp_path / kind, corpus(0, "quick brown fox jumps 다른 글 lazy"))
        assert len(ours.get_vocab().keys() & theirs.get_vocab().keys()) < 0.5 * len(theirs)


def test_a_retrained_tokenizer_is_saved_and_opened(tmp_path: Path) -> None:
    ours, _ = both("bert", tmp_path / "old", corpus(0), new_special_tokens=["[CELL]"])
    ours.save_pretrained(tmp_path / "new")
    text = corpus(2, lines=1)[0] + " [CELL]"
    for opened in (nc.AutoTokenizer.from_pretrained(tmp_path / "new"), transformers.AutoTokenizer.from_pretrained(tmp_path / "new")):
        assert opened(text)["input_ids"] == ours(text)["input_ids"]
        assert opened.mask_token == "[MASK]"


def test_batches_of_texts_are_read(tmp_path: Path) -> None:
    gpt2_like(tmp_path)
    tokenizer, texts = nc.AutoTokenizer.from_pretrained(tmp_path), corpus(0)
    one, many = (tokenizer.train_new_from_iterator(x, 400) for x in (texts, (texts[i : i + 100] for i in range(0, 400, 100))))
    assert one.get_vocab() == many.get_vocab()


@pytest.mark.parametrize(
    ("texts", "size", "more", "error", "words"),
    [
        ([], 500, {}, InputError, "no text to train on"),
        (["a", 3], 500, {}, InputError, "text 2 is not a str but int"),
        ("abc", 500, {}, InputError, "one text was given"),
        (["abc"], 100, {}, OptionError, "smaller than the alphabet"),
        (["abc"], 500, {"new_special_tokens": ["<|endoftext|>"]}, OptionError, "given twice"),
        (["abc"], 500, {"min_freq": 2}, OptionError, "unknown setting of the trainer"),
    ],
)
def test_what_can_not_be_trained_is_refused(texts: Any, size: int, more: dict[str, Any], error: type[Exception], words: str, tmp_path: Path) -> None:
    gpt2_like(tmp_path)
    with pytest.raises(error, match=words):
        nc.AutoTokenizer.from_pretrained(tmp_path).train_new_from_iterator(texts, size, **more)
