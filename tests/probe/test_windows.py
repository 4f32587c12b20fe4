"""Probe (e): one text in three windows becomes one answer, through the real task, tokenizer and body."""

import unicodedata

import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors

from nabi.batch import Row, batch_of
from nabi.families.bert import FAMILY, Bert
from nabi.inputs import Inputs
from nabi.model import Model, Origin
from nabi.tasks.text_classification import ClassificationSettings as Settings
from nabi.tasks.text_classification import TextClassification

TEXT = "The f\u0301ilm  was NOT bad \U0001f600 at all, 나비가 " + unicodedata.normalize("NFD", "꽃에") + "앉았다. The film was bad bad NOT at all"
WORDS = ["[CLS]", "[SEP]", "[UNK]", "the", "film", "was", "not", "bad", "\U0001f600", "at", "all", ",", "나비가", "꽃에", "앉았다", "."]


@pytest.fixture
def model(tmp_path):
    library = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    library.save(str(tmp_path / "tokenizer.json"))
    config, task = FAMILY.sizes["tiny"], TextClassification(Settings(labels=("a", "b", "c")))
    body = Bert(config)
    task.build(body)
    for part in (body, task):
        part.initialise(torch.Generator().manual_seed(0))
        for parameter in part.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return Model(body, task, Inputs.load(tmp_path, limit=64), Origin("bert", FAMILY, config)).eval()


def by_hand(model, ids):
    """Logits of one window, alone: the pooler and the classifier over the first token."""
    row = Row({"text": {"tokens": ids, "segments": [0] * len(ids)}})
    first, head = model.body(batch_of([row], [0], {}))["text"].values[0], model.task.row
    return torch.tanh(first @ head.dense.weight.T + head.dense.bias) @ head.out.weight.T + head.out.bias


@torch.no_grad()
def test_three_windows_are_one_answer(model):
    ids = model.inputs.tokenizer.library.encode(TEXT, add_special_tokens=False).ids
    short = "The film was bad"
    found, *others = model.answers([TEXT, short, short], model.options({"max_length": 11, "stride": 2, "top_k": None}), tokens=30)
    pieces = [ids[:9], ids[7:16], ids[14:]]
    assert found["windows"] == 3 and [len(p) for p in pieces] == [9, 9, 6] and others[0]["windows"] == 1
    logits = torch.stack([by_hand(model, [0, *piece, 1]) for piece in pieces])
    wanted = (logits * torch.tensor([9.0, 9.0, 6.0])[:, None]).sum(0).div(24).softmax(0)
    scores = torch.tensor(list(found["scores"].values()))
    torch.testing.assert_close(scores, wanted, rtol=0, atol=1e-6)
    for control in (logits.mean(0).softmax(0), logits[0].softmax(0), by_hand(model, [0, *ids, 1]).softmax(0)):
        assert (scores - control).abs().max() > 1e-3
    cut = next(model.answers([TEXT], model.options({"max_length": 11, "long": "truncate"})))
    torch.testing.assert_close(torch.tensor(list(cut["scores"].values())), logits[0].softmax(0), rtol=0, atol=1e-6)


def test_windows_know_where_they_lie_in_the_original(model):
    tokenizer = model.inputs.tokenizer
    windows = tokenizer.windows(TEXT, max_length=11, stride=2)
    found = [[x for x in zip(w.offsets, w.ids, w.special, strict=True) if not x[2]] for w in windows]
    spans, ids, _ = zip(*found[0], *found[1][2:], *found[2][2:], strict=True)  # neighbours share two tokens
    names = [unicodedata.normalize("NFC", TEXT[a:b]).lower() for a, b in spans]
    assert [WORDS[i] for i in ids] == [name if name in WORDS else "[UNK]" for name in names] and found[0][-2:] == found[1][:2]
    assert "".join(TEXT[a:b] for a, b in spans) == "".join(TEXT.split()) and len(ids) == 20
    composed = unicodedata.normalize("NFC", TEXT)
    assert [composed[a:b].lower() for a, b in spans] != names  # the control: offsets in the normalised text
