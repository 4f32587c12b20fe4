"""SentencePiece models, as the library's definition: XLM-R, T5, ALBERT, and plain ones with the ids of the file.

Unigram and BPE models. XLM-R's ids are fairseq's: four special tokens first, then the file's pieces from the fourth on, then ``<mask>``. T5 has
sentinels behind the pieces, counted down. Where the incumbent is the model (all but plain ones), normalising and splitting at spaces are done with
the same parts of the library, so that ids agree; its table of replacements is looked up by grapheme and not by longest match, which is why decomposed
Hangul (NFD) stays decomposed. A BPE model is segmented by its merges (the incumbent's classes take the ranks for log-probabilities).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nabi.errors import TokenizerError
from nabi.text.files import ADDED, NAMES, SETTINGS, Guard, add_tokens, content, read_settings, special_entries
from nabi.text.spm import CONTROL, SPACE, UNKNOWN, USER_DEFINED, SentencePiece, bpe_merges, read_model

if TYPE_CHECKING:
    import tokenizers


def sentencepiece(files: Mapping[str, bytes], name: str, where: str, usual: Mapping[str, str], kind: str) -> tokenizers.Tokenizer:
    """The tokenizer that a SentencePiece model and the settings beside it stand for.

    Args:
        files: the bytes of the folder's files, by name.
        name: the model among them.
        where: what to call it in an error.
        usual: the usual special names by role.
        kind: "xlm-roberta", "t5", "albert" or "plain".

    Raises:
        TokenizerError: a file can't be used, or the files do not fit together.
    """
    import tokenizers
    from tokenizers import decoders

    settings, model = read_settings(files), read_model(files[name], where)
    names = {role: content(entry) for role, entry in special_entries(files, usual).items()}
    fix = f"look at {SETTINGS}, {NAMES} and {ADDED} beside it"
    with Guard(TokenizerError, "the SentencePiece model and its settings do not fit together", value=where, fix=fix):
        pieces, scores, unk = _vocabulary(model, names, settings, kind)
        if len(set(pieces)) < len(pieces):
            raise ValueError("a special token is also a piece")
        built = tokenizers.Tokenizer(_segmenter(model, pieces, scores, unk, byte_fallback=model.byte_fallback and kind == "plain"))
        prefix = settings.get("add_prefix_space", True) if kind in ("xlm-roberta", "albert") else kind == "t5" or model.dummy_prefix
        scheme = "always" if prefix else "never"
        built.normalizer, built.pre_tokenizer = _plain(model) if kind == "plain" else _as_incumbent(model, settings, kind, scheme)
        spaces = decoders.Metaspace(prepend_scheme=scheme)
        if model.byte_fallback and kind == "plain":
            built.decoder = decoders.Sequence([decoders.ByteFallback(), spaces])
        else:
            built.decoder = spaces
        special = [(piece, True) for piece in model.of_type(CONTROL)] + [(piece, False) for piece in model.of_type(USER_DEFINED)]
        sentinels = [(f"<extra_id_{i}>", True) for i in range(settings.get("extra_ids", 100))] if kind == "t5" else []
        add_tokens(built, files, usual, [*special, *sentinels])
        around = _around(built, names, kind)
        if around is not None:
            built.post_processor = around
        return built


def _vocabulary(model: SentencePiece, names: Mapping[str, str], settings: Mapping[str, Any], kind: str) -> tuple[list[str], list[float], int]:
    pieces, scores = model.pieces, model.scores
    if kind == "xlm-roberta":
        if not {UNKNOWN, CONTROL} >= set(model.types[:3]) or len(pieces) < 4 or model.unk > 2:
            raise ValueError("the first three pieces are not <unk>, <s> and </s>")
        special = [names[role] for role in ("bos", "pad", "eos", "unk")]
        return [*special, *pieces[3:], names["mask"]], [*[0.0] * 4, *scores[3:], 0.0], 3
    if kind == "t5":
        count = settings.get("extra_ids", 100)
        if type(count) is not int or not 0 <= count <= 10_000:
            raise ValueError(f"extra_ids is {count!r}")
        return [*pieces, *(f"<extra_id_{i}>" for i in reversed(range(count)))], [*scores, *[0.0] * count], model.unk
    return pieces, scores, model.unk


def _segmenter(model: SentencePiece, pieces: list[str], scores: list[float], unk: int, *, byte_fallback: bool) -> Any:
    from tokenizers import models

    if model.kind == "unigram":
        return models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=unk, byte_fallback=byte_fallback)
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = [pair for pair in bpe_merges(model) if pair[0] in ids and pair[1] in ids and "".join(pair) in ids]
    return models.BPE(ids, merges, unk_token=pieces[unk], fuse_unk=True, byte_fallback=byte_fallback)


def _as_incumbent(model: SentencePiece, settings: Mapping[str, Any], kind: str, scheme: str) -> tuple[Any, Any]:
    from tokenizers import normalizers, pre_tokenizers

    steps: list[Any] = []
    if kind == "albert":
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not settings.get("keep_accents", False):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if settings.get("do_lower_case", True):
            steps.append(normalizers.Lowercase())
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    return normalizers.Sequence(steps) if len(steps) != 1 else steps[0], words


def _plain(model: SentencePiece) -> tuple[Any, Any]:
    from tokenizers import Regex, normalizers, pre_tokenizers

    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.collapse_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    # words are split off only if no piece reaches over a space
    split = not any(SPACE in piece[1:] for piece in model.pieces)
    return normalizers.Sequence(steps), pre_tokenizers.Metaspace(prepend_scheme="never", split=split)


def _around(built: Any, names: Mapping[str, str], kind: str) -> Any:
    from tokenizers import processors

    templates = {
        "xlm-roberta": ("{bos} $A {eos}", "{bos} $A {eos} {eos} $B {eos}"),
        "t5": ("$A {eos}", "$A {eos} $B {eos}"),
        "albert": ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1"),
    }
    if kind not in templates:
        return None
    used = [names[role] for role in ("bos", "eos", "cls", "sep") if f"{{{role}}}" in templates[kind][0]]
    missing = [token for token in used if built.token_to_id(token) is None]
    if missing:
        raise ValueError(f"the special token '{missing[0]}' is not among the pieces")
    single, pair = (template.format(**names) for template in templates[kind])
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(token, built.token_to_id(token)) for token in used])


ROUNDED = 9  # decimals of a score: what is behind them differs from call to call
STEP = 1e-4


def exact_definition(built: tokenizers.Tokenizer) -> bytes:
    """The tokenizer.json of a tokenizer, with scores that the library reads back bit for bit, but for about one in a thousand.

    What the library writes itself comes back with another last bit more often, and a last bit decides between equally good segmentations.
    """
    import tokenizers

    if not isinstance(built.model, tokenizers.models.Unigram):
        return built.to_str(pretty=True).encode("utf-8")
    definition = json.loads(built.to_str())
    pieces = ",\n".join(f"[{json.dumps(piece, ensure_ascii=False)},{_digits(score)}]" for piece, score in definition["model"]["vocab"])
    definition["model"]["vocab"] = []
    # no text of the file holds this, for quotes are escaped in it
    return json.dumps(definition, ensure_ascii=False, separators=(",", ":")).replace('"vocab":[]', f'"vocab":[{pieces}]').encode("utf-8")


def settled_definition(built: tokenizers.Tokenizer, specials: int) -> bytes:
    """As ``exact_definition`` of a tokenizer that was just trained, the same each time.

    The library's Unigram trainer adds its sums in an order that changes from call to call, so their last digits change, and lets a hash decide which of the
    letters that are pieces only because they occur comes first: these get the least score and steps of a tenth of a thousandth above it. Here scores are
    rounded, such letters get their scores by code point, and equal pieces are in the order of their text.

    Args:
        built: the tokenizer.
        specials: how many pieces in front stay where they are.
    """
    import tokenizers

    if not isinstance(built.model, tokenizers.models.Unigram):
        return exact_definition(built)
    definition = json.loads(built.to_str())
    vocabulary = definition["model"]["vocab"]
    pieces: list[tuple[str, float]] = [(piece, score) for piece, score in vocabulary[specials:]]
    least = min((score for _, score in pieces), default=0.0)
    kept = [piece for piece, score in pieces if len(piece) == 1 and _is_step(score - least)]
    scores = dict(pieces) | dict(zip(sorted(kept), sorted(score for piece, score in pieces if piece in set(kept)), strict=True))
    ordered = sorted(((round(score, ROUNDED), piece) for piece, score in scores.items()), key=lambda entry: (-entry[0], entry[1]))
    definition["model"]["vocab"] = [*vocabulary[:specials], *([piece, score] for score, piece in ordered)]
    return exact_definition(tokenizers.Tokenizer.from_str(json.dumps(definition)))


def _is_step(above: float) -> bool:
    return abs(above / STEP - round(above / STEP)) < 1e-6


def _digits(score: float) -> str:
    # the library takes all digits for one whole number and divides it by a power of ten: look for digits where that gives the score, and, if there
    # are some, where reading them exactly gives it too
    short = repr(score)
    if len(short) <= 16 and "e" not in short:
        return short
    found = short
    for power in range(13, 20):
        near = score * 10.0**power
        for steps in (0, -1, 1, -2, 2):
            number = round(near + steps * math.ulp(near))
            if abs(number) < 2**64 and number / 10.0**power == score:
                text = f"{number}e-{power}"
                if float(text) == score:
                    return text
                found = text if found == short else found
    return found
