"""How a tokenizer makes ids of a text: normalise, split into words, cut the words into tokens, put special tokens around; each with offsets.

The first and the last stage are the library's own; the cutting is done here once more, step by step, and held against the library's ids: where the two
differ there is an error, never a wrong picture. BPE merges the pair of the lowest rank first, the left one of equals (Sennrich et al., 2016, section 3.2);
WordPiece takes the longest piece that fits (Devlin et al., 2019); Unigram the pieces with the highest sum of log-probabilities (Kudo, 2018, section 3.2).
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from nabi.errors import InputError, TokenizerError
from nabi.text.files import Guard
from nabi.text.marian import Marian
from nabi.text.tokenizer import Tokenizer

UNKNOWN_PENALTY = 10.0  # of a character that no Unigram piece has, below the lowest score; as the library


@dataclass(frozen=True)
class Step:
    """One thing that was done to a word.

    Attributes:
        what: "letters", "merge", "match", "path", "unknown", "word" or "added".
        pieces: BPE: the word after the merge; WordPiece: the piece; Unigram: the pieces of the best path.
        note: the rank of the merge, the score of the path.
    """

    what: str
    pieces: tuple[str, ...]
    note: float | None = None


@dataclass
class Word:
    """One word: as the pre-tokeniser gives it, what was done, and what came out.

    Attributes:
        text: as the model reads it.
        offsets: in characters of the text.
        steps: in their order.
        tokens, ids: what came out.
    """

    text: str
    offsets: tuple[int, int]
    steps: list[Step] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Replay:
    """All stages of a text.

    Attributes:
        text: as given.
        parts: the text between the added tokens and these themselves: (text as given, normalised text, id of the added token or None).
        words: of all parts in order; an added token is a word with the step "added".
        ids, tokens, offsets, special: the end of it, special tokens around the text included.
        by: the model: BPE, WordPiece, Unigram or WordLevel.
    """

    text: str
    parts: list[tuple[str, str, int | None]]
    words: list[Word]
    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    special: list[bool]
    by: str

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "text": self.text,
            "model": self.by,
            "normalised": [{"text": given, "normalised": made, "added_token": id} for given, made, id in self.parts],
            "words": [
                {"word": word.text, "readable": readable(word.text, self.by), "offsets": list(word.offsets), "tokens": word.tokens, "ids": word.ids,
                 "steps": [{"step": s.what, "pieces": list(s.pieces)} | ({} if s.note is None else {"note": s.note}) for s in word.steps]}
                for word in self.words
            ],
            "tokens": [
                {"token": token, "readable": readable(token, self.by), "id": id, "offsets": list(offsets), "special": special}
                for token, id, offsets, special in zip(self.tokens, self.ids, self.offsets, self.special, strict=True)
            ],
        }  # fmt: skip


def replay(tokenizer: Tokenizer, text: str) -> Replay:
    """Do once more, step by step, what the tokenizer does to a text.

    Args:
        tokenizer: of any kind but Marian.
        text: what to show.

    Raises:
        InputError: not a str, or not valid Unicode.
        TokenizerError: its model is not one that can be shown, or the steps do not lead to its ids.
    """
    if isinstance(tokenizer.library, Marian):
        raise TokenizerError("a Marian tokenizer has no stages that can be shown", expected="a tokenizer with a tokenizer.json")
    library, whole = tokenizer.library, tokenizer.encode(text)
    definition = json.loads(tokenizer.definition())
    model = _Model(definition["model"], library)
    composed = tokenizer._composed(text)
    plain = tokenizer.encode(text, special=False)
    with Guard(InputError, "the text can't be tokenised", value=text):
        parts, words = _split(library, definition, composed.text)
    for word in words:
        if not word.ids:
            model.cut(word)
        if composed.places is not None:
            word.offsets = composed.places[word.offsets[0]], composed.places[word.offsets[1]]
    found = [id for word in words for id in word.ids]
    if found != plain.ids:
        at = next((i for i, (a, b) in enumerate(itertools.zip_longest(found, plain.ids)) if a != b), 0)
        what = f"the steps do not lead to the library's ids: token {at} is {found[at:at + 3]}, not {plain.ids[at:at + 3]}"
        raise TokenizerError(what, value=text, expected="a model whose cutting is BPE, WordPiece, Unigram or WordLevel and nothing more")
    names = [str(library.id_to_token(id)) for id in whole.ids]
    return Replay(text, parts, words, whole.ids, names, whole.offsets, whole.special, definition["model"]["type"])


def _split(library: Any, definition: dict[str, Any], text: str) -> tuple[list[tuple[str, str, int | None]], list[Word]]:
    """The parts between added tokens, and the words of all of them with offsets into the text."""
    import tokenizers

    # the same tokenizer with a model that leaves each word whole: every word becomes one unknown token, with the library's own normaliser, added
    # tokens and offsets
    outline = {**definition, "model": {"type": "WordLevel", "vocab": {"\ue000": 0}, "unk_token": "\ue000"}, "post_processor": None}
    outline |= {"truncation": None, "padding": None, "added_tokens": []}
    bare = tokenizers.Tokenizer.from_str(json.dumps(outline))
    added = {token["content"]: token["id"] for token in definition["added_tokens"]}
    for token in definition["added_tokens"]:
        options = {key: value for key, value in token.items() if key not in ("id", "content")}
        bare.add_tokens([tokenizers.AddedToken(token["content"], **options)])
    names = {bare.token_to_id(token): id for token, id in added.items()}
    raw = bare.encode(text, add_special_tokens=False)
    spans: list[tuple[int, int, int | None]] = []
    last = 0
    for id, (start, end) in zip(raw.ids, raw.offsets, strict=True):
        if id in names:
            spans += [(last, start, None), (start, end, names[id])]
            last = end
    spans.append((last, len(text), None))
    parts: list[tuple[str, str, int | None]] = []
    words: list[Word] = []
    for start, end, number in spans:
        given = text[start:end]
        if number is not None:
            token = str(library.id_to_token(number))
            parts.append((given, token, number))
            words.append(Word(token, (start, end), [Step("added", (token,))], [token], [number]))
        elif given:
            normalised = library.normalizer.normalize_str(given) if library.normalizer is not None else given
            parts.append((given, normalised, None))
            words += _words(library, given, start)
    return parts, words


def _words(library: Any, text: str, begin: int) -> list[Word]:
    import tokenizers

    held = tokenizers.PreTokenizedString(text)
    if library.normalizer is not None:
        held.normalize(library.normalizer.normalize)
    if library.pre_tokenizer is not None:
        library.pre_tokenizer.pre_tokenize(held)
    return [Word(piece, (begin + start, begin + end)) for piece, (start, end), _ in held.get_splits(offset_referential="original", offset_type="char")]


class _Model:
    """Cuts words as the library's model does."""

    def __init__(self, model: dict[str, Any], library: Any) -> None:
        self.kind = str(model.get("type"))
        if self.kind not in ("BPE", "WordPiece", "Unigram", "WordLevel"):
            raise TokenizerError("this kind of model can't be shown", value=self.kind, expected="BPE, WordPiece, Unigram or WordLevel")
        if model.get("dropout"):
            raise TokenizerError("a tokenizer with dropout cuts a text each time anew", value=model["dropout"], fix="set it to null in tokenizer.json")
        self.library, self.model = library, model
        self.prefix, self.suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
        if self.kind == "Unigram":
            self.ids = {piece: i for i, (piece, _) in enumerate(model["vocab"])}
            self.scores = [score for _, score in model["vocab"]]
            self.longest = max(map(len, self.ids), default=0)
            self.unknown = min(self.scores, default=0.0) - UNKNOWN_PENALTY
        else:
            self.ids = model["vocab"]
        if self.kind == "BPE":
            pairs = (tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ", 1)) for merge in model["merges"])
            self.ranks = {pair: rank for rank, pair in enumerate(pairs)}

    def cut(self, word: Word) -> None:
        {"BPE": self._bpe, "WordPiece": self._wordpiece, "Unigram": self._unigram, "WordLevel": self._word}[self.kind](word)

    def _give(self, word: Word, tokens: list[str]) -> None:
        word.tokens, word.ids = tokens, [self.ids[token] for token in tokens]

    def _bpe(self, word: Word) -> None:
        if self.model.get("ignore_merges") and word.text in self.ids:
            word.steps.append(Step("word", (word.text,)))
            return self._give(word, [word.text])
        last = len(word.text) - 1
        pieces: list[str] = []
        open_unknown = False
        for i, char in enumerate(word.text):
            symbol = (self.prefix if i else "") + char + (self.suffix if i == last else "")
            if symbol in self.ids:
                pieces.append(symbol)
                open_unknown = False
                continue
            in_bytes = [f"<0x{byte:02X}>" for byte in char.encode("utf-8")]
            if self.model.get("byte_fallback") and all(byte in self.ids for byte in in_bytes):
                pieces += in_bytes
                open_unknown = False
            elif self.model.get("unk_token"):
                if not (open_unknown and self.model.get("fuse_unk")):
                    pieces.append(self.model["unk_token"])
                    word.steps.append(Step("unknown", (symbol,)))
                open_unknown = True
        word.steps.append(Step("letters", tuple(pieces)))
        while len(pieces) > 1:
            rank, at = min(((self.ranks.get((a, b), len(self.ranks)), i) for i, (a, b) in enumerate(itertools.pairwise(pieces))))
            if rank == len(self.ranks):
                break
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1].removeprefix(self.prefix)]
            word.steps.append(Step("merge", tuple(pieces), rank))
        return self._give(word, pieces)

    def _wordpiece(self, word: Word) -> None:
        unknown = self.model["unk_token"]
        if len(word.text) > self.model["max_input_chars_per_word"]:
            word.steps.append(Step("unknown", (word.text,)))
            return self._give(word, [unknown])
        start, tokens = 0, []
        while start < len(word.text):
            tries = ((self.prefix if start else "") + word.text[start:end] for end in range(len(word.text), start, -1))
            piece = next((piece for piece in tries if piece in self.ids), None)
            if piece is None:
                word.steps.append(Step("unknown", (word.text[start:],)))
                return self._give(word, [unknown])
            word.steps.append(Step("match", (piece,)))
            tokens.append(piece)
            start += len(piece) - (len(self.prefix) if start else 0)
        return self._give(word, tokens)

    def _word(self, word: Word) -> None:
        known = word.text in self.ids
        word.steps.append(Step("word" if known else "unknown", (word.text,)))
        self._give(word, [word.text if known else self.model["unk_token"]])

    def _unigram(self, word: Word) -> None:
        text = word.text
        best: list[tuple[float, int] | None] = [(0.0, 0), *[None] * len(text)]
        for start in range(len(text)):
            so_far = best[start]
            assert so_far is not None
            single = False
            for end in range(start + 1, min(start + self.longest, len(text)) + 1):
                id = self.ids.get(text[start:end])
                if id is None:
                    continue
                single |= end == start + 1
                score, old = so_far[0] + self.scores[id], best[end]
                if old is None or score > old[0]:
                    best[end] = score, start
            if not single:
                score, old = so_far[0] + self.unknown, best[start + 1]
                if old is None or score > old[0]:
                    best[start + 1] = score, start
        pieces, end = [], len(text)
        while end:
            score_start = best[end]
            assert score_start is not None
            pieces.append(text[score_start[1] : end])
            end = score_start[1]
        pieces.reverse()
        fused: list[str] = []
        before = True
        for piece in pieces:  # unknown characters in a row are one token
            known = piece in self.ids
            if known or before:
                fused.append(piece)
            else:
                fused[-1] += piece
            before = known
        total = best[-1]
        word.steps.append(Step("path", tuple(fused), None if total is None else total[0]))
        for piece in fused:
            self._give_piece(word, piece)

    def _give_piece(self, word: Word, piece: str) -> None:
        in_bytes = [f"<0x{byte:02X}>" for byte in piece.encode("utf-8")]
        if piece in self.ids:
            word.tokens.append(piece)
            word.ids.append(self.ids[piece])
        elif self.model.get("byte_fallback") and all(byte in self.ids for byte in in_bytes):
            word.tokens += in_bytes
            word.ids += [self.ids[byte] for byte in in_bytes]
        elif self.model.get("unk_id") is not None:
            word.steps.append(Step("unknown", (piece,)))
            word.tokens.append(str(self.model["vocab"][self.model["unk_id"]][0]))
            word.ids.append(self.model["unk_id"])
        else:
            raise TokenizerError("a character is not in the vocabulary, which has no unknown token", value=piece)


def _bytes_of() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones of Latin-1 are themselves, the others are shifted behind them."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _bytes_of()
_SHOWN = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def readable(token: str, by: str) -> str:
    """A token for the eye: bytes as the characters that they are, or as ⟨e4⟩ where they are no whole one, spaces as ␣, line ends as ⏎, tabs as ⇥."""
    if by == "BPE" and token and all(char in _BYTES for char in token):
        text = bytes(_BYTES[char] for char in token).decode("utf-8", "surrogateescape")
        token = "".join(f"⟨{ord(char) - 0xDC00:02x}⟩" if "\udc80" <= char <= "\udcff" else char for char in text)
    return "".join(_SHOWN.get(char, char if char.isprintable() else f"⟨U+{ord(char):04X}⟩") for char in token.replace("▁", "␣"))
