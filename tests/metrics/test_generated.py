"""Measures of generated text, against rouge-score and sacrebleu on random and real text, worked by hand, and row by row as a report takes them."""

from __future__ import annotations

import importlib
import json
import math
import random
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

from evaluation.cases import Page
from nabi.data import read_table
from nabi.data.shipped import sms_spam
from nabi.errors import OptionError
from nabi.evaluation import Evaluation, Kept
from nabi.evaluation.bootstrap import intervals, plain
from nabi.evaluation.findings import Findings
from nabi.evaluation.report import evaluation_report
from nabi.metrics import LanguageScore, SummaryScore, TranslationScore
from nabi.metrics import generated as ours
from nabi.metrics.detail import Detail
from nabi.metrics.generated import ROUGE, TOKENIZERS, rouge, splitter, tokenizer_for
from nabi.metrics.written import Modelled, Summarised, Translated
from nabi.tasks.text_classification import ClassificationSettings
from training.small import model, vocabulary

WORDS = (("a", "b", "c"), ("the", "running", "runs", "flies", "Dogs!", "x-y", "don't"), tuple("abcdefghijkl"))
KOREAN = (
    ("나비가 꽃밭 위를 날아간다.", "나비는 꽃밭 위로 날아갔다."),
    ("오늘은 날씨가 매우 좋습니다.", "오늘 날씨가 아주 좋네요."),
    ("그 책을 도서관에서 빌렸다.", "그 책은 도서관에서 빌린 것이다."),
    ("번역이 없다", ""),
)


def made_up(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(answer, reference), some of them empty, of one line or several."""
    dice = random.Random(seed)

    def text(words: tuple[str, ...], longest: int) -> str:
        return "".join(dice.choice(words) + dice.choice("  \n") for _ in range(dice.randint(0, longest)))

    return [(text(words, longest), text(words, longest)) for words in (dice.choice(WORDS) for _ in range(count)) for longest in (dice.choice((3, 20, 40)),)]


def real(count: int) -> list[tuple[str, str]]:
    """A message with some words lost and a line end put in, and the message."""
    dice = random.Random(1)
    texts = [row["text"] for row in sms_spam()[0][:count]]
    return [("".join(word + dice.choice("    \n") for word in text.split() if dice.random() < 0.8), text.replace(". ", ".\n")) for text in texts]


# ---- ROUGE -----------------------------------------------------------------------------------------------------------------------------------------------


def furthest(pairs: list[tuple[str, str]], stem: bool = False) -> float:
    """The largest difference from rouge-score in any figure of any row."""
    reference, split = RougeScorer(list(ROUGE), use_stemmer=stem), splitter("ascii", PorterStemmer().stem if stem else None)
    apart = 0.0
    for answer, truth in pairs:
        wanted = reference.score(truth, answer)
        apart = max(apart, *(abs(value - wanted[name].fmeasure) for name, value in zip(ROUGE, rouge(answer, truth, split), strict=True)))
    return apart


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_is_that_of_rouge_score(stem: bool) -> None:
    assert furthest(made_up(400), stem) < 1e-12 and furthest(real(200), stem) < 1e-12


def test_control_a_wrong_union_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ours._summary_f
    pairs = [(a, b) for a, b in made_up(100) if "\n" in a.strip() and "\n" in b.strip()]

    def summed(given: list[list[str]], true: list[list[str]]) -> float:
        """Without the union: what a line shares with two lines of the answer counts twice."""
        hits = sum(len(ours._common(line, other)) for line in true for other in given)
        return ours._f(hits, sum(map(len, given)), sum(map(len, true)))

    def unclipped(given: list[list[str]], true: list[list[str]]) -> float:
        """As the paper has it: a word may count more often than it occurs."""
        hits = sum(len(set().union(*(ours._common(line, other) for other in given))) for line in true)
        return ours._f(hits, sum(map(len, given)), sum(map(len, true)))

    for wrong in (summed, unclipped):
        monkeypatch.setattr(ours, "_summary_f", wrong)
        assert furthest(pairs) > 0.01
    monkeypatch.setattr(ours, "_summary_f", right)
    assert furthest(pairs) < 1e-12


def test_rouge_worked_by_hand() -> None:
    # Lin 2004, section 3.1: of "police killed the gunman" the first answer keeps three words in order, the second two
    for answer, length in (("police kill the gunman", 3), ("the gunman kill police", 2)):
        found = SummaryScore()
        found.add(answer, "police killed the gunman")
        assert found.result() == pytest.approx({"rouge1": 3 / 4, "rouge2": 1 / 3, "rougeL": length / 4, "rougeLsum": length / 4})
    # section 3.2: w1 w3 w5 of the first line and w1 w2 of the second are a union of four of the five words; in the order of the whole there are three
    found = SummaryScore()
    found.add("w1 w3 w8 w9 w5\nw1 w2 w6 w7 w8", "w1 w2 w3 w4 w5")
    assert found.result()["rougeLsum"] == pytest.approx(2 * 4 / 15) and found.result()["rougeL"] == pytest.approx(2 * 3 / 15)


def test_rouge_of_nothing() -> None:
    assert SummaryScore().result() == dict.fromkeys(ROUGE, 0.0)
    score = SummaryScore()
    for answer, truth in (("", "a b"), ("a b", ""), ("", ""), ("...", "a b"), ("\n", "\n")):
        score.add(answer, truth)
        assert score.result() == dict.fromkeys(ROUGE, 0.0)
    score.add("a b", "a b")
    assert score.result() == pytest.approx(dict.fromkeys(ROUGE, 1 / 6))


def test_rouge_of_korean() -> None:
    assert splitter("words")("나비는, ‘꽃밭’에 3번 갔다!") == ["나비는", "꽃밭", "에", "3번", "갔다"], "a quotation mark ends a word"
    assert splitter("characters")("나비는 A1") == ["나", "비", "는", "a", "1"]
    assert splitter("ascii")("나비는 꽃밭에") == []
    assert splitter("words")("हिन्दी भाषा") == ["हिन्दी", "भाषा"], "a vowel sign ends no word"
    assert splitter("words")(unicodedata.normalize("NFD", "나비")) == ["나비"]
    by_words, by_characters = SummaryScore("words"), SummaryScore("characters")
    for score in (by_words, by_characters):
        score.add("나비가 꽃밭 위를", "나비는 꽃밭 위로")
    # of three words one is the same; of seven characters five, since the particles alone differ; 비-가-꽃 and 위-를 are no pairs of the other side
    assert by_words.result() == pytest.approx({"rouge1": 1 / 3, "rouge2": 0.0, "rougeL": 1 / 3, "rougeLsum": 1 / 3})
    assert by_characters.result() == pytest.approx({"rouge1": 5 / 7, "rouge2": 3 / 6, "rougeL": 5 / 7, "rougeLsum": 5 / 7})


def test_words_and_ascii_agree_on_ascii_alone() -> None:
    for answer, truth in made_up(50):
        assert rouge(answer, truth, splitter("words")) == rouge(answer, truth, splitter("ascii"))
    assert splitter("words")("Café") == ["café"] and splitter("ascii")("Café") == ["caf"]


def test_the_table_is_that_of_the_plain_recursion() -> None:
    dice = random.Random(3)
    for _ in range(50):
        true, given = ([dice.choice("abc") for _ in range(dice.randint(0, 70))] for _ in range(2))
        before = [0] * (len(given) + 1)
        for row, word in zip(ours._rows(true, given)[1:], true, strict=True):
            now = [0]
            for j, other in enumerate(given):
                now.append(before[j] + 1 if word == other else max(before[j + 1], now[j]))
            assert [now[j + 1] - now[j] for j in range(len(given))] == [row >> j & 1 for j in range(len(given))]
            before = now


@pytest.mark.parametrize(("tokens", "stem", "message"), [("word", None, "Did you mean 'words'"), ("characters", str.lower, "characters have no stem")])
def test_options_of_rouge_that_make_no_sense(tokens: Any, stem: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SummaryScore(tokens, stem)


# ---- BLEU and chrF ---------------------------------------------------------------------------------------------------------------------------------------


def library(pairs: list[tuple[str, str]], tokenizer: str) -> dict[str, float]:
    answers, truths = [a for a, _ in pairs], [t for _, t in pairs]
    return {"bleu": sacrebleu.corpus_bleu(answers, [truths], tokenize=tokenizer).score, "chrf": sacrebleu.corpus_chrf(answers, [truths]).score}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("kind", ["made up", "real", "Korean", "a few short ones"])
def test_bleu_and_chrf_are_those_of_sacrebleu(tokenizer: str, kind: str) -> None:
    pairs = {"made up": made_up(150), "real": real(150), "Korean": list(KOREAN), "a few short ones": [("a", "a"), ("", "b c"), ("b b", "b"), ("d", "")]}[kind]
    score = TranslationScore(tokenizer)
    for pair in pairs:
        score.add(*pair)
    wanted = library(pairs, tokenizer)
    assert score.result() == pytest.approx(wanted, abs=1e-9) and wanted["chrf"] > 1
    # control: a mean of the rows' own figures is another one
    apart = np.mean([[library([pair], tokenizer)[name] for name in wanted] for pair in pairs[:40]], axis=0)
    assert max(abs(apart - list(library(pairs[:40], tokenizer).values()))) > 0.01


def test_translations_of_nothing() -> None:
    score = TranslationScore()
    assert score.result() == {"bleu": 0.0, "chrf": 0.0}
    for pair in (("", ""), ("", "a b c d"), ("a b c d", "")):
        score.add(*pair)
        assert score.result() == {"bleu": 0.0, "chrf": 0.0}
    perfect = TranslationScore("char")
    perfect.add("나비가 날아간다", "나비가 날아간다")
    assert perfect.result() == pytest.approx({"bleu": 100.0, "chrf": 100.0})


def test_signatures_are_the_librarys() -> None:
    details = TranslationScore("char").details
    assert details["bleu"] == f"nrefs:1|case:mixed|eff:no|tok:char|smooth:exp|version:{sacrebleu.__version__}"
    assert details["chrf"] == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{sacrebleu.__version__}"


def test_the_usual_tokenizer_of_a_language() -> None:
    assert [tokenizer_for(x) for x in ("ko", "ko-KR", "zh_TW", "JA", "en", "de", "kok")] == ["char"] * 4 + ["13a"] * 3


@pytest.mark.parametrize("name", ["ko-mecab", "13A"])
def test_an_unknown_tokenizer_is_named(name: str) -> None:
    with pytest.raises(OptionError, match="unknown tokenizer of BLEU"):
        TranslationScore(name)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(OptionError, match=r"need the package sacrebleu.*pip install 'nabi\[metrics\]'"):
        TranslationScore()


# ---- language models -------------------------------------------------------------------------------------------------------------------------------------


def test_perplexity_and_bits() -> None:
    score = LanguageScore()
    assert score.result() == {"perplexity": 0.0, "bits_per_byte": 0.0}
    score.add((0.0, 0, 0), "")
    assert score.result() == {"perplexity": 0.0, "bits_per_byte": 0.0}
    for row in ((8 * math.log(2), 4, 6), (2 * math.log(2), 1, 4)):  # 10 bits on 5 tokens and 10 bytes
        score.add(row)
    assert score.result() == pytest.approx({"perplexity": 4.0, "bits_per_byte": 1.0})
    score.add((1e6, 1, 1))
    assert score.result()["perplexity"] == math.inf and math.isfinite(score.result()["bits_per_byte"])


# ---- row by row ------------------------------------------------------------------------------------------------------------------------------------------


def nats(rows: int) -> list[tuple[Any, Any]]:
    dice = random.Random(5)
    return [((dice.random() * 4 * n, n, 4 * n), "") for n in (dice.randint(1, 9) for _ in range(rows))]


KINDS: dict[str, tuple[Callable[[], Detail], Callable[[], Any], Callable[[int], list[tuple[Any, Any]]]]] = {
    "translation": (lambda: Translated("13a"), lambda: TranslationScore("13a"), real),
    "summary": (lambda: Summarised("words"), lambda: SummaryScore("words"), real),
    "language": (Modelled, LanguageScore, nats),
}


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_those_of_the_score_on_the_rows_repeated(kind: str) -> None:
    detail_of, score_of, rows_of = KINDS[kind]
    rows, detail = rows_of(30), detail_of()
    for row in rows:
        detail.add(*row)
    weights = np.concatenate([np.ones((1, 30)), np.random.default_rng(0).integers(0, 4, size=(3, 30)).astype(float)])
    figures = detail.figures(weights)
    for b, counts in enumerate(weights):
        score = score_of()
        for row, count in zip(rows, counts, strict=True):
            for _ in range(int(count)):
                score.add(*row)
        assert {name: values[b] for name, values in figures.items()} == pytest.approx(score.result(), rel=1e-9)
    assert all(abs(values[0] - values[1]) > 1e-4 for values in figures.values())  # control: other weights, other figures
    part = score_of()
    for i in (2, 3, 5, 7):
        part.add(*rows[i])
    assert plain(detail.take([2, 3, 5, 7]), 4) == pytest.approx(part.result(), rel=1e-9)
    for name, (low, high) in intervals(detail, 30).items():
        assert low < figures[name][0] < high


def test_the_worst_rows() -> None:
    for detail in (Translated(), Summarised()):
        for answer, truth in (("a b c d", "a b c d"), ("nothing like it", "a b c d"), ("a b x d", "a b c d")):
            detail.add(answer, truth)
        found = detail.verdicts()
        assert np.argsort(found.loss).tolist() == [0, 2, 1] and found.loss[0] == pytest.approx(0) and found.texts and found.right is None
    modelled = Modelled()
    for row in ((10.0, 5, 50), (5.0, 2, 10), (0.0, 0, 0)):
        modelled.add(row)
    assert modelled.verdicts().loss.tolist() == pytest.approx([0.2 / math.log(2), 0.5 / math.log(2), 0.0])
    assert modelled.verdicts().truth[0] == "5 tokens, 50 bytes" and modelled.facts() == {"nats": 15.0, "tokens": 7.0, "bytes": 60.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_of_generated_text(kind: str, tmp_path: Path) -> None:
    detail_of, _, rows_of = KINDS[kind]
    detail, pairs = detail_of(), rows_of(40)
    table = read_table([{"text": f"{'good ' * (i % 9)} origin{i}", "label": "a", "source": f"origin{i}"} for i in range(40)])
    for i, (answer, truth) in enumerate(pairs):
        detail.add(*((answer, truth) if kind == "language" else (f"{answer} secret{i}" + " more" * 100, f"{truth} hidden{i}")))
    built = model(vocabulary(tmp_path / "vocabulary"), ClassificationSettings(labels=("a", "b")))
    built.task.main_metric = {"translation": "chrf", "summary": "rougeL", "language": "bits_per_byte"}[kind]
    found = Findings(built, Evaluation(kind, "made up", "list", 40, plain(detail, 40), 1.0, Kept(table, detail)))
    shown, hidden = (Page(evaluation_report(found, "nabi evaluate", examples=examples)).text for examples in (True, False))
    for title in ("Figures", "By length", "Worst errors", {"translation": "Signatures", "summary": "Summaries", "language": "Rows of text"}[kind]):
        assert title in shown and title in hidden
    assert "origin" in shown and "origin" not in hidden
    if kind != "language":
        assert "secret" in shown and "hidden" in shown and "characters)" in shown, "long answers are cut"
        assert "secret" not in hidden and "hidden" not in hidden, "answers are as private as the rows"
    json.dumps(detail.facts())
    assert Counter(type(value) for value in detail.facts().values()) == {float: len(detail.facts())}
