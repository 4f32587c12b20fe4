"""A tokenizer as a model folder holds it, with offsets that are exact in the original text.

The library ``tokenizers`` does the work; files of other forms are turned into its definition first (``forms``). What is added here:

- a truncation or a padding that is stored in the file never applies, but is saved again as it was found;
- offsets are repaired where the library's are not the token's own characters (``Tokenizer._exact``);
- Hangul that is taken apart into letters (NFD, as some file systems write it) is composed before it is read, and offsets still count the text as given;
- windows and truncation cut one finished encoding, so that they are right with every post-processor;
- whatever the library raises, panics included, becomes an error that says what to do.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from nabi.errors import InputError, OptionError, StorageError, TokenizerError
from nabi.files import whole
from nabi.text.encoding import Encoding
from nabi.text.files import ADDED, DEFINITION, NAMES, ROLES, SETTINGS, Guard, read_settings, token_names
from nabi.text.forms import CONFIG, FILES, MARIAN, Form, find_form, open_form, open_marian, with_class
from nabi.text.marian import SOURCE, Columns, Marian
from nabi.text.unigram import exact_definition
from nabi.text.vetting import rows, vet, vet_loaded

if TYPE_CHECKING:
    import tokenizers

HANGUL = re.compile("[가-힣\u1100-\u11ff]")
COMMON = "이다는을가에고"  # syllables that each vocabulary of Korean has
# what NFC makes a syllable of, the vowels and final consonants that are never without it (Unicode 15, section 3.12)
_LETTERS = re.compile("[\u1161-\u1175\u11a8-\u11c2]")
_SYLLABLE = re.compile("[\u1100-\u1112][\u1161-\u1175][\u11a8-\u11c2]?|[가-힣][\u11a8-\u11c2]")
# a character outside of the large blocks where nothing joins the character before it
UNUSUAL = re.compile("[^\0-\u02ff\u2000-\u20cf\u3000-\u3029\u3030-\u3098\u30a0-\u3130\u3190-\ua66e\uac00-\ud7a3]")


class Composed(NamedTuple):
    """A text as the tokenizer reads it; ``places``: where each of its characters, and its end, lies in the text as given, None if that is the same."""

    text: str
    places: list[int] | None = None


class Tokenizer:
    """A tokenizer that was read from a folder; it never changes, so threads may share it.

    Args:
        definition: the bytes of a tokenizer.json, or what was built from another form: the library's tokenizer or one side of a Marian folder.
        files: the bytes of the files beside it, by name; they give names, lengths and sides, and are saved as they are.
        where: what to call the definition in an error.
        form: the kind of tokenizer, if it is known: what its special tokens are called when the files do not say it.
        target: the tokenizer of what is translated into, if it is another one.

    Attributes:
        library: the tokenizer of ``tokenizers`` behind it, or one side of a Marian folder; not to be changed.
        files: as given.

    Raises:
        TokenizerError: the definition can't be used.
    """

    cls_id: int | None
    sep_id: int | None
    pad_id: int | None
    mask_id: int | None
    unk_id: int | None
    bos_id: int | None
    eos_id: int | None

    def __init__(
        self,
        definition: bytes | tokenizers.Tokenizer | Marian,
        files: Mapping[str, bytes],
        where: str = DEFINITION,
        form: Form | None = None,
        target: Tokenizer | None = None,
    ) -> None:
        import tokenizers

        self._definition = definition if isinstance(definition, bytes) else None
        self.files = dict(files)
        self.target: Tokenizer = target or self
        self.stored_truncation: dict[str, Any] | None = None
        self.stored_padding: dict[str, Any] | None = None
        fix = "the file is cut off or of another format; fetch or write it again"
        with Guard(TokenizerError, "the tokenizer can't be read", value=where, fix=fix):
            self.library: Any = definition
            if isinstance(definition, bytes):
                vet(definition)
                self.library = tokenizers.Tokenizer.from_str(definition.decode("utf-8"))
                vet_loaded(self.library)
                self.stored_truncation, self.stored_padding = self.library.truncation, self.library.padding
                self.library.no_truncation()
                self.library.no_padding()
            settings = read_settings(files)
            for role in ROLES:
                ids = map(self.library.token_to_id, token_names(settings, role, None if form is None else form.usual))
                setattr(self, f"{role}_id", next((i for i in ids if i is not None), None))
            self.vocab_size: int = self.library.get_vocab_size(with_added_tokens=True)
            self._overhead = self.library.num_special_tokens_to_add(is_pair=False)
            # the lone space of byte-level and of SentencePiece vocabularies: without it a space is never part of a token
            self._blank = {self.library.token_to_id(mark) for mark in ("Ġ", "▁")} - {None}
            normalizer = self.library.normalizer
            self._breaks_hangul = self._decomposes = normalizer is not None and "\u1112" in normalizer.normalize_str("한")
        pair = settings.get("source_lang"), settings.get("target_lang")
        self.languages: tuple[str, str] | None = (str(pair[0]), str(pair[1])) if all(isinstance(x, str) for x in pair) else None
        length = settings.get("model_max_length")
        self.max_length = int(length) if isinstance(length, int | float) and 0 < length < 10**7 else None
        self._cut_left = (settings.get("truncation_side") or (self.stored_truncation or {}).get("direction")) == "left"

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a model folder: from its tokenizer.json, else from what its kind is saved as without one.

        A Marian folder that has source.spm is read from it, target.spm and vocab.json, whatever lies beside them.

        Raises:
            TokenizerError: there is no tokenizer that is read, or one of its files is missing or can't be used.
        """
        folder = Path(folder)
        try:
            found = [folder / name for name in (DEFINITION, *FILES, SETTINGS, NAMES, ADDED, CONFIG) if (folder / name).is_file()]
            files = {path.name: path.read_bytes() for path in found}
        except OSError as problem:
            raise TokenizerError("the tokenizer's files can't be read", value=f"{folder} ({problem})") from None
        if not folder.is_dir():
            fix = "save the tokenizer beside the model, or give its folder"
            raise TokenizerError("there is no such folder", value=str(folder), expected="a folder with a tokenizer", fix=fix)
        form, named = find_form(files)
        if DEFINITION in files and not (form is MARIAN and SOURCE in files):
            files.pop(CONFIG, None)
            return cls(files.pop(DEFINITION), files, str(folder / DEFINITION), form)
        built, form, where = open_form(files, form, named, str(folder))
        files.pop(CONFIG, None)  # the model's
        files |= with_class(files, form)
        target = cls(open_marian(files, "target", str(folder)), files, where, form) if isinstance(built, Marian) else None
        return cls(built, files, where, form, target)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and the files that lay beside it, byte for byte as they were found; of a Marian folder the files alone.

        Where only config.json, which is the model's, told the kind of tokenizer, tokenizer_config.json gets it as its ``tokenizer_class``.

        Raises:
            StorageError: a file could not be written; the file that was there before is still there.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            written = {} if isinstance(self.library, Marian) else {DEFINITION: self.definition()}
            for name, data in {**written, **self.files}.items():
                with whole(folder / name) as draft:
                    draft.write_bytes(data)
        except OSError as problem:
            raise StorageError(f"the tokenizer could not be written to {folder}: {problem}") from None

    def encode(self, text: str, pair: str | None = None, *, special: bool = True) -> Encoding:
        """The tokens of a text, or of a text and its pair; nothing is cut and nothing is padded.

        Raises:
            InputError: not a str, or not valid Unicode.
        """
        _check((text,))
        if pair is not None:
            _check((pair,))
        with Guard(InputError, "the text can't be tokenised", value=text):
            first, second = self._composed(text), None if pair is None else self._composed(pair)
            return self._finished(self.library.encode(first.text, second and second.text, add_special_tokens=special), first, second)

    def pieces(self, text: str, pair: str | None = None, *, special: bool = True) -> list[str]:
        """The tokens of a text by name; of a Marian folder also those that its vocabulary lacks.

        Raises:
            InputError: not a str, or not valid Unicode.
        """
        _check((text,) if pair is None else (text, pair))
        with Guard(InputError, "the text can't be tokenised", value=text):
            second = None if pair is None else self._composed(pair).text
            return list(self.library.encode(self._composed(text).text, second, add_special_tokens=special).tokens)

    def encode_batch(self, texts: Iterable[str], pairs: Iterable[str] | None = None, *, special: bool = True) -> list[Encoding]:
        """``encode`` of many texts at once, on all cores.

        Raises:
            InputError: a text is not a str or not valid Unicode (its number is given), or the pairs are not as many as the texts.
        """
        firsts = _listed(texts)
        seconds: Sequence[str | None] = [None] * len(firsts) if pairs is None else _listed(pairs)
        if len(firsts) != len(seconds):
            raise InputError("the pairs are not as many as the texts", value=f"{len(firsts)} texts, {len(seconds)} pairs")
        given = [(self._composed(a), None if b is None else self._composed(b)) for a, b in zip(firsts, seconds, strict=True)]
        inputs = [a.text if b is None else (a.text, b.text) for a, b in given]
        # 10,000 texts make 350,000 offset tuples; a collector that walks through them again and again takes a quarter of the time
        collecting = gc.isenabled()
        gc.disable()
        try:
            with Guard(InputError, "the texts can't be tokenised"):
                encoded = self.library.encode_batch(inputs, add_special_tokens=special)
                return [self._finished(raw, *texts) for raw, texts in zip(encoded, given, strict=True)]
        finally:
            if collecting:
                gc.enable()

    def ids_of(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of many texts without special tokens, on all cores: those of ``encode``, faster since nothing else of the tokens is told.

        Raises:
            InputError: a text is not a str or not valid Unicode (its number is given).
        """
        inputs = [self._composed(text).text for text in _listed(texts)]
        encode = self.library.encode_batch if isinstance(self.library, Marian) else self.library.encode_batch_fast
        with Guard(InputError, "the texts can't be tokenised"):
            return [raw.ids for raw in encode(inputs, add_special_tokens=False)]

    def windows(
        self, text: str, pair: str | None = None, *, max_length: int, stride: int, over: Literal["text", "pair"] = "text"
    ) -> list[Encoding]:
        """Encodings of at most ``max_length`` tokens that together hold every token of a long text.

        Args:
            max_length: the most tokens of a window, special tokens included.
            stride: how many tokens of the text neighbours share.
            over: which member the windows run over; the other one is repeated whole in each.

        Returns:
            The windows in the text's order; just ``encode(text, pair)`` if that fits.

        Raises:
            OptionError: no text at all would leave room for the stride, or there is no pair to run over.
            InputError: the repeated member leaves too little room, or a text can't be tokenised.
        """
        if over not in ("text", "pair") or (over == "pair" and pair is None):
            raise OptionError("there is nothing to run windows over", value=over, expected="'text', or 'pair' where a pair is given")
        full = self.encode(text, pair)
        overhead = self._overhead if pair is None else sum(full.special)
        if not 0 <= stride < max_length - overhead:
            expected = f"0 or more, and less than the room of max_length {max_length} - {overhead} special tokens = {max_length - overhead}"
            fix = "take a smaller stride or a larger max_length"
            raise OptionError("the stride does not fit into the windows", value=stride, expected=expected, fix=fix)
        if len(full) <= max_length:
            return [full]
        start, stop = full.extent(int(over == "pair"))
        room = max_length - (len(full) - (stop - start))
        if room <= stride:
            repeated, name = len(full) - (stop - start) - overhead, "text" if over == "pair" else "pair"
            raise InputError(
                f"the {name} that each window repeats is too long",
                value=f"{repeated} tokens, which leave {max(room, 0)} of max_length {max_length}",
                expected=f"room for more than the stride of {stride}",
                fix=f"shorten the {name}, or take a larger max_length or a smaller stride",
            )
        count = -(-(stop - start - stride) // (room - stride))
        begins = [start + i * (room - stride) for i in range(count)]
        return [full.without((start, begin), (min(begin + room, stop), stop)) for begin in begins]

    def truncated(self, text: str, pair: str | None, max_length: int) -> tuple[Encoding, bool]:
        """``encode`` cut to ``max_length`` tokens, and whether anything was cut; of a pair the longer member is cut first.

        Args:
            max_length: the most tokens, special tokens included.

        Raises:
            OptionError: the special tokens alone are more than ``max_length``.
            InputError: a text can't be tokenised.
        """
        full = self.encode(text, pair)
        if len(full) <= max_length:
            return full, False
        spans = [full.extent(0), full.extent(1)]
        lengths = [stop - start for start, stop in spans]
        room = max_length - (len(full) - sum(lengths))
        if room < 0:
            raise OptionError("max_length is too small for the special tokens", value=max_length, expected=f"{max_length - room} or more")
        short = min(*lengths, room // 2)
        keep = [short, room - short] if lengths[0] <= lengths[1] else [room - short, short]
        cuts = [(start, stop - n) if self._cut_left else (start + n, stop) for (start, stop), n in zip(spans, keep, strict=True)]
        return full.without(*sorted(cuts)), True

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of token ids, joined as the tokenizer's decoder joins them.

        Raises:
            InputError: something is not a token id.
        """
        with Guard(InputError, "these are not token ids", value=ids, expected="whole numbers of 0 or more"):
            text: str = self.library.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def joined(self, tokens: Sequence[str]) -> str:
        """The text of tokens given by name, as the tokenizer's decoder joins them; with spaces if it has none."""
        decoder = getattr(self.library, "decoder", None)
        text: str = " ".join(tokens) if decoder is None else decoder.decode(list(tokens))
        return text

    @property
    def marks_continuations(self) -> bool:
        """Whether the vocabulary marks tokens that continue a word, as WordPiece does with ##."""
        return bool(getattr(getattr(self.library, "model", None), "continuing_subword_prefix", None))

    def token(self, id: int) -> str:
        """The token of an id.

        Raises:
            InputError: no token has this id.
        """
        with Guard(InputError, "this is not a token id", value=id, expected="a whole number of 0 or more"):
            token: str | None = self.library.id_to_token(id)
        if token is None:
            raise InputError("no token has this id", value=id, expected=f"one of the {self.vocab_size} ids of the vocabulary")
        return token

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids.

        Raises:
            InputError: no token has one of these ids.
        """
        return [self.token(id) for id in ids]

    def id(self, token: str) -> int | None:
        """The id of a token, or None if the vocabulary does not hold it."""
        id: int | None = self.library.token_to_id(token)
        return id

    @property
    def rows(self) -> int:
        """How many vectors an embedding needs for all ids, which a vocabulary with holes has more of than tokens; takes a while for a large one."""
        return rows(self.library)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of what decides the ids: the definition without its truncation and padding, however it is laid out; for Marian, both sides."""
        if isinstance(self.library, Marian):
            other = "" if self.target is self else self.target.fingerprint
            return hashlib.sha256(f"{self.library.fingerprint} {other}".encode()).hexdigest()
        definition = {key: value for key, value in json.loads(self.definition()).items() if key not in ("truncation", "padding")}
        return hashlib.sha256(json.dumps(definition, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def definition(self) -> bytes:
        """The bytes of its tokenizer.json."""
        if self._definition is None:
            self._definition = exact_definition(self.library)
        return self._definition

    def _composed(self, text: str) -> Composed:
        """The text as it is read: with its Hangul in syllables, unless the tokenizer itself works on letters."""
        if text.isascii() or self._decomposes or not _LETTERS.search(text) or self._spells_letters:
            return Composed(text)
        parts: list[str] = []
        places: list[int] = []
        end = 0
        for found in _SYLLABLE.finditer(text):
            syllable = unicodedata.normalize("NFC", found[0])
            parts += [text[end : found.start()], syllable]
            places += [*range(end, found.start()), *(found.start() + i for i in range(len(syllable)))]
            end = found.end()
        return Composed("".join([*parts, text[end:]]), [*places, *range(end, len(text) + 1)])

    @cached_property
    def _spells_letters(self) -> bool:
        """Whether the vocabulary has the letters of Hangul and not its syllables, so that texts are taken apart on purpose."""
        def unknown(syllable: str) -> bool:
            return self.unk_id in self.library.encode(syllable, None, add_special_tokens=False).ids

        return sum(map(unknown, COMMON)) > sum(unknown(unicodedata.normalize("NFD", syllable)) for syllable in COMMON)

    def _finished(self, raw: tokenizers.Encoding | Columns, text: Composed, pair: Composed | None) -> Encoding:
        ids, offsets, sequence = raw.ids, raw.offsets, raw.sequence_ids
        for side, read in enumerate((text, pair)):
            if read is None:
                break
            given = read.text
            if self._blank or (not given.isascii() and UNUSUAL.search(given)):
                offsets = self._exact(ids, offsets, sequence, side, given)
            if self._breaks_hangul and self.unk_id in ids:
                self._warn(ids, offsets, sequence, side, given)
            if (places := read.places) is not None:
                offsets = [(places[a], places[b]) if of == side else (a, b) for (a, b), of in zip(offsets, sequence, strict=True)]
        return Encoding(ids, raw.type_ids, offsets, raw.word_ids, list(map(bool, raw.special_tokens_mask)), sequence)

    def _exact(
        self, ids: list[int], offsets: list[tuple[int, int]], sequence: list[int | None], side: int, text: str
    ) -> list[tuple[int, int]]:
        # Three repairs of what the library gives:
        # - what a normaliser composes or strips (NFD Hangul under NFC, a word's last accent) is in no token: the one before gets it;
        # - a token that begins with a space ("Ġthe", "▁the") does not hold the space, unless it is nothing else;
        # - a space that stands before the text only for the tokenizer is empty, and not the first character of the text.
        starts = {start for (start, _), of in zip(offsets, sequence, strict=True) if of == side}
        exact, length, last = offsets.copy(), len(text), len(ids) - 1
        for i, (start, end) in enumerate(offsets):
            if start == end or sequence[i] != side:
                continue
            while ids[i] != self.mask_id and end < length and end not in starts and _joins(text[end]):  # a mask is itself alone
                end += 1
            if self._blank:
                if ids[i] in self._blank and i < last and sequence[i + 1] == side and offsets[i + 1][0] < end:
                    end = start
                elif text[start].isspace() or text[end - 1].isspace():
                    held = text[start:end]
                    if not held.isspace():
                        start, end = end - len(held.lstrip()), start + len(held.rstrip())
            exact[i] = start, end
        return exact

    def _warn(self, ids: list[int], offsets: list[tuple[int, int]], sequence: list[int | None], side: int, text: str) -> None:
        unknown = [text[slice(*offset)] for i, offset, of in zip(ids, offsets, sequence, strict=True) if i == self.unk_id and of == side]
        if HANGUL.search(" ".join(unknown)):
            self._breaks_hangul = False
            warnings.warn(
                "the tokenizer takes Hangul syllables apart into letters that its vocabulary lacks, so Korean becomes unknown tokens: "
                "use a tokenizer made for Korean, or set lowercase and strip_accents to false in its tokenizer.json",
                stacklevel=4,
            )


def _joins(char: str) -> bool:
    # the compatibility form, for NFKC also composes half-width voicing marks and letters of Hangul
    first = unicodedata.normalize("NFKD", char)[0]
    return "\u1160" <= first <= "\u11ff" or "\ud7b0" <= first <= "\ud7ff" or unicodedata.category(first)[0] == "M"


def _listed(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise InputError("one text was given where a list of texts is read", value=texts, fix="put it into a list")
    texts = list(texts)
    _check(texts)
    return texts


def _check(texts: Sequence[object]) -> None:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            fixes = {bytes: "decode it first", type(None): "leave it out or give ''", float: "leave out missing values"}
            what, fix = f"a text is not a str but {type(text).__name__}", fixes.get(type(text), "convert it with str()")
            raise InputError(what + _which(number, texts), value=repr(text), fix=fix)
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as problem:
                what = f"a text holds half of a surrogate pair at character {problem.start}"
                fix = "read the file with the right encoding, or replace it: text.encode('utf-8', 'replace').decode()"
                raise InputError(what + _which(number, texts), value=text, fix=fix) from None


def _which(number: int, texts: Sequence[object]) -> str:
    return f" (text {number})" if len(texts) > 1 else ""
