"""A tokenizer trained anew on other texts: its normaliser, pre-tokeniser, post-processor, decoder and special tokens, with another vocabulary.

As the incumbent's ``train_new_from_iterator``: special tokens get the first ids in the order of their old ones (of a Unigram model all added tokens), and the
post-processor gets their new ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nabi.errors import InputError, OptionError, TokenizerError, unknown
from nabi.text.feeding import Fed, Feeder, size_of
from nabi.text.files import NAMES, SETTINGS, content, read_object
from nabi.text.marian import Marian
from nabi.text.reading import Texts
from nabi.text.sketch import Words
from nabi.text.tokenizer import Tokenizer
from nabi.text.training import BYTES, SEEDS, check_specials, learned
from nabi.text.unigram import settled_definition

if TYPE_CHECKING:
    import tokenizers

_PAIRS = ("min_frequency", "limit_alphabet", "initial_alphabet", "continuing_subword_prefix", "end_of_word_suffix", "show_progress")
_ARGUMENTS = {
    "BPE": (*_PAIRS, "max_token_length"),
    "WordPiece": _PAIRS,
    "WordLevel": ("min_frequency", "show_progress"),
    "Unigram": ("initial_alphabet", "seed_size", "shrinking_factor", "unk_token", "max_piece_length", "n_sub_iterations", "show_progress"),
}


def retrain(
    tokenizer: Tokenizer,
    texts: Texts,
    vocab_size: int,
    *,
    memory: int | str | None = "4GB",
    new_special_tokens: Sequence[Any] | None = None,
    special_tokens_map: Mapping[str, str] | None = None,
    **trainer: Any,
) -> Tokenizer:
    """A tokenizer of the same kind with a vocabulary made from other texts.

    Args:
        tokenizer: what to be like.
        texts: as for ``train_tokenizer``, as is ``memory``.
        vocab_size: tokens, special ones included.
        new_special_tokens: further ones (str, or the library's ``AddedToken``), with ids behind the others.
        special_tokens_map: old name -> new name.
        trainer: further arguments of the library's trainer, such as ``min_frequency``.

    Raises:
        OptionError: a setting that can't be.
        InputError: something is not a text, or there is none.
        TokenizerError: a tokenizer that the library knows nothing of (Marian).
    """
    return retrained(tokenizer, texts, vocab_size, memory, new_special_tokens, special_tokens_map, trainer)[0]


def retrained(
    tokenizer: Tokenizer,
    texts: Texts,
    vocab_size: int,
    memory: int | str | None,
    new_special_tokens: Sequence[Any] | None,
    special_tokens_map: Mapping[str, str] | None,
    options: Mapping[str, Any],
) -> tuple[Tokenizer, Fed]:
    """As ``retrain``, with what it was trained on."""
    if isinstance(tokenizer.library, Marian):
        raise TokenizerError("a Marian tokenizer can't be trained anew", fix="train a unigram tokenizer: nabi tokenizer train --kind unigram")
    if type(vocab_size) is not int or vocab_size < 1:
        raise OptionError("vocab_size is no size", value=vocab_size, expected="a whole number of 1 or more")
    names = dict(special_tokens_map or {})
    data = json.loads(tokenizer.definition())
    added, around = data.pop("added_tokens"), data.pop("post_processor")
    data |= {"truncation": None, "padding": None}
    specials = [*_specials(data["model"]["type"], added, names), *(new_special_tokens or ())]
    check_specials(tuple(content(_plain(token)) for token in specials))
    arguments = _emptied(data, names, dict(options))
    bytes_only = "initial_alphabet" in arguments
    kind = data["model"]["type"]
    least = len(specials) + (BYTES if bytes_only else 0)
    if vocab_size < least:
        expected = f"{least} or more, for {len(specials)} special tokens" + (f" and {BYTES} bytes" if bytes_only else "")
        raise OptionError("vocab_size is smaller than the alphabet and the special tokens", value=vocab_size, expected=expected)
    built: Any = None

    def learn(feed: Iterator[Any], cut: int | None) -> None:
        nonlocal built
        import tokenizers

        built = tokenizers.Tokenizer.from_str(json.dumps(data))
        few = {"seed_size": SEEDS * vocab_size} if cut is not None and kind == "Unigram" else {}
        learned(built, feed, cut, _trainer(kind, vocab_size, specials, {**few, **arguments}))

    fed = Feeder("BPE bytes" if kind == "BPE" and bytes_only else kind, _words(data), size_of(memory)).train(texts, learn)
    if around is not None:
        built.post_processor = _placed(around, built, names)
    return Tokenizer(settled_definition(built, len(specials)), _files(tokenizer, names, new_special_tokens or ())), fed


def _specials(kind: str, added: list[dict[str, Any]], names: Mapping[str, str]) -> list[Any]:
    import tokenizers

    kept = []
    for token in added:
        options = {key: value for key, value in token.items() if key not in ("id", "special", "content")}
        if token["special"] or kind == "Unigram":
            kept.append(tokenizers.AddedToken(names.get(token["content"], token["content"]), **options))
    return kept


def _emptied(data: dict[str, Any], names: Mapping[str, str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Take the vocabulary out of a definition; returns the trainer's arguments that follow from it."""
    from tokenizers import pre_tokenizers

    model = data["model"]
    if model["type"] == "BPE":
        model["vocab"], model["merges"] = {}, []
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(name) is not None:
                arguments.setdefault(name, model[name])
    elif model["type"] == "Unigram":
        if model["unk_id"] is not None:
            unk = model["vocab"][model["unk_id"]][0]
            unk = names.get(unk, unk)
            model["unk_id"], model["vocab"], arguments["unk_token"] = 0, [[unk, 0.0]], unk
    else:
        model["vocab"] = {}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if any(step.get("type") == "ByteLevel" for step in _steps(data["pre_tokenizer"])):
        arguments["initial_alphabet"] = sorted(pre_tokenizers.ByteLevel.alphabet())
    return arguments


def _trainer(kind: str, vocab_size: int, specials: list[Any], arguments: Mapping[str, Any]) -> Any:
    from tokenizers import trainers

    made = {"BPE": trainers.BpeTrainer, "Unigram": trainers.UnigramTrainer, "WordPiece": trainers.WordPieceTrainer, "WordLevel": trainers.WordLevelTrainer}
    for name in arguments:  # the library would print a word about an unknown one and go on
        if name not in _ARGUMENTS[kind]:
            raise unknown("setting of the trainer", name, _ARGUMENTS[kind])
    try:
        return made[kind](vocab_size=vocab_size, special_tokens=specials, **{"show_progress": False, **arguments})
    except (TypeError, ValueError, OverflowError) as problem:
        raise OptionError(f"the trainer refuses its settings ({problem})", value=dict(arguments)) from None


def _steps(part: Any) -> list[dict[str, Any]]:
    if not isinstance(part, dict):
        return []
    return [part, *(step for inner in part.get("pretokenizers", ()) for step in _steps(inner))]


def _words(data: Mapping[str, Any]) -> Words:
    """What the pre-tokeniser makes of a text, for the estimate of memory; an upper bound where it is not known."""
    kinds = {step["type"] for step in _steps(data["pre_tokenizer"])}
    if "BertPreTokenizer" in kinds:
        return "signs"
    if kinds & {"ByteLevel", "Split", "Whitespace"}:
        return "classes"
    if "WhitespaceSplit" in kinds:
        return "spaces"
    split = any(step["type"] == "Metaspace" and step.get("split", True) for step in _steps(data["pre_tokenizer"]))
    return "blanks" if split else "texts"


def _placed(around: dict[str, Any], built: tokenizers.Tokenizer, names: Mapping[str, str]) -> Any:
    """The post-processor, with the ids that its tokens have now."""

    def number(token: str) -> int:
        found = built.token_to_id(token)
        if found is None:
            raise OptionError("the post-processor needs a token that the new vocabulary lacks", value=token, fix="add it to new_special_tokens")
        return found

    for step in around.get("processors", [around]):
        for entry in step.get("special_tokens", {}).values():
            entry["tokens"] = [names.get(token, token) for token in entry["tokens"]]
            entry["ids"] = [number(token) for token in entry["tokens"]]
        for role in ("cls", "sep"):
            if role in step:
                token = names.get(step[role][0], step[role][0])
                step[role] = [token, number(token)]
    import tokenizers

    # the library makes a post-processor of a definition only in a tokenizer
    unset = dict.fromkeys(("normalizer", "pre_tokenizer", "decoder", "truncation", "padding"))
    empty: dict[str, Any] = {"version": "1.0", "added_tokens": [], **unset}
    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    return tokenizers.Tokenizer.from_str(json.dumps({**empty, "model": model, "post_processor": around})).post_processor


def _files(tokenizer: Tokenizer, names: Mapping[str, str], new: Sequence[Any]) -> dict[str, bytes]:
    """tokenizer_config.json and special_tokens_map.json as they were, without ids of the old vocabulary, and with the new names."""
    files = {}
    for name in (SETTINGS, NAMES):
        stated = read_object(tokenizer.files, name)
        for key, value in stated.items():
            if key.endswith("_token") and content(value) in names:
                stated[key] = {**value, "content": names[content(value)]} if isinstance(value, dict) else names[value]
        if name == SETTINGS:
            stated.pop("added_tokens_decoder", None)
            extra = [names.get(content(x), content(x)) for x in _listed(stated.get("additional_special_tokens") or stated.pop("extra_special_tokens", None))]
            extra += [content(_plain(token)) for token in new]
            if extra:
                stated["additional_special_tokens"] = extra
        if stated:
            files[name] = (json.dumps(stated, ensure_ascii=False, indent=2) + "\n").encode("utf-8")
    return files


def _listed(tokens: Any) -> list[Any]:
    return list(tokens.values() if isinstance(tokens, dict) else tokens or ())


def _plain(token: Any) -> str:
    found = getattr(token, "content", token)
    if not isinstance(found, str):
        raise InputError("a special token is not a str", value=repr(token))
    return found
