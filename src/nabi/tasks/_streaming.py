"""A text as it comes: new text out of token ids, and the records of a stream.

Unusual: text that a later token may change waits: half a character, the bytes of a tokenizer whose runs of bytes are read as a whole, and, where the spaces
before marks are taken away, what may become such a mark. So the pieces joined are the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from nabi.decoding import Branches, Event
from nabi.errors import InputError
from nabi.text import Tokenizer

HALF = "\ufffd"  # what decoders give for bytes that are no character, or not yet
RULED_OUT = -5e8  # a beam below is none: the search had fewer continuations than beams, or this one ended
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# what decoders leave before marks and English endings (v4's clean_up_tokenization)
_TIDY = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))
_MAY_BECOME_TIDY = re.compile(r"(?: (?:' ?[vr]?|n'?)?)+$")  # what begins one of them; several in a row, as one rule's result may be another's beginning


def tidied(text: str) -> str:
    """Without the space that decoders leave before marks and English endings."""
    for untidy, tidy in _TIDY:
        text = text.replace(untidy, tidy)
    return text


class Unfolding:
    """The new text of each token of one answer.

    Args:
        text_of: the text of all tokens of the answer so far.
        tokenizer: that writes.
        tidy: whether the text is told as :func:`tidied` makes it.
    """

    def __init__(self, text_of: Callable[[Sequence[int]], str], tokenizer: Tokenizer, tidy: bool = False) -> None:
        self._text_of, self._tokenizer, self._tidy = text_of, tokenizer, tidy
        self.tokens: list[int] = []
        self._told = ""
        self._whole: str | None = text_of([])  # of all the tokens; None if not known

    def add(self, token: int) -> str:
        """What is new with this token; empty while a character is not complete, and for a special token."""
        self.tokens.append(token)
        self._whole = None
        return self._new(self._settled())

    def copy(self) -> Unfolding:
        """Another one with the same beginning."""
        made = Unfolding(self._text_of, self._tokenizer, self._tidy)
        made.tokens, made._told, made._whole = list(self.tokens), self._told, self._whole
        return made

    def rest(self, whole: str) -> str:
        """What is left to tell of the whole text, tidied if it shall be, when it is over."""
        return self._new(whole)

    def shown(self, token: int) -> str:
        """The text that a token would add, or its name if it would add none: of a special token, of bytes of a character that is not complete."""
        name = self._name(token)
        if _BYTE.fullmatch(name):
            return name
        before, after = self._known(), self._text_of([*self.tokens, token])
        new = after[len(before) :] if after.startswith(before) else after[len(before.rstrip(HALF)) :]
        if new and HALF not in new:
            return new
        if all(c in _BYTES for c in name) and self._tokenizer.decode([token]):  # which special tokens have none of
            return "".join(f"<0x{_BYTES[c]:02X}>" for c in name)
        return new or name

    def _name(self, token: int) -> str:
        try:
            return self._tokenizer.token(token)
        except InputError:  # a model may have more outputs than its tokenizer has tokens
            return f"<{token}>"

    def _known(self) -> str:
        if self._whole is None:
            self._whole = self._text_of(self.tokens)
        return self._whole

    def _settled(self) -> str:
        end = len(self.tokens)
        while end and _BYTE.fullmatch(self._name(self.tokens[end - 1])):
            end -= 1
        text = (self._known() if end == len(self.tokens) else self._text_of(self.tokens[:end])).rstrip(HALF)
        return tidied(_MAY_BECOME_TIDY.sub("", text)) if self._tidy else text

    def _new(self, text: str) -> str:
        if len(text) <= len(self._told):
            return ""
        new, self._told = text[len(self._told) :], text
        return new


class Joining:
    """The new text of pieces that an answer joins: without the space around each, and with what lay between them in the source."""

    def __init__(self) -> None:
        self._any, self._begun = False, False
        self._between, self._held = "", ""

    def begin(self, between: str) -> None:
        """The next piece begins, behind this text if there was any before."""
        self._between = between if self._any else ""
        self._begun, self._held = False, ""

    def add(self, new: str) -> str:
        """What is new of the whole; space waits for what follows it."""
        new = self._held + new
        kept = (new if self._begun else new.lstrip()).rstrip()
        self._held = new[len(new.rstrip()) :]
        self._begun = self._begun or bool(kept)
        told, self._between = self._between + kept, ""
        self._any = self._any or bool(told)
        return told


def record(event: Event, text: Unfolding, ended: bool) -> dict[str, Any]:
    """A chosen token as plain data; ``ended``: it is an end token, which no text shows."""
    others = [(text.shown(token), token, logprob) for token, logprob in event.alternatives]
    name = text.shown(event.token)
    new = "" if ended else text.add(event.token)
    return {"index": event.index, "token": event.token, "name": name, "text": new, "logprob": event.logprob, "alternatives": others}


class Beams:
    """The steps of a beam search as plain data.

    Args:
        beginning: no tokens yet.
    """

    def __init__(self, beginning: Unfolding) -> None:
        self._before = [beginning]  # of each beam of the step before

    def record(self, step: Branches) -> dict[str, Any]:
        """One step: its beams, best first, and the hypotheses that ended; each says which beam of the step before it continues."""
        told = [self._told(*each) for each in zip(step.parents, step.tokens, step.scores, strict=True) if each[2] > RULED_OUT]
        ended = [self._told(*each)[0] for each in step.ended if each[0] < len(self._before)]  # not of a beam that is none
        self._before = [text for _, text in told]
        return {"step": step.step, "beams": [beam for beam, _ in told], "ended": ended}

    def _told(self, parent: int, token: int, score: float) -> tuple[dict[str, Any], Unfolding]:
        text = self._before[parent].copy()
        name = text.shown(token)
        return {"parent": parent, "token": token, "name": name, "text": text.add(token), "score": score}, text


def _bytes() -> dict[str, int]:
    """Character -> byte of byte-level tokens: printable Latin-1 stands for itself, the others follow from U+0100 on (Radford et al. 2019's encoder)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _bytes()
