"""Tokenizers trained from texts: byte-level BPE, WordPiece, Unigram and characters.

The library ``tokenizers`` trains; ``feeding`` keeps the process under a memory bound while it does. Where the bound is not met, the result is that of the
library's own call with the parts that ``untrained`` and ``trainer`` give. Unusual: two runs of the library's own Unigram trainer have the same pieces but other
ids, which is settled here (``settled_definition``); of its WordPiece trainer they have almost the same pieces, for hashes decide between equal pairs. The
other two are the same each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nabi.errors import OptionError, TokenizerError, unknown
from nabi.text.feeding import Fed, Feeder, size_of
from nabi.text.files import SETTINGS, Guard
from nabi.text.reading import Texts
from nabi.text.sketch import Words
from nabi.text.tokenizer import Tokenizer
from nabi.text.unigram import settled_definition

if TYPE_CHECKING:
    import tokenizers

Kind = Literal["byte_bpe", "wordpiece", "unigram", "character"]
# the special tokens of GPT-2 (Radford et al., 2019), BERT (Devlin et al., 2019) and T5 (Raffel et al., 2020), in the order of their ids; role -> token
USUAL: dict[str, dict[str, str]] = {
    "byte_bpe": {"eos": "<|endoftext|>"},
    "wordpiece": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "unigram": {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
    "character": {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
}
NEEDED = {"byte_bpe": (), "wordpiece": ("[UNK]",), "unigram": ("<unk>",), "character": ("<unk>",)}
WORDS: dict[str, Words] = {"byte_bpe": "classes", "wordpiece": "signs", "unigram": "spaces", "character": "texts"}
MODELS = {"byte_bpe": "BPE bytes", "wordpiece": "WordPiece", "unigram": "Unigram", "character": "WordLevel"}
BYTES = 256
SEEDS = 10  # pieces of a token that Unigram begins with where memory is short: most of what it takes; 1,000,000 in all otherwise, as in the library


@dataclass(frozen=True)
class TokenizerSettings:
    """What to train.

    Args:
        kind: "byte_bpe" as of GPT-2, "wordpiece" as of BERT, "unigram" as of T5, or "character".
        vocab_size: tokens, the special ones included; fewer come out where the texts do not give more.
        special_tokens: in the order of their ids, which begin at 0; by default those that are usual for the kind (``USUAL``).
        lowercase: whether texts are lower-cased first.
        nfc: whether characters that were taken apart are composed first.
        min_frequency: how often a pair must occur to become a token, a character to be kept; by default there is no bound. Not for unigram.
        limit_alphabet: the most different characters that are kept; by default 1,000. For wordpiece only: a byte-level alphabet has all 256 bytes.
        split_digits: whether each digit is a word of its own.
        keep_whitespace: whether runs of spaces, tabs and line ends stay as they are, as in code; by default for byte_bpe and character. WordPiece can't.
        max_token_length: characters of the longest token, bytes for byte_bpe; by default 16 for unigram and no bound for byte_bpe. For these two only.
    """

    kind: Kind = "byte_bpe"
    vocab_size: int = 32768
    special_tokens: tuple[str, ...] | None = None
    lowercase: bool = False
    nfc: bool = False
    min_frequency: int | None = None
    limit_alphabet: int | None = None
    split_digits: bool = False
    keep_whitespace: bool | None = None
    max_token_length: int | None = None

    @property
    def specials(self) -> tuple[str, ...]:
        """The special tokens, the usual ones if none are given."""
        return tuple(USUAL[self.kind].values()) if self.special_tokens is None else self.special_tokens

    @property
    def whitespace(self) -> bool:
        """Whether white space is kept."""
        return self.kind in ("byte_bpe", "character") if self.keep_whitespace is None else self.keep_whitespace

    def check(self) -> None:
        """Refuse what can't be trained.

        Raises:
            OptionError: what, and what would do.
        """
        if self.kind not in USUAL:
            raise unknown("kind of tokenizer", self.kind, USUAL)
        check_specials(self.specials)
        if missing := [token for token in NEEDED[self.kind] if token not in self.specials]:
            value, fix = ", ".join(self.specials) or "none", f"add {missing[0]}"
            raise OptionError(f"a {self.kind} tokenizer needs the special token {missing[0]}", value=value, fix=fix)
        foreign = {
            "min_frequency": self.kind == "unigram",
            "limit_alphabet": self.kind != "wordpiece",
            "max_token_length": self.kind not in ("byte_bpe", "unigram"),
        }
        for name, wrong in foreign.items():
            value = getattr(self, name)
            if value is not None and wrong:
                raise OptionError(f"a {self.kind} tokenizer has no setting {name}", value=value, fix="leave it out")
            if value is not None and value < 1:
                raise OptionError(f"{name} is too small", value=value, expected="1 or more")
        if self.kind == "wordpiece" and self.keep_whitespace:
            raise OptionError("a wordpiece tokenizer can't keep white space", value="keep_whitespace = true", fix="take byte_bpe, unigram or character")
        least = len(self.specials) + (BYTES if self.kind == "byte_bpe" else 1)
        if self.vocab_size < least:
            alphabet = f"{BYTES} bytes" if self.kind == "byte_bpe" else "at least one character"
            expected = f"{least} or more, for {len(self.specials)} special tokens and {alphabet}"
            raise OptionError("vocab_size is smaller than the alphabet and the special tokens", value=self.vocab_size, expected=expected)


@dataclass(frozen=True)
class Trained:
    """A tokenizer that was trained, and what it was trained on."""

    tokenizer: Tokenizer
    settings: TokenizerSettings
    fed: Fed


def train_tokenizer(texts: Texts, settings: TokenizerSettings | None = None, *, memory: int | str | None = "4GB") -> Tokenizer:
    """Train a tokenizer.

    Args:
        texts: strings, or lists of strings; read once, and a second time if the bound asks for it (a callable gives a new iterator each time).
        settings: what to train; by default a byte-level BPE of 32,768 tokens.
        memory: the most bytes that the process may hold (``"1GB"``); None for no bound. Where training on all texts could take more, it trains on the largest
            even sample that fits, and a warning says so.

    Raises:
        OptionError: settings that can't be, or a bound that is too small.
        InputError: something is not a text, or there is none.
    """
    return trained(texts, settings, memory=memory).tokenizer


def trained(texts: Texts, settings: TokenizerSettings | None = None, *, memory: int | str | None = "4GB") -> Trained:
    """As ``train_tokenizer``, with what it was trained on."""
    settings = settings or TokenizerSettings()
    settings.check()
    built: Any = None

    def learn(feed: Iterator[Any], cut: int | None) -> None:
        nonlocal built
        built = untrained(settings)
        learned(built, feed, cut, trainer(settings, bounded=cut is not None))

    fed = Feeder(MODELS[settings.kind], WORDS[settings.kind], size_of(memory)).train(texts, learn)
    size = built.get_vocab_size(with_added_tokens=True)
    if size > settings.vocab_size:
        fix = "take a larger vocab_size, or byte_bpe" + (", or set limit_alphabet" if settings.kind == "wordpiece" else "")
        what = "vocab_size is smaller than the alphabet of the texts and the special tokens"
        raise OptionError(what, value=settings.vocab_size, expected=f"{size} or more", fix=fix)
    finish(built, settings)
    return Trained(Tokenizer(settled_definition(built, len(settings.specials)), beside(settings)), settings, fed)


def untrained(settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """The library's tokenizer before it is trained: model, normaliser, pre-tokeniser and decoder."""
    import tokenizers
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

    kind = settings.kind
    steps: list[Any] = [normalizers.NFC()] if settings.nfc else []
    digits: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if settings.split_digits else []
    words: list[Any]
    if kind == "wordpiece":
        built = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        steps.append(normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=settings.lowercase))
        words, built.decoder = [pre_tokenizers.BertPreTokenizer(), *digits], decoders.WordPiece(prefix="##")
    else:
        steps += [normalizers.Lowercase()] if settings.lowercase else []
        steps += [] if settings.whitespace else [normalizers.Replace(Regex(r"\s+"), " ")]
    if kind == "byte_bpe":
        built = tokenizers.Tokenizer(models.BPE())
        words, built.decoder = [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)], decoders.ByteLevel()
    elif kind == "unigram":
        built = tokenizers.Tokenizer(models.Unigram())
        scheme = "never" if settings.whitespace else "always"
        spaces = pre_tokenizers.Split(Regex(r"[^\S ]"), "isolated") if settings.whitespace else pre_tokenizers.WhitespaceSplit()
        words, built.decoder = [*digits, spaces, pre_tokenizers.Metaspace(prepend_scheme=scheme)], decoders.Metaspace(prepend_scheme=scheme)
        if digits and not settings.whitespace:  # else each digit would begin a word
            words = [spaces, pre_tokenizers.Metaspace(prepend_scheme=scheme), *digits]
    elif kind == "character":
        built = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
        words, built.decoder = [pre_tokenizers.FixedLength(length=1)], decoders.Fuse()
    if steps:
        built.normalizer = steps[0] if len(steps) == 1 else normalizers.Sequence(steps)
    built.pre_tokenizer = words[0] if len(words) == 1 else pre_tokenizers.Sequence(words)
    return built


def trainer(settings: TokenizerSettings, *, bounded: bool = False) -> Any:
    """The library's trainer; ``bounded`` where memory is short."""
    from tokenizers import pre_tokenizers, trainers

    asked: dict[str, Any] = {"vocab_size": settings.vocab_size, "special_tokens": list(settings.specials), "show_progress": False}
    if settings.min_frequency is not None:
        asked["min_frequency"] = settings.min_frequency
    if settings.kind == "byte_bpe":
        if settings.max_token_length is not None:
            asked["max_token_length"] = settings.max_token_length
        return trainers.BpeTrainer(initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), **asked)
    if settings.kind == "wordpiece":
        return trainers.WordPieceTrainer(limit_alphabet=settings.limit_alphabet or 1000, **asked)
    if settings.kind == "unigram":
        if bounded:
            asked["seed_size"] = SEEDS * settings.vocab_size
        return trainers.UnigramTrainer(unk_token="<unk>", max_piece_length=settings.max_token_length or 16, **asked)
    return trainers.WordLevelTrainer(**asked)


def learned(built: tokenizers.Tokenizer, feed: Iterator[Any], cut: int | None, by: Any) -> None:
    """Train the library's tokenizer on what is fed; with ``cut`` longer words are cut at so many symbols."""
    from tokenizers import pre_tokenizers

    whole = built.pre_tokenizer
    if cut is not None:
        steps: list[Any] = [whole] if whole is not None else []
        built.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.FixedLength(length=cut)])
    with Guard(TokenizerError, "the tokenizer can't be trained", fix="give more texts, or another vocab_size"):
        built.train_from_iterator(feed, by)
    if cut is not None:
        built.pre_tokenizer = whole


def finish(built: tokenizers.Tokenizer, settings: TokenizerSettings) -> None:
    """Give a trained tokenizer what stands around a text: [CLS] and [SEP] for wordpiece, </s> for unigram and character, nothing for byte_bpe."""
    from tokenizers import processors

    templates = {
        "wordpiece": (("[CLS]", "[SEP]"), "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"),
        "unigram": (("</s>",), "$A </s>", "$A </s> $B </s>"),
        "character": (("</s>",), "$A </s>", "$A </s> $B </s>"),
    }
    if settings.kind == "byte_bpe":
        built.post_processor = processors.ByteLevel(trim_offsets=False)
        return
    used, single, pair = templates[settings.kind]
    if all(token in settings.specials for token in used):
        numbers = [(token, built.token_to_id(token)) for token in used]
        built.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=numbers)


def beside(settings: TokenizerSettings) -> dict[str, bytes]:
    """The files beside tokenizer.json: what the special tokens are for."""
    roles = {f"{role}_token": token for role, token in USUAL[settings.kind].items() if token in settings.specials}
    known: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    if extra := [token for token in settings.specials if token not in roles.values()]:
        known["additional_special_tokens"] = extra
    names = ["input_ids", "token_type_ids", "attention_mask"] if settings.kind == "wordpiece" else ["input_ids", "attention_mask"]
    known |= {"model_input_names": names, "clean_up_tokenization_spaces": False}
    return {SETTINGS: (json.dumps(known, ensure_ascii=False, indent=2) + "\n").encode("utf-8")}


def check_specials(tokens: tuple[str, ...]) -> None:
    """Refuse special tokens that can't be.

    Raises:
        OptionError: one is empty, or stands twice.
    """
    if twice := sorted({token for token in tokens if tokens.count(token) > 1}):
        raise OptionError("a special token is given twice", value=", ".join(twice), fix="give it once")
    if not all(tokens):
        raise OptionError("a special token is empty", value=list(tokens), fix="leave it out")
