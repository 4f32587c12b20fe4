"""Feature extraction: the vectors of a text's tokens, or one vector a text, its embedding (pooled as in Reimers & Gurevych 2019, "Sentence-BERT", section 3).

It has no head and nothing to train, so any body gives features, whatever its checkpoint was trained for. Unusual: a long text is read whole. Its tokens
come out once each, every one from the window in which it stands farthest from an edge; its embedding is that of all windows, weighted by their length.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nabi.batch import FILLER, Batch, Row
from nabi.errors import InputError, OptionError
from nabi.inputs import Inputs, Reading
from nabi.layout import Layout
from nabi.metrics.detail import Array
from nabi.nn.body import Body, Run
from nabi.tasks import Example, Form, Score, Task, Use
from nabi.weights.pooled import checked

_TOKENIZE = ("truncation", "max_length", "stride", "padding", "return_tensors")  # of v4's ``tokenize_kwargs``: what is understood


@dataclass(frozen=True)
class FeatureSettings:
    """What belongs to the model.

    Attributes:
        pooling: how its makers pool, as the folder says; None if it does not.
        normalize: whether they scale an embedding to length 1.
    """

    pooling: str | None = None
    normalize: bool = False


@dataclass(frozen=True)
class FeatureOptions(Reading):
    """What a call may set, beside how a text is read.

    Attributes:
        pooling: one vector a text: the ``mean`` of its tokens, special ones included, their ``max``, the first (``cls``) or the ``last``; ``stated`` pools
            and scales as the model's folder says (``modules.json``); None gives all.
        normalize: scale an embedding to length 1.
        return_tensors: a tensor in place of nested lists.
        tokenize_kwargs: v4's way to say ``truncation`` and ``max_length``.
    """

    pooling: Literal["mean", "max", "cls", "last", "stated"] | None = None
    normalize: bool = False
    return_tensors: bool = False
    tokenize_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.normalize and self.pooling is None:
            raise OptionError("normalize is for embeddings", fix="give pooling too: mean, max, cls or last")
        given = dict(self.tokenize_kwargs or {})
        strange = sorted(given.keys() - set(_TOKENIZE))
        if strange:
            raise OptionError("unknown entry of tokenize_kwargs", value=strange[0], expected=f"one of {', '.join(_TOKENIZE)}")
        if given.get("truncation") not in (None, False, "do_not_truncate"):
            object.__setattr__(self, "long", "truncate")
        for name in ("max_length", "stride"):
            value = given.get(name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise OptionError(f"tokenize_kwargs: {name} is no number of tokens", value=value, expected="a whole number")
            if value is not None:
                object.__setattr__(self, name, value)


class FeatureExtraction(Task):
    """Give each text the vectors that a body makes of it."""

    name = "feature_extraction"
    defaults = ("distilbert/distilbert-base-cased", "distilbert-base-cased")
    columns = ()
    optional_columns = ("text", "text_pair")
    heads = ()
    Options, Settings = FeatureOptions, FeatureSettings

    reads: str = "text"

    @classmethod
    def fits(cls, body: Body | type[Body]) -> bool:
        return "text" in body.needs

    @classmethod
    def fitted(cls, examples: Sequence[Example], where: str, given: Mapping[str, Any]) -> FeatureSettings:
        fix = "train another task, such as text_classification or sentence_similarity, and take the features of that model"
        raise OptionError("feature_extraction has no head, so there is nothing to train", fix=fix)

    @classmethod
    def pools(cls, settings: FeatureSettings) -> bool:
        return settings.pooling is None

    def _stated(self, options: FeatureOptions) -> FeatureOptions:
        """The options of a call, with the folder's pooling where that is asked for."""
        if options.pooling != "stated":
            return options
        if self.settings.pooling is None:
            raise OptionError("the model does not say how it pools", value="stated", expected="a folder with modules.json", fix="give mean, max, cls or last")
        return replace(options, pooling=checked(self.settings.pooling), normalize=options.normalize or self.settings.normalize)

    def outputs(self) -> dict[str, int]:
        return {}

    def build(self, body: Body) -> None:
        # what tags tokens in this family, which is T5's encoder; else what classifies: BART's decoder, whose vectors the incumbent gives too
        spec = type(body).heads.get("token") or type(body).heads.get("row")
        self.reads = spec.reads if spec is not None else "text"

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: FeatureOptions, use: Use = "predict", where: str = "") -> list[Row]:
        text, pair = example.get("text"), example.get("text_pair")
        if not isinstance(text, str) or not isinstance(pair, str | None):
            problem = text if not isinstance(text, str) else pair
            raise InputError(f"{where or 'an input'} has no text", value=repr(problem), expected="a str, or {'text': ..., 'text_pair': ...}")
        over = int(pair is not None and len(pair) > len(text))
        windows, cut = inputs.read(text, pair, options, over="pair" if over else "text", where=where)
        rows = []
        for window in windows:
            notes: dict[str, Any] = {"content": window.weight, "truncated": cut, "stride": options.stride}
            if len(windows) > 1:
                notes["over"] = window.extent(over)
            rows.append(Row({"text": {"tokens": window.ids, "segments": window.segments}}, notes=notes))
        return rows

    # ---- a batch -------------------------------------------------------------------------------------------------------------------------------

    def read(self, run: Run, batches: Iterable[Batch], options: FeatureOptions) -> Iterator[tuple[int, Array]]:
        """(row id, (W,) of an embedding or (tokens, W))."""
        options = self._stated(options)
        for batch in batches:
            part, layout = run.part(batch, self.reads), run.layout(batch, self.reads)
            kept = _kept(layout, options)
            values = run(batch, keep={self.reads: kept})[self.reads].values
            values = values if values.dtype == torch.float64 else values.float()
            if options.pooling == "mean":
                values = layout.mean(values)
            pieces = list(values) if kept is not None or options.pooling == "mean" else torch.split(values, list(layout.lengths))
            if options.pooling == "max":
                pieces = [piece.amax(0) for piece in pieces]
            for row, example, piece in zip(part.ids, part.example.tolist(), pieces, strict=True):
                if example != FILLER:
                    yield row, piece.cpu().numpy().copy()  # not a view, which would keep the whole batch

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Array], rows: Sequence[Row], example: Example, options: FeatureOptions) -> dict[str, Any]:
        """``{"embedding", "windows", "truncated"}``, with ``features`` (tokens, W) in place of the embedding where nothing is pooled."""
        options = self._stated(options)
        told = {"windows": len(rows), "truncated": any(row.notes["truncated"] for row in rows)}
        if options.pooling is None:
            return {"features": (_once(readings, rows) if len(rows) > 1 else readings[0]).tolist(), **told}
        if options.pooling == "max":
            vector = np.max(readings, axis=0).tolist()
        else:
            weights = [row.notes["content"] for row in rows]
            vector = (sum(w * reading.astype(np.float64) for w, reading in zip(weights, readings, strict=True)) / sum(weights)).tolist()
        if options.normalize:
            length = math.sqrt(math.fsum(x * x for x in vector))
            vector = [x / length for x in vector] if length else vector
        return {"embedding": vector, **told}

    def truth(self, example: Example, where: str) -> Any:
        raise OptionError("features have no truth to be held against", fix="evaluate a task that uses them, such as sentence_similarity")

    def score(self) -> Score:
        raise OptionError("features have no truth to be held against", fix="evaluate a task that uses them, such as sentence_similarity")

    def golden_examples(self) -> list[Example]:
        return super().golden_examples()[:2]  # every number of every token is saved

    def alone(self, form: Form, given: Mapping[str, Any]) -> bool:
        return False

    def present(self, answer: Any, options: FeatureOptions, alone: bool) -> Any:
        """v4's shape, (1, tokens, W), or an embedding (W,)."""
        found = [answer["features"]] if options.pooling is None else answer["embedding"]
        return torch.tensor(found) if options.return_tensors else found


def _kept(layout: Layout, options: FeatureOptions) -> Tensor | None:
    """(N,) the tokens that are read, or None for all."""
    if options.pooling not in ("cls", "last"):
        return None
    assert layout.rows is not None
    tokens = torch.arange(layout.rows.shape[0], device=layout.rows.device)
    return layout.first(tokens) if options.pooling == "cls" else layout.last(tokens)


def _once(readings: Sequence[Array], rows: Sequence[Row]) -> Array:
    """The tokens of overlapping windows, each once: what windows repeat around the text from the first, what they share by halves from either."""
    start, stop = rows[0].notes["over"]
    found = [readings[0][:start]]
    for i, (reading, row) in enumerate(zip(readings, rows, strict=True)):
        start, stop = row.notes["over"]
        shared = row.notes["stride"]
        begin = start + (shared - shared // 2 if i else 0)
        end = stop - (shared // 2 if i + 1 < len(rows) else 0)
        found.append(reading[begin:end])
    return np.concatenate([*found, readings[-1][stop:]])


TASK = FeatureExtraction
