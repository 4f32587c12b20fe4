"""Marian's tokenizer: pieces are SentencePiece's (source.spm for a source, target.spm for a target), ids are those of vocab.json.

No definition of the library says this, for a piece's id is its place in the file there, and so this class offers what ``Tokenizer`` asks of the
library. What vocab.json lacks is ``<unk>``, ``</s>`` stands at the end, and ``>>fra<<`` at the beginning of a text is one token, the language to
translate into.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nabi.errors import TokenizerError
from nabi.text.files import content, read_ids, special_entries, token_list
from nabi.text.spm import NORMAL, SPACE, USER_DEFINED, Charsmap, SentencePiece, read_model

SOURCE, TARGET, VOCABULARY, TARGET_VOCABULARY = "source.spm", "target.spm", "vocab.json", "target_vocab.json"


@dataclass
class Columns:
    """The tokens of a text or a pair, under the names of the library."""

    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)  # as they stand in the text, the vocabulary's or not
    type_ids: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    word_ids: list[int | None] = field(default_factory=list)
    special_tokens_mask: list[int] = field(default_factory=list)
    sequence_ids: list[int | None] = field(default_factory=list)

    def add(self, id: int, token: str, side: int, offset: tuple[int, int], word: int | None, *, special: bool = False) -> None:
        self.ids.append(id)
        self.tokens.append(token)
        self.type_ids.append(side)
        self.offsets.append(offset)
        self.word_ids.append(word)
        self.special_tokens_mask.append(int(special))
        self.sequence_ids.append(None if special else side)


class Marian:
    """One side of a Marian folder, with the methods of the library's tokenizer that ``Tokenizer`` uses.

    Args:
        files: the bytes of the folder's files, by name.
        side: "source" or "target".
        where: the folder, for errors.
        usual: the usual special names by role.
        separate: whether the target has a vocabulary of its own.

    Raises:
        TokenizerError: a file can't be used, or ``<unk>`` or ``</s>`` is not in the vocabulary.
    """

    normalizer = None
    truncation = None
    padding = None

    def __init__(self, files: Mapping[str, bytes], side: str, where: str, usual: Mapping[str, str], *, separate: bool) -> None:
        vocabulary = TARGET_VOCABULARY if separate and side == "target" else VOCABULARY
        model = SOURCE if side == "source" else TARGET
        self._ids = read_ids(files[vocabulary], f"{where}/{vocabulary}", holes=True)
        self._pieces = Pieces(read_model(files[model], f"{where}/{model}"), f"{where}/{model}")
        names = {role: content(entry) for role, entry in special_entries(files, usual).items()}
        for role in ("unk", "eos"):
            if names[role] not in self._ids:
                what = f"the {role} token is not in the vocabulary"
                raise TokenizerError(what, value=f"{where}/{vocabulary}: '{names[role]}'", fix="fetch the file again")
        self._known = self._added(files, usual, where)
        self._tokens = {id: token for token, id in [*self._ids.items(), *self._known.items()]}
        self._unk, self._eos = self._ids[names["unk"]], self._known[names["eos"]]
        words = "|".join(map(re.escape, sorted(self._known, key=len, reverse=True)))
        self._split = re.compile(f"({words})")
        sums = b"".join(hashlib.sha256(files[name]).digest() for name in (model, vocabulary))
        self._digest = hashlib.sha256(sums + repr(sorted(self._known.items())).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of what decides the ids."""
        return self._digest

    def encode(self, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> Columns:
        """The tokens of a text, or of a text and its pair, and ``</s>``."""
        columns = Columns()
        for side, given in enumerate((text,) if pair is None else (text, pair)):
            self._put(columns, given, side)
        if add_special_tokens:
            columns.add(self._eos, self._tokens[self._eos], int(pair is not None), (0, 0), None, special=True)
        return columns

    def encode_batch(self, inputs: Iterable[str | tuple[str, str]], *, add_special_tokens: bool = True) -> list[Columns]:
        """``encode`` of each."""
        pairs = [(given, None) if isinstance(given, str) else given for given in inputs]
        return [self.encode(*pair, add_special_tokens=add_special_tokens) for pair in pairs]

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids: their pieces joined, special tokens with a space behind."""
        text, run = "", []
        for token in [self.id_to_token(id) or self._tokens[self._unk] for id in ids]:
            if token not in self._known:
                run.append(token)
            elif not skip_special_tokens:
                text, run = f"{text}{self._pieces.joined(run)}{token} ", []
        return (text + self._pieces.joined(run)).replace(SPACE, " ").strip()

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, None if there is none."""
        return self._known.get(token, self._ids.get(token))

    def id_to_token(self, id: int) -> str | None:
        """The token of an id, None if there is none."""
        if id < 0:
            raise OverflowError("an id is 0 or more")
        return self._tokens.get(id)

    def get_vocab_size(self, *, with_added_tokens: bool = True) -> int:
        """One more than the largest id."""
        return max(self._tokens if with_added_tokens else self._ids.values()) + 1

    def get_vocab(self, *, with_added_tokens: bool = True) -> dict[str, int]:
        """The tokens and their ids."""
        return self._ids | self._known if with_added_tokens else dict(self._ids)

    def num_special_tokens_to_add(self, *, is_pair: bool = False) -> int:
        """One, ``</s>``, of a text as of a pair."""
        return 1

    def _added(self, files: Mapping[str, bytes], usual: Mapping[str, str], where: str) -> dict[str, int]:
        known: dict[str, int] = {}
        for token, options, number in token_list(files, usual):
            if options and (options.get("single_word") or options.get("lstrip") or options.get("rstrip")):
                what = f"the added token '{token}' asks for single_word, lstrip or rstrip, which Marian's tokenizer does not have here"
                raise TokenizerError(what, value=where, fix="set them to false in its files")
            held = self._ids.get(token)
            if held is None and number is None and options is None:
                continue
            if number is not None and held not in (None, number):
                raise TokenizerError(f"the added token '{token}' has the id {number}, in the vocabulary {held}", value=where)
            free = max([*self._ids.values(), *known.values()]) + 1
            known[token] = held if held is not None else free if number is None else number
        return known

    def _put(self, columns: Columns, text: str, side: int) -> None:
        at, word = 0, -1
        for part in self._split.split(text):
            if part in self._known:
                word += 1
                columns.add(self._known[part], part, side, (at, at + len(part)), word)
            else:
                begin = at
                if part.startswith(">>") and "<<" in part:
                    begin += part.index("<<") + 2
                    word += 1
                    columns.add(self._id(text[at:begin]), text[at:begin], side, (at, begin), word)
                for piece, start, end in self._pieces.of(text[begin : at + len(part)]):
                    word += piece.startswith(SPACE) or word < 0
                    columns.add(self._id(piece), piece, side, (begin + start, begin + end), word)
            at += len(part)

    def _id(self, piece: str) -> int:
        id = self.token_to_id(piece)
        return self._unk if id is None else id


class Pieces:
    """Text to the pieces of a SentencePiece model and back, as SentencePiece itself does it.

    The best pieces are found here and not by the library, which adds scores in double precision: of segmentations that are equally good but for
    rounding, as of "aaaaa", it often takes another one.

    Args:
        model: the model.
        where: what to call its file in an error.

    Raises:
        TokenizerError: it is not a unigram model.
    """

    def __init__(self, model: SentencePiece, where: str) -> None:
        if model.kind != "unigram":
            raise TokenizerError("Marian's tokenizer is read with unigram models only", value=f"{where}: {model.kind}")
        self._model = model
        self._charsmap = Charsmap(model.charsmap) if model.charsmap else None
        users = sorted(model.of_type(USER_DEFINED), key=len, reverse=True)
        self._users = re.compile("|".join(map(re.escape, users))) if users else None
        normal = [score for score, kind in zip(model.scores, model.types, strict=True) if kind == NORMAL] or [0.0]
        self._unknown = _float32(min(normal) - 10)
        # the score of each piece that a text may hold; None for what only begins one
        self._scores: dict[str, float | None] = {}
        for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True):
            if kind in (NORMAL, USER_DEFINED):
                for end in range(1, len(piece)):
                    self._scores.setdefault(piece[:end], None)
                # a symbol of the user's is worth more than any way to make it up
                self._scores[piece] = score if kind == NORMAL else _float32(len(piece.encode("utf-8")) * max(normal)) - 0.1

    def of(self, text: str) -> list[tuple[str, int, int]]:
        """(piece, start, end) of each piece of a text; a run of what no piece holds is a piece of its own, or its bytes are."""
        normal, starts, ends = self._normalised(text)
        found: list[tuple[str, int, int]] = []
        was_unknown = False
        for start, end, is_unknown in self._best(normal):
            span = starts[start], ends[end - 1]
            if is_unknown and self._model.byte_fallback:
                found.extend((f"<0x{byte:02X}>", *span) for byte in normal[start:end].encode("utf-8"))
            elif is_unknown and was_unknown:
                found[-1] = found[-1][0] + normal[start:end], found[-1][1], span[1]
            else:
                found.append((normal[start:end], *span))
            was_unknown = is_unknown
        return found

    def _best(self, text: str) -> list[tuple[int, int, bool]]:
        # (start, end, whether no piece holds it) along the path of the highest score, added in single precision
        scores, size = self._scores, len(text)
        best: list[tuple[float, int, bool] | None] = [(0.0, -1, False), *[None] * size]
        for start in range(size):
            here = best[start]
            assert here is not None  # each character is reached, by a piece or as unknown
            so_far, single = here[0], False
            for end in range(start + 1, size + 1):
                piece = text[start:end]
                if piece not in scores:
                    break
                score = scores[piece]
                if score is None:
                    continue
                single = single or end == start + 1
                there, total = best[end], _float32(so_far + score)
                if there is None or total > there[0]:
                    best[end] = total, start, False
            if not single:
                there, total = best[start + 1], _float32(so_far + self._unknown)
                if there is None or total > there[0]:
                    best[start + 1] = total, start, True
        path: list[tuple[int, int, bool]] = []
        while size:
            step = best[size]
            assert step is not None
            path.append((step[1], size, step[2]))
            size = step[1]
        return path[::-1]

    def joined(self, pieces: Iterable[str]) -> str:
        """The text of pieces, its bytes joined too."""
        pieces = list(pieces)
        if self._model.byte_fallback:
            from tokenizers import decoders

            pieces = [decoders.ByteFallback().decode(pieces)]
        text = "".join(pieces).replace(SPACE, " ")
        return text.removeprefix(" ") if self._model.dummy_prefix else text

    def _normalised(self, text: str) -> tuple[str, list[int], list[int]]:
        # the characters after normalisation, and for each of them where what it was made of begins and ends
        chars: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        collapse = self._model.collapse_spaces
        at, after_space = 0, collapse
        parts = self._parts(text)
        while collapse and parts and parts[0][1] == " ":
            at += parts.pop(0)[0]
        if parts and self._model.dummy_prefix:
            chars.append(SPACE)
            starts.append(at)
            ends.append(at)
        for length, new in parts:
            kept = new.lstrip(" ") if after_space else new
            for char in kept:
                chars.append(SPACE if char == " " else char)
                starts.append(at)
                ends.append(at + length)
            if kept:
                after_space = collapse and kept.endswith(" ")
            at += length
        while collapse and chars and chars[-1] == SPACE:
            chars.pop()
        return "".join(chars), starts, ends

    def _parts(self, text: str) -> list[tuple[int, str]]:
        # (how many characters, what they become)
        if self._charsmap is None and self._users is None:
            return [(1, char) for char in text]
        data, byte, at = text.encode("utf-8"), 0, 0
        parts: list[tuple[int, str]] = []
        while at < len(text):
            user = self._users.match(text, at) if self._users else None
            found = None if user or not self._charsmap else self._charsmap.longest(data, byte)
            size = found[0] if found else len((user[0] if user else text[at]).encode("utf-8"))
            length = len(data[byte : byte + size].decode("utf-8"))
            parts.append((length, found[1] if found else text[at : at + length]))
            byte, at = byte + size, at + length
        return parts


def _float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
