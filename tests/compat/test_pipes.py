"""``pipeline`` of ``nabi.compat``: over a folder as nabi's own, over a model and a tokenizer of this package the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest

import nabi
import nabi.compat as nc
from compat import tiny
from nabi.errors import OptionError
from tasks.written import folder


def both(name: str, path: Path) -> Path:
    """A folder with a model and BERT's tokenizer."""
    tiny.model_folder(name, path)
    return tiny.tokenizer_folder("bert", path)


@pytest.mark.parametrize(
    ("task", "name", "given"),
    [
        ("text-classification", "BertForSequenceClassification", "good film"),
        ("token-classification", "BertForTokenClassification", "나비가 꽃에 앉았다."),
        ("fill-mask", "BertForMaskedLM", "good [MASK]"),
    ],
)
def test_a_model_answers_as_its_folder(task: str, name: str, given: str, tmp_path: Path) -> None:
    path = both(name, tmp_path / "model")
    model, tokenizer = getattr(nc, name).from_pretrained(path), nc.AutoTokenizer.from_pretrained(path)
    wanted = nabi.pipeline(task, path)(given)
    found = nc.pipeline(task, model=model, tokenizer=tokenizer)(given)
    assert len(found) == len(wanted) > 0
    for ours, theirs in zip(found, wanted, strict=True):
        assert {**ours, "score": 0} == {**theirs, "score": 0} and abs(ours["score"] - theirs["score"]) < 1e-5
    assert nc.pipeline(task, str(path), tokenizer=nc.AutoTokenizer.from_pretrained(str(path)))(given) == wanted
    other = getattr(nc, name).from_pretrained(both(name, tmp_path / "other"))
    for p in other.parameters():
        p.data.mul_(-1)
    assert nc.pipeline(task, model=other, tokenizer=tokenizer)(given) != found  # control


def test_a_model_that_writes(tmp_path: Path) -> None:
    path = folder("gpt2", tmp_path / "gpt2")
    model, tokenizer = nc.AutoModelForCausalLM.from_pretrained(path), nc.AutoTokenizer.from_pretrained(path)
    options, wanted = {"max_new_tokens": 8, "do_sample": False}, nabi.pipeline("text-generation", path)
    assert nc.pipeline("text-generation", model=model, tokenizer=tokenizer)("the cat", **options) == wanted("the cat", **options)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    path = both("BertForMaskedLM", tmp_path / "model")
    model, tokenizer = nc.BertForMaskedLM.from_pretrained(path), nc.AutoTokenizer.from_pretrained(path)
    for task, words, given in (("fill-mask", "needs its task and its tokenizer", {}), ("ner", "not the heads", {"tokenizer": tokenizer}),
                               ("text-generation", "not the heads", {"tokenizer": tokenizer})):  # fmt: skip
        with pytest.raises(OptionError, match=words):
            nc.pipeline(task, model=model, **given)
    tokenizer.add_tokens(["new"])
    with pytest.raises(OptionError, match="open that folder"):
        nc.pipeline("fill-mask", model=model, tokenizer=tokenizer)
