"""SentencePiece model files (``*.model``, ``*.spm``): the few fields of the protobuf message that segmentation needs, read without its library.

The message is a list of pieces (text, score, type), the trainer's settings and the normaliser's, whose table of replacements is a double-array trie
(``Charsmap``). Everything that the tokenizer would later follow without looking (lengths, offsets in the trie, ids) is checked here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from nabi.errors import TokenizerError, shortened

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
LONGEST_PIECE = 1024  # in characters: all ways to cut a piece in two are looked at
SPACE = "▁"


@dataclass(frozen=True)
class SentencePiece:
    """What a model file says.

    Attributes:
        pieces: their text, by id; scores and types go with them.
        scores: log-probabilities (unigram), or minus the rank of the merge (BPE).
        types: NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE.
        kind: "unigram" or "bpe".
        unk: the id of the unknown piece.
        byte_fallback: whether unknown characters become their bytes.
        charsmap: the normaliser's table as it lies in the file; empty if nothing is replaced.
        dummy_prefix: whether a space is put before a text.
        collapse_spaces: whether runs of spaces become one, and none is left at the ends.
    """

    pieces: list[str]
    scores: list[float]
    types: list[int]
    kind: str
    unk: int
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    collapse_spaces: bool

    def of_type(self, *types: int) -> list[str]:
        """The pieces of the given types."""
        return [piece for piece, kind in zip(self.pieces, self.types, strict=True) if kind in types]


@dataclass(frozen=True)
class Charsmap:
    """The normaliser's table: which characters are replaced, by the longest match, and by what.

    Args:
        blob: the table as it lies in a model file: the trie's size, its units, then the replacements with a zero byte behind each.

    Raises:
        ValueError: the table is cut off or points outside of itself.
    """

    blob: bytes
    _units: list[int] = field(init=False, repr=False)
    _texts: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import numpy as np

        size = int.from_bytes(self.blob[:4], "little")
        if len(self.blob) < 8 or size % 4 or not 1024 <= size <= len(self.blob) - 4:
            raise ValueError("the table of replacements is cut off")
        units = np.frombuffer(self.blob, "<u4", size // 4, offset=4)
        texts = self.blob[4 + size :]
        if not texts.endswith(b"\0"):
            raise ValueError("the table of replacements is cut off")
        texts.decode("utf-8")
        starts = np.zeros(len(texts) + 1, bool)
        starts[:-1] = (np.frombuffer(texts, np.uint8) & 0xC0) != 0x80
        seen = np.zeros(len(units), bool)
        labels = np.arange(1, 256, dtype=np.int64)
        waiting = [np.array([_offset(int(units[0]))], np.int64)]
        while waiting:
            nodes = waiting.pop()
            # a byte that no entry goes on with is looked up too, so all 256 places of a node must be there
            if int((nodes | 0xFF).max()) >= len(units):
                raise ValueError("the table of replacements points outside of itself")
            nodes = np.unique(nodes[~seen[nodes]])
            seen[nodes] = True
            for some in np.array_split(nodes, len(nodes) // 4096 + 1):
                places = some[:, None] ^ labels
                found = (units[places] & 0x800000FF) == labels
                places = places[found]
                children = units[places].astype(np.int64)
                after = places ^ ((children >> 10) << ((children & 512) >> 6))
                ends = after[(children & 256) != 0]
                if len(ends) and int(ends.max()) >= len(units):
                    raise ValueError("the table of replacements points outside of itself")
                values = units[ends] & 0x7FFFFFFF
                if len(values) and (int(values.max()) >= len(texts) or not starts[values].all()):
                    raise ValueError("the table of replacements points outside of its texts")
                if len(after):
                    waiting.append(after)
        object.__setattr__(self, "_units", units.tolist())
        object.__setattr__(self, "_texts", texts)

    def longest(self, data: bytes, at: int) -> tuple[int, str] | None:
        """The longest entry that the UTF-8 bytes begin with at a place, as (its length, what replaces it); None if there is none."""
        units, found = self._units, None
        node = _offset(units[0])
        for i in range(at, len(data)):
            byte = data[i]
            node ^= byte
            unit = units[node]
            if byte == 0 or unit & 0x800000FF != byte:
                break
            node ^= _offset(unit)
            if unit & 256:
                found = i + 1 - at, units[node] & 0x7FFFFFFF
        return found and (found[0], self._texts[found[1] : self._texts.index(b"\0", found[1])].decode("utf-8"))


def read_model(data: bytes, where: str) -> SentencePiece:
    """The model in a file of SentencePiece.

    Args:
        data: the bytes of the file.
        where: what to call it in an error.

    Raises:
        TokenizerError: the file is cut off, of another format, or of a kind that is not read (word and char models).
    """
    try:
        model = _model(data)
        if model.charsmap:
            Charsmap(model.charsmap)
    except (ValueError, IndexError, struct.error) as problem:  # UnicodeDecodeError is a ValueError
        said = "it ends in the middle of a number" if isinstance(problem, IndexError) else shortened(str(problem))
        fix = "the file is cut off or of another format; fetch it again"
        raise TokenizerError(f"the SentencePiece model can't be read ({said})", value=where, fix=fix) from None
    if model.kind not in ("unigram", "bpe"):
        what = f"SentencePiece models of the kind '{model.kind}' are not read"
        raise TokenizerError(what, value=where, expected="a unigram or a BPE model", fix="train the tokenizer anew, or save it as tokenizer.json")
    return model


def bpe_merges(model: SentencePiece) -> list[tuple[str, str]]:
    """The merges of a BPE model, best first: each way to make a piece from two others, by the score of the piece."""
    scores = {
        piece: score for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True) if kind in (NORMAL, USER_DEFINED, UNUSED)
    }
    rank = {piece: i for i, piece in enumerate(model.pieces)}
    found = [
        (-score, len(piece), rank[piece[:i]], rank[piece[i:]], piece[:i], piece[i:])
        for piece, score in scores.items()
        for i in range(1, len(piece))
        if piece[:i] in scores and piece[i:] in scores
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def _model(data: bytes) -> SentencePiece:
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1:
            piece, score, kind = "", 0.0, NORMAL
            for inner, content in _fields(_bytes(value)):
                if inner == 1:
                    piece = _bytes(content).decode("utf-8")
                elif inner == 2:
                    (score,) = struct.unpack("<f", _bytes(content))
                elif inner == 3:
                    kind = _int(content)
            pieces.append(piece)
            scores.append(score)
            types.append(kind)
        elif number == 2:
            trainer.update(_fields(_bytes(value)))
        elif number == 3:
            normalizer.update(_fields(_bytes(value)))
    if not pieces:
        raise ValueError("there are no pieces")
    for i, (piece, score, kind) in enumerate(zip(pieces, scores, types, strict=True)):
        if not piece or len(piece) > LONGEST_PIECE or "\0" in piece:
            raise ValueError(f"piece {i} is {len(piece)} characters long, or holds a zero byte")
        if not math.isfinite(score) or not NORMAL <= kind <= BYTE:
            raise ValueError(f"piece {i} has the score {score} and the type {kind}")
    if len(set(pieces)) < len(pieces):
        raise ValueError("a piece is there twice")
    if types.count(UNKNOWN) != 1:
        raise ValueError(f"there are {types.count(UNKNOWN)} unknown pieces, not one")
    if _int(trainer.get(24, 0)):
        raise ValueError("spaces are marked behind words, not before them")
    if not _int(normalizer.get(5, 1)):
        raise ValueError("spaces are not marked")
    return SentencePiece(
        pieces=pieces,
        scores=scores,
        types=types,
        kind=KINDS.get(_int(trainer.get(3, 1)), "unknown"),
        unk=types.index(UNKNOWN),
        byte_fallback=bool(_int(trainer.get(35, 0))),
        charsmap=_bytes(normalizer.get(2, b"")),
        dummy_prefix=bool(_int(normalizer.get(3, 1))),
        collapse_spaces=bool(_int(normalizer.get(4, 1))),
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message: an int, or the bytes of a text, a message or a number of fixed size."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"there is no wire type {wire}")
        if size > end - at or tag < 8:
            raise ValueError(f"a field of {size} bytes begins where {end - at} are left")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    at += 1
    if byte < 128:
        return byte, at
    value, shift = byte & 127, 7
    while byte > 127:
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
    return value, at


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a text should")
    return value


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("a text stands where a number should")
    return value


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 512) >> 6)
