"""Question answering: the span of a context that answers a question, or that none does (Devlin et al. 2018, "BERT", sections 4.2 and 4.3).

Unusual: a context of any length is read whole, in windows whose answers are merged. Start and end are distributions over the context's tokens and one
place that stands for no answer, in training as in use. The threshold of no answer, and the temperature that makes scores probabilities of being right, are
fitted on dev rows and saved with the model.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nabi.batch import FILLER, Batch, Row, Target
from nabi.data import Finding, Table
from nabi.errors import DataError, InputError, OptionError, shortened
from nabi.inputs import Inputs
from nabi.metrics.answered import Answered, AnswerScore
from nabi.metrics.calibration import TEMPERATURES
from nabi.metrics.detail import Array
from nabi.nn.body import Run
from nabi.tasks import Example, Form, Score, Task, Use
from nabi.tasks._spans import Distributions, Found, Window, best_spans
from nabi.text.particles import stem_end

LONGEST, OVERLAP = 384, 128  # v4's usual window and overlap, in tokens


@dataclass(frozen=True)
class AnsweringOptions:
    """What a call may set.

    Attributes:
        top_k: how many answers, best first; ``topk`` is v4's old spelling.
        doc_stride: tokens that neighbouring windows share; 128 if None, less where windows are short.
        max_answer_len: tokens of an answer at most.
        max_seq_len: tokens of a window, question and special tokens included; 384 or the model's own limit if None.
        max_question_len: a longer question is cut to so many tokens; never cut if None.
        handle_impossible_answer: whether there may be no answer; if None, only if the model was trained with rows that have none.
        align_to_words: widen an answer to whole words; ``auto`` leaves words in Hangul, Kana, Han, Thai and the like as the model cut them.
        particles: ``auto`` cuts a Korean particle off the end of an answer where the model could not, because no token of its own sets it apart, ``trim``
            cuts off any, ``keep`` none; ``surface`` is the answer with what was cut off.
        merge: the answers of windows are compared over the whole ``document``, or as v4 does by their probability in their own of the ``windows``; the
            model's own way if None.
        negatives: windows without the answer that a training example is read in at most; all if None.
    """

    top_k: int = 1
    topk: int | None = None
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_seq_len: int | None = None
    max_question_len: int | None = None
    handle_impossible_answer: bool | None = None
    align_to_words: bool | Literal["auto"] = "auto"
    particles: Literal["auto", "trim", "keep"] = "auto"
    merge: Literal["document", "windows"] | None = None
    negatives: int | None = 3

    def __post_init__(self) -> None:
        least = {"top_k": 1, "topk": 1, "doc_stride": 0, "max_answer_len": 1, "max_seq_len": 1, "max_question_len": 1, "negatives": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise OptionError(f"{name} is out of range", value=value, expected=f"{low} or more")

    @property
    def wanted(self) -> int:
        """How many answers."""
        return self.topk if self.topk is not None else self.top_k


@dataclass(frozen=True)
class AnsweringSettings:
    """What belongs to the model.

    Attributes:
        threshold: no answer is given where its logit exceeds that of the best span by more; None if every question has an answer.
        merge: as in the options; a checkpoint of the incumbent answers as it did there.
        temperature: divides the logits when scores are made of them (Guo et al. 2017, section 4.2); no answer changes, only how sure the model says it is.
    """

    threshold: float | None = None
    merge: Literal["document", "windows"] = "document"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise OptionError("temperature is out of range", value=self.temperature, expected="more than 0")


class QuestionAnswering(Task):
    """Find the answer in a context."""

    name = "question_answering"
    defaults = ("distilbert/distilbert-base-cased-distilled-squad", "distilbert-base-cased-distilled-squad")
    columns = ("context", "question", "answers")  # a split goes by the context, so that no paragraph lies on both sides
    heads = ("span",)
    Options = AnsweringOptions
    Settings = AnsweringSettings
    main_metric = "f1"
    told_by = (("question", "context"), ("questions", "context"))
    targets = {"start": Target("row"), "end": Target("row"), "place": Target("token", dtype=torch.bool)}

    settings: AnsweringSettings

    # ---- from data and from checkpoints ------------------------------------------------------------------------------------------------------

    @classmethod
    def opened(cls, table: Table) -> Table:
        """A table with one row a question, from one with SQuAD's rows: a ``context`` and its ``questions``."""
        return _flat(table) if "questions" in table.columns and "question" not in table.columns else table

    @classmethod
    def fitted(cls, examples: Sequence[Example], where: str, given: Mapping[str, Any]) -> AnsweringSettings:
        if "threshold" in given:
            return AnsweringSettings(**given)
        known = [bool(_texts(example, f"{where}, row {i + 1}")) for i, example in enumerate(examples)]
        return AnsweringSettings(**{**given, "threshold": None if all(known) else 0.0})

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], outputs: Mapping[str, int], generation: Mapping[str, Any]) -> AnsweringSettings:
        return AnsweringSettings(merge="windows")

    def outputs(self) -> dict[str, int]:
        return {"span": 2}

    def calibrate(self, *scores: Any) -> None:
        """Take the threshold that gives these dev rows the highest F1 and the temperature under which they are likeliest, for this model and their figures.

        Args:
            scores: what :meth:`score` and :meth:`detail` made, filled with the same rows.
        """
        best = scores[0].best_threshold()
        # without one of the two there is always an answer, or the caller wants one
        if best is not None and self.settings.threshold is not None and scores[0].threshold is not None:
            self.settings = replace(self.settings, threshold=best)
            for score in scores:
                score.threshold = best
        temperature = scores[0].best_temperature()
        if temperature is not None:
            self.settings = replace(self.settings, temperature=temperature)
            for score in scores:
                score.temperature = temperature

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: AnsweringOptions, use: Use = "predict", where: str = "") -> list[Row]:
        question, context = (_text(example, name, where) for name in ("question", "context"))
        tokenizer, cut = inputs.tokenizer, False
        limit = min(inputs.max_length, LONGEST) if options.max_seq_len is None else options.max_seq_len
        if limit > inputs.max_length:
            raise OptionError("max_seq_len is out of range", value=limit, expected=f"1 to {inputs.max_length}, this model's own limit")
        if options.max_question_len is not None:
            words = tokenizer.encode(question, special=False)
            if len(words) > options.max_question_len:
                question, cut = question[: words.offsets[options.max_question_len - 1][1]], True
        stride = options.doc_stride
        if stride is None:
            room = limit - len(tokenizer.encode(question, ""))
            stride = min(limit // 2, OVERLAP) if room > min(limit // 2, OVERLAP) else max(0, room // 2)
        windows = tokenizer.windows(question, context, max_length=limit, stride=stride, over="pair")
        rows = []
        step = 0
        for i, window in enumerate(windows):
            place = Window.of(window, tokenizer.cls_id, i * step)
            step = step or place.stop - place.first - stride
            notes = {"window": place, "truncated": cut, "evaluated": use == "evaluate"}
            rows.append(Row({"text": {"tokens": window.ids, "segments": window.segments}}, notes=notes))
        return self._aimed(rows, example, options, where) if use == "train" else rows

    def _aimed(self, rows: list[Row], example: Example, options: AnsweringOptions, where: str) -> list[Row]:
        """The rows that are trained on, with their targets: all that hold an answer whole, and a few of the others."""
        spans = answer_places(example, where)
        held: list[Row] = []
        others: list[Row] = []
        for row in rows:
            window: Window = row.notes["window"]
            found = next((place for place in (window.tokens(*span) for span in spans) if place is not None), None)
            start, end = (window.null, window.null) if found is None else found
            place = [False] * len(row.parts["text"]["tokens"])
            place[window.first : window.stop] = [True] * (window.stop - window.first)
            place[window.null] = True
            row.targets = {"start": start, "end": end, "place": place}
            (others if found is None else held).append(row)
        if spans and not held:
            fix = "raise max_seq_len or doc_stride, or the model learns that there is no answer"
            warnings.warn(f"{where or 'an example'}: the answer fits whole into no window; {fix}", stacklevel=2)
        most = len(others) if options.negatives is None else options.negatives + (not held)
        step = max(1, len(others) / max(1, most))
        return held + [others[int(i * step)] for i in range(min(most, len(others)))]

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def counts(self, targets: Mapping[str, Tensor]) -> dict[str, float]:
        return {"span": float(targets["start"].shape[0])}

    def loss(self, run: Run, batch: Batch) -> dict[str, Tensor]:
        """The mean of the cross-entropies of start and end, over the tokens that may answer."""
        head: Any = self.span
        logits, layout = head.read(run, batch), run.layout(batch, head.spec.reads)
        assert layout.rows is not None
        aims = torch.stack([batch.targets["start"], batch.targets["end"]], -1)
        place = batch.targets["place"][:, None]
        rows = layout.rows.long()[:, None].expand_as(logits)
        logits = logits.masked_fill(~place, -torch.inf)
        high = torch.full(aims.shape, -torch.inf, device=logits.device, dtype=logits.dtype).scatter_reduce(0, rows, logits.detach(), "amax")
        total = torch.zeros_like(high).scatter_add(0, rows, (logits - high.gather(0, rows)).exp())
        firsts = layout.first(torch.arange(len(logits), device=logits.device))
        chosen = logits.gather(0, firsts[:, None] + aims)
        return {"span": (total.log() + high - chosen).sum() / 2}

    def read(self, run: Run, batches: Iterable[Batch], options: Any) -> Iterator[tuple[int, Array]]:
        """(row id, (2, T) the logits of start and of end)."""
        for batch in batches:
            head: Any = self.span
            part = run.part(batch, head.spec.reads)
            logits = head.read(run, batch).cpu().split(run.layout(batch, head.spec.reads).lengths)
            for row, example, each in zip(part.ids, part.example.tolist(), logits, strict=True):
                if example != FILLER:
                    yield row, each.t().numpy().copy()  # not a view, which would keep the whole batch

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: AnsweringOptions) -> dict[str, Any]:
        """``{"answer", "score", "start", "end", "answers", "no_answer_score", "margin", "threshold", "windows", "truncated"}``.

        The first four are those of what is answered, ``answers`` the best spans. A score is the probability of the start times that of the end; equal
        answers are one, with the sum of their scores. ``margin`` is how much no answer is preferred to the best span and ``threshold`` from where on it
        is given, None if it never is. In an evaluation ``by_temperature`` says the scores of the best span and of no answer at each of ``TEMPERATURES``,
        unless the windows are merged as v4 does.
        """
        context = example["context"]
        fitted = self.settings.threshold
        impossible = fitted is not None if options.handle_impossible_answer is None else options.handle_impossible_answer
        merge = options.merge or self.settings.merge
        windows: list[Window] = [row.notes["window"] for row in rows]
        logits = [np.asarray(reading, dtype=np.float64) for reading in readings]  # (2, T) each
        silent = [each[:, window.null] for each, window in zip(logits, windows, strict=True)]
        null = min(silent, key=lambda each: float(each.sum()))  # of the window that is least sure that it has no answer (Devlin et al. 2018, section 4.3)
        takes_part = windows[0].classifies or impossible  # without a token of its own, v4 leaves the place out
        if merge == "document":
            spread = Distributions.of_document(logits, windows, null)
            sums = spread.sums() * len(rows)
        else:
            spread = Distributions([each[:, w.first : w.stop] for each, w in zip(logits, windows, strict=True)], silent, takes_part)
            sums = spread.sums()
        null_score = spread.none(sums[: len(spread.logits)])
        found: list[Found] = []
        # v4's number, for some become equal when they are widened
        wanted = options.wanted * 2 + 10 if options.align_to_words else options.wanted
        for number, (each, window, total) in enumerate(zip(logits, windows, sums, strict=True)):
            start, end = np.exp(each[:, window.first : window.stop] - total[:, None])
            for first, last, score in best_spans(start, end, options.max_answer_len, wanted):
                place = window.characters(first, last, options.align_to_words, context)
                if place is not None:
                    stem = place[1] if options.particles == "keep" else stem_end(context, *place[:2], place[2] if options.particles == "auto" else None)
                    logit = float(each[0, window.first + first] + each[1, window.first + last])
                    terms = ((0 if merge == "document" else number, logit),)
                    found.append(Found(place[0], stem, place[1], (window.begin + first, window.begin + last), score, logit, terms))
        if merge == "document":  # neighbouring windows share places, and each counts once
            once: dict[tuple[int, int], Found] = {}
            for x in sorted(found, key=lambda x: -x.score):
                once.setdefault(x.tokens, x)
            found = list(once.values())
        merged: dict[str, Found] = {}
        for x in found:
            same = merged.setdefault(context[x.start : x.end].lower(), x)
            if same is not x:
                both = replace(same, score=same.score + x.score, logit=max(same.logit, x.logit), terms=same.terms + x.terms)
                merged[context[x.start : x.end].lower()] = both
        ranked = sorted(merged.values(), key=lambda x: -x.score)
        margin, threshold = 1e9, (0.0 if fitted is None else fitted) if impossible else None
        if ranked:
            # without a fitted threshold v4's rule: whichever has the higher score
            margin = _log(null_score) - _log(ranked[0].score) if fitted is None else float(null.sum()) - ranked[0].logit
        # what is answered is settled; a temperature changes the scores alone
        shown, temperature = ranked[: options.wanted], self.settings.temperature
        scores = [x.score for x in shown]
        if temperature != 1:
            scores, null_score = spread.at(temperature, [x.terms for x in shown])
        answers = [x.told(context, score) for x, score in zip(shown, scores, strict=True)]
        none = {"answer": "", "score": null_score, "start": 0, "end": 0}
        # where each window has a distribution of its own, equal spans of two add up to more than 1: no probability, so there is nothing to calibrate
        told = rows[0].notes["evaluated"] and merge == "document"
        sure = {"by_temperature": _by_temperature(spread, ranked)} if told else {}
        return {
            **(none if not answers or (threshold is not None and margin > threshold) else answers[0]),
            "answers": answers,
            "no_answer_score": null_score,
            "margin": margin,
            "threshold": threshold,
            "windows": len(rows),
            "truncated": rows[0].notes["truncated"],
            **sure,
        }

    def truth(self, example: Example, where: str) -> list[str]:
        return _texts(example, where)

    @classmethod
    def shown(cls, example: Example) -> tuple[Any, Any]:
        return example.get("context"), example.get("question")

    @classmethod
    def said(cls, example: Example, where: str) -> tuple[tuple[int, int], ...]:
        return tuple(answer_places(example, where))

    @classmethod
    def doubts(cls, table: Table, said: Sequence[Any]) -> Iterator[Finding]:
        """The rows that have no answer."""
        if silent := tuple(i for i, places in enumerate(said) if places == ()):
            message = f"{len(silent):,} of {len(table):,} rows have no answer, so the model learns to give none."
            yield Finding("no_answers", "info", message, silent, "")

    def score(self) -> Score:
        return _Score(self.settings.threshold, self.settings.temperature)

    def detail(self, options: AnsweringOptions) -> Any:
        """What a report is made of."""
        return _Detail(self.settings.threshold, self.settings.temperature)

    def golden_examples(self) -> list[Example]:
        english = ("Who sat on the flower?", "A butterfly sat on the flower.")
        pairs = (english, ("나비가 어디에 앉았나?", "나비가 꽃에 앉았다."), ("What?", "WINNER!! £900 \U0001f389"))
        return [{"question": question, "context": context} for question, context in pairs]

    # ---- what a call looks like ----------------------------------------------------------------------------------------------------------------

    def called(self, args: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """v4's forms: ``question=`` and ``context=``, each a str or a list; both in order; a mapping; a list of mappings; ``X=`` or ``data=``."""
        options = dict(given)
        named = [name for name in ("X", "data") if name in options]
        if not args and not named and {"question", "context"} <= options.keys():
            questions, contexts = options.pop("question"), options.pop("context")
            if isinstance(questions, list) and isinstance(contexts, str):
                contexts = [contexts] * len(questions)
            if isinstance(questions, list) != isinstance(contexts, list):
                raise InputError("one question has several contexts", value=questions, expected="a str for both, or a list of questions")
            if isinstance(questions, list):
                if len(questions) != len(contexts):
                    raise InputError("the contexts are not as many as the questions", value=f"{len(questions)} questions, {len(contexts)} contexts")
                inputs: Any = [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]
            else:
                inputs = {"question": questions, "context": contexts}
        elif len(args) == 2 and all(isinstance(x, str) for x in args):
            inputs = {"question": args[0], "context": args[1]}
        elif not args and named:
            inputs = options.pop(named[0])
        elif args:
            inputs = args[0] if len(args) == 1 else list(args)
        else:
            raise InputError("there is no question", value=sorted(options), expected="question=... and context=..., or {'question': ..., 'context': ...}")
        return (inputs[0] if isinstance(inputs, list | tuple) and len(inputs) == 1 else inputs), options

    def example_of(self, item: Any, where: str = "an input") -> Example:
        """A mapping, v4's ``SquadExample``, or on a command line the JSON of a mapping."""
        if hasattr(item, "question_text") and hasattr(item, "context_text"):
            return {"question": item.question_text, "context": item.context_text}
        if isinstance(item, str) and item.lstrip().startswith("{"):
            try:
                item = json.loads(item)
            except ValueError as problem:
                raise InputError(f"{where} is no JSON ({problem})", value=item, expected='{"question": "...", "context": "..."}') from None
        if not isinstance(item, Mapping):
            raise InputError(f"{where} is no question with its context", value=item, expected='{"question": "...", "context": "..."}')
        return item

    def line(self, answer: Any) -> str:
        return f"{' '.join(answer['answer'].split()) or '(no answer)'}\t{answer['score']:.4f}"

    def alone(self, form: Form, given: Mapping[str, Any]) -> bool:
        return False

    def present(self, answer: Any, options: AnsweringOptions, alone: bool) -> Any:
        """v4's shapes: ``{"score", "start", "end", "answer"}``, a list if there are several; ``surface`` too where a particle was cut off."""
        shown = [{k: found[k] for k in ("score", "start", "end", "answer", "surface") if k in found} for found in answer["answers"]]
        if answer["threshold"] is not None or not shown:
            none = {"score": answer["no_answer_score"], "start": 0, "end": 0, "answer": ""}
            if not answer["answer"]:
                shown.insert(0, none)
            else:  # behind what is answered, by its score
                shown.insert(1 + sum(found["score"] >= none["score"] for found in shown[1:]), none)
        shown = shown[: options.wanted]
        return shown[0] if len(shown) == 1 else shown


def _log(p: float) -> float:
    return math.log(max(p, 1e-300))


class _Score(AnswerScore):
    def add(self, answer: Any, truth: Any) -> None:  # type: ignore[override]
        self.threshold = answer["threshold"]
        super().add(_span(answer), answer["margin"], truth, _sure(answer))


class _Detail(Answered):
    def add(self, answer: Any, truth: Any) -> None:  # type: ignore[override]
        self.threshold = answer["threshold"]
        super().add(_span(answer), answer["margin"], truth, _sure(answer))


def _sure(answer: Any) -> tuple[tuple[float, float], list[tuple[float, float]]] | None:
    if "by_temperature" not in answer:
        return None
    found = answer["answers"]
    return (found[0]["score"] if found else 0.0, answer["no_answer_score"]), answer["by_temperature"]


def _by_temperature(spread: Distributions, ranked: Sequence[Found]) -> list[tuple[float, float]]:
    each = (spread.at(temperature, [x.terms for x in ranked[:1]]) for temperature in TEMPERATURES)
    return [(scores[0] if scores else 0.0, none) for scores, none in each]


def _span(answer: Any) -> str:
    found = answer["answers"]
    return str(found[0]["answer"]) if found else ""


def _text(example: Example, name: str, where: str) -> str:
    value = example.get(name)
    if not isinstance(value, str):
        raise InputError(f"{where or 'an input'} has no {name}", value=value, expected="a str, in {'question': ..., 'context': ...}")
    if not value:
        raise InputError(f"{where or 'an input'} has an empty {name}", value=value, expected="a text")
    return value


def _answers(example: Example, where: str) -> list[tuple[str, int | None]]:
    """(text, start) of each answer, from any of SQuAD's forms."""
    value = example.get("answers")
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):  # a cell of a CSV file
        try:
            value = json.loads(value)
        except ValueError as problem:
            raise DataError(f"{where}: the answers are no JSON ({problem})", value=value, expected='[{"text": ..., "start": ...}]') from None
    if example.get("is_impossible") is True:
        return []
    if isinstance(value, Mapping):  # one answer, or columns of them
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if not isinstance(texts, str) and texts is not None:
            texts = list(texts)
            starts = list(starts) if starts is not None else [None] * len(texts)
            if len(texts) != len(starts):
                raise DataError(f"{where}: the answers' texts and starts are not as many", value=value)
            value = [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
        else:
            value = [value]
    if value is None or isinstance(value, str | bytes | int | float) or not isinstance(value, Iterable):
        raise DataError(f"{where}: the answers are no list", value=value, expected='[{"text": ..., "start": ...}], or [] if there is no answer')
    found = []
    for item in value:
        text = item.get("text") if isinstance(item, Mapping) else item
        start = item.get("start", item.get("answer_start")) if isinstance(item, Mapping) else None
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: an answer has no text", value=item, expected='{"text": ..., "start": ...}', fix="write [] if there is no answer")
        found.append((text, None if start is None else int(start)))
    return found


def _texts(example: Example, where: str) -> list[str]:
    return [text for text, _ in _answers(example, where)]


def answer_places(example: Example, where: str) -> list[tuple[int, int]]:
    """Where the answers lie, the one that most people gave first.

    Raises:
        DataError: an answer is not where its start says, or nowhere.
    """
    context, found = example["context"], []
    for text, start in _answers(example, where):
        if start is None:
            start = context.find(text)
            if start < 0:
                raise DataError(f"{where}: the answer is not in the context", value=text, expected="a part of the context, letter for letter")
        elif context[start : start + len(text)] != text:
            there = [m.start() for m in re.finditer(re.escape(text), context)]
            near = min(there, key=lambda place: abs(place - start)) if there else None
            fix = "the answer is nowhere in the context" if near is None else f"it begins at {near}; are the starts counted in bytes?"
            what = f"{where}: the context has {shortened(context[start : start + len(text)], 60)} at {start}, not the answer"
            raise DataError(what, value=text, expected="context[start:start + len(text)] == text", fix=fix)
        found.append((start, start + len(text)))
    return [span for span, _ in Counter(found).most_common()]


def _flat(table: Table) -> Table:
    rows: list[dict[str, Any]] = []
    origins: list[int] = []
    for i, row in enumerate(table):
        questions = row.get("questions")
        if not isinstance(questions, list | tuple) or not all(isinstance(q, Mapping) for q in questions):
            raise DataError(f"{table.where(i)}: the questions are no list of dicts", value=questions, expected='[{"question": ..., "answers": [...]}]')
        shared = {name: value for name, value in row.items() if name != "questions"}
        rows += [{**shared, **question} for question in questions]
        origins += [i] * len(questions)
    if not rows:
        raise DataError(f"{table.name}: there is no question in it", expected="rows of a context and its questions")
    return table.expanded(rows, origins)


TASK = QuestionAnswering
