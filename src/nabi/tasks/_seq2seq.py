"""What the tasks share that write a text for a text: rows of source and target, sources that are too long, measures against a reference.

Unusual: a text that does not fit is read in pieces that keep their place in it, when it is answered and when answers are evaluated; nothing is cut unless
the caller asks for it, save sources and targets of training. There the data has one target to a whole source and does not say which part of it answers
which piece: the whole target behind each piece would teach to write what the piece does not say, parts of equal shares would be a guess. So the pair stays
one row, its end is cut, and a warning says how many rows and tokens that are and what to do; ``long="error"`` refuses such pairs. A target that is cut has
no end token, so the model does not learn to stop there.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nabi.batch import Row
from nabi.errors import DataError, InputError, OptionError
from nabi.inputs import Inputs
from nabi.tasks import Cut, Example, Form, Use
from nabi.tasks._generating import Generating, refuse_chat, told

# where a sentence ends: a mark with its closing quotes and a space behind it, a mark of Chinese or Japanese, or an end of line
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”’)\]]*|\n+")


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence in ``text``, without the space around it."""
    found, begin = [], 0
    for end in [*(match.end() for match in _END.finditer(text)), len(text)]:
        piece = text[begin:end]
        if piece.strip():
            found.append((begin + len(piece) - len(piece.lstrip()), begin + len(piece.rstrip())))
        begin = end
    return found


class TextToText(Generating):
    """Base of the tasks that read ``source`` and write ``target``."""

    columns = ("source", "target")
    generates = "target"
    key: str  # what v4 calls the answer: KEY_text

    def example_of(self, item: Any, where: str = "an input") -> Example:
        refuse_chat(item, where)
        if not isinstance(item, Mapping):
            return {"source": item}
        return {"source": item["text"], **item} if "text" in item and "source" not in item else item

    # ---- one example -------------------------------------------------------------------------------------------------------------------------

    def encode(self, example: Example, inputs: Inputs, options: Any, use: Use = "predict", where: str = "") -> list[Row]:
        source = example.get("source")
        if not isinstance(source, str):
            raise InputError(f"{where or 'an input'} has no source", value=source, expected="a str, or {'source': ...}")
        before = self.before(options, inputs)
        limit = inputs.max_length
        whole = inputs.tokenizer.encode(before + source)
        fits = len(whole.ids) <= limit
        if use == "train":
            target = self.truth(example, where)
            aims = self._target(target, inputs, options, where)
            if not fits:
                kept = inputs.tokenizer.truncated(before + source, None, limit)[0]
                _cut("source", where, len(whole.ids), limit, len(kept.ids), options)
                whole = kept
            row = Row({"text": {"tokens": whole.ids}, "target": {"tokens": [self._start, *aims[:-1]]}}, targets={"next": aims})
            return [row]
        if fits and not self.apart(options):
            return [self._row(whole.ids, (0, len(source)))]
        if not fits and options.long == "error":
            fix = "with long='window' it is read in pieces"
            raise InputError(f"{where or 'the source'} is too long", value=f"{len(whole.ids)} tokens", expected=f"at most {limit}", fix=fix)
        if not fits and options.long == "truncate":
            return [self._row(inputs.tokenizer.truncated(before + source, None, limit)[0].ids, (0, len(source)), cut=True)]
        front = self.front(source, lambda text: len(inputs.tokenizer.encode(before + text).ids) <= limit * 3 // 4)
        if len(empty := inputs.tokenizer.encode(before).ids) >= limit:
            what = f"{where or 'the source'} is too long"
            raise InputError(what, value=f"{len(empty)} tokens before it", expected=f"fewer than {limit}", fix="shorten the prefix")
        before += source[:front]
        places = [(front + a, front + b) for a, b in self._places(source[front:], before, inputs, options)]
        rows = [self._row(inputs.tokenizer.encode(before + source[a:b]).ids, (a, b)) for a, b in places]
        rows[0].notes["front"] = front
        return rows

    def front(self, source: str, small: Callable[[str], bool]) -> int:
        """How many of a long source's first characters say what is to be done, so that each piece begins with them; ``small`` says if so many may."""
        return 0

    def apart(self, options: Any) -> bool:
        """Whether sentences are read one by one even if the text fits."""
        return False

    def before(self, options: Any, inputs: Inputs) -> str:
        """What is put before each source."""
        return self.prefix

    def _row(self, ids: list[int], place: tuple[int, int], cut: bool = False) -> Row:
        return Row({"text": {"tokens": ids}}, notes={"place": place, "truncated": cut})

    def _places(self, source: str, before: str, inputs: Inputs, options: Any) -> Iterator[tuple[int, int]]:
        """Pieces of a source that fit: sentences, as many together as do unless they shall stand apart; a longer one is cut at spaces."""
        limit = inputs.max_length

        def size(a: int, b: int) -> int:
            return len(inputs.tokenizer.encode(before + source[a:b]).ids)

        found: list[tuple[int, int]] = []
        for a, b in sentences(source):
            found.extend(_halved(source, a, b, limit, size))
        found = found or list(_halved(source, 0, len(source), limit, size)) or [(0, 0)]  # nothing but space: as it is, or nothing if that is too long
        if self.apart(options):
            yield from found
            return
        begin, end = found[0]
        for a, b in found[1:]:
            if size(begin, b) <= limit:
                end = b
            else:
                yield begin, end
                begin, end = a, b
        yield begin, end

    @property
    def _start(self) -> int:
        start = self.decoding.decoder_start_token_id
        if start is None:
            raise OptionError("the model does not say which token its output begins with", expected="decoder_start_token_id in its config.json")
        return start

    def _target(self, target: str, inputs: Inputs, options: Any, where: str) -> list[int]:
        tokenizer = inputs.tokenizer.target
        ids = tokenizer.encode(target).ids
        end = next(iter(self.decoding.eos_token_id), None)
        if end is not None and ids[-1:] != [end]:
            ids = [*ids, end]
        if not ids:
            raise DataError(f"{where}: the target is empty", value=target, expected="at least one token")
        if len(ids) > inputs.max_length:
            _cut("target", where, len(ids), inputs.max_length, inputs.max_length, options)
            ids = ids[: inputs.max_length]
        return ids

    # ---- answers -------------------------------------------------------------------------------------------------------------------------------

    def answer(self, readings: Sequence[Any], rows: Sequence[Row], example: Example, options: Any) -> Any:
        """``{"text", "finish_reason", "truncated", "sequences", "pieces"}``; a row with a target gives ``{"nats", "tokens"}``."""
        if isinstance(readings[0], dict):
            return {name: sum(reading[name] for reading in readings) for name in ("nats", "tokens")}
        source: str = example["source"]
        front = [self._start] if self.as_ids(options) else None
        places = [row.notes["place"] for row in rows]
        sequences = [_joined([told(piece, front) for piece in pieces], places, source) for pieces in zip(*readings, strict=False)]
        return {
            "text": sequences[0]["text"],
            "finish_reason": sequences[0]["finish_reason"],
            "truncated": any(row.notes["truncated"] for row in rows),
            "sequences": sequences,
            "pieces": [
                {"start": row.notes["place"][0], "end": row.notes["place"][1], "text": pieces[0].text} for row, pieces in zip(rows, readings, strict=True)
            ],
        }

    def between(self, rows: Sequence[Row], number: int, example: Example) -> str:
        end = rows[number - 1].notes["place"][1] if number else rows[0].notes.get("front", 0)
        return str(example["source"][end : rows[number].notes["place"][0]])

    def truth(self, example: Example, where: str) -> str:
        target = example.get("target")
        if not isinstance(target, str):
            raise DataError(f"{where} has no target", value=target, expected="a str")
        return target

    def golden_examples(self) -> list[Example]:
        pairs = (("The film was not bad at all.", "It was good."), ("나비가 꽃에 앉았다.", "A butterfly."), ("£900", "now"))
        return [{"source": source, "target": target} for source, target in pairs]

    def line(self, answer: Any) -> str:
        return str(answer["text"])

    def alone(self, form: Form, given: Mapping[str, Any]) -> bool:
        return form != "list"

    def present(self, answer: Any, options: Any, alone: bool) -> Any:
        """v4's shape: a list of dicts for each text; in a list of texts the dict itself, where each text has one answer."""
        kind, name = ("token_ids", "ids") if self.as_ids(options) else ("text", "text")
        result = [{f"{self.key}_{kind}": sequence[name]} for sequence in answer["sequences"]]
        return result if alone or len(result) > 1 else result[0]


def _joined(pieces: Sequence[dict[str, Any]], places: Sequence[tuple[int, int]], source: str) -> dict[str, Any]:
    """One answer of its pieces, with what lies between their places in the source."""
    if len(pieces) == 1:
        return pieces[0]
    text, end = "", 0
    for piece, (a, b) in zip(pieces, places, strict=True):
        text += (source[end:a] if text else "") + piece["text"].strip()
        end = b
    ended = "length" if any(piece["finish_reason"] == "length" for piece in pieces) else "stop"
    joined: dict[str, Any] = {name: [token for piece in pieces for token in piece[name]] for name in ("tokens", "ids") if name in pieces[0]}
    return {"text": text, "finish_reason": ended, "score": None, **joined}


def _halved(source: str, a: int, b: int, limit: int, size: Any) -> Iterator[tuple[int, int]]:
    """A stretch of text in pieces of at most ``limit`` tokens, cut at a space near the middle, else in the middle."""
    if size(a, b) <= limit or b - a < 2:
        yield a, b
        return
    middle = (a + b) // 2
    space = source.rfind(" ", a + 1, middle)
    cut = space if space > 0 else middle
    for x, y in ((a, cut), (cut, b)):
        piece = source[x:y]
        x, y = x + len(piece) - len(piece.lstrip()), x + len(piece.rstrip())
        if x < y:
            yield from _halved(source, x, y, limit, size)


def _cut(what: str, where: str, length: int, limit: int, kept: int, options: Any) -> None:
    """Tell that a text of training is cut from ``length`` tokens to ``kept``, or refuse it if the caller wants that."""
    if options.long == "error":
        fix = "part the pair, leave it out, or let its end be cut with long='truncate'"
        raise InputError(f"{where or 'the row'}: the {what} is too long", value=f"{length} tokens", expected=f"at most {limit}", fix=fix)
    warnings.warn(Cut(what, where or "one", length, limit, length - kept), stacklevel=3)
