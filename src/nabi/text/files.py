"""The files of a tokenizer beside tokenizer.json: special names, settings, and BERT's vocab.txt; and the guard around the library."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from nabi.errors import TokenizerError, UserError, shortened

DEFINITION = "tokenizer.json"
VOCABULARY = "vocab.txt"
SETTINGS = "tokenizer_config.json"
NAMES = "special_tokens_map.json"
ADDED = "added_tokens.json"
ROLES = {  # what each special token is called when no file names it
    "unk": ("[UNK]", "<unk>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<s>"),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("<s>", "<|endoftext|>"),
    "eos": ("</s>", "<|endoftext|>"),
}


class Guard:
    """Turns what the library raises inside a ``with`` into ``kind``, with the library's own words; the rest is as for ``UserError``."""

    def __init__(self, kind: type[UserError], what: str, *, value: object = None, expected: str = "", fix: str = "") -> None:
        self._kind, self._what = kind, what
        self._rest: dict[str, Any] = {"value": value, "expected": expected, "fix": fix}

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or issubclass(kind, UserError | MemoryError | Warning):
            return
        # a panic is no Exception, and its class has no importable name
        if issubclass(kind, Exception) or (kind.__module__, kind.__name__) == ("pyo3_runtime", "PanicException"):
            raise self._kind(f"{self._what} ({shortened(str(problem))})", **self._rest) from problem


def read_settings(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What tokenizer_config.json and special_tokens_map.json say together.

    Raises:
        TokenizerError: one of them is not a JSON object.
    """
    settings = _object(files, SETTINGS)
    # the file of names is the older one: where the newer one lists all added tokens, it alone decides
    return settings if "added_tokens_decoder" in settings else settings | _object(files, NAMES)


def token_names(settings: Mapping[str, Any], role: str) -> tuple[str, ...]:
    """What the special token of a role is called: as the settings say, else the usual names."""
    return (_name(settings[f"{role}_token"]),) if settings.get(f"{role}_token") else ROLES[role]


def wordpiece(files: Mapping[str, bytes], where: str) -> bytes:
    """The tokenizer.json that BERT's vocab.txt and the settings beside it stand for.

    Args:
        files: the bytes of the folder's files, by name; vocab.txt is among them.
        where: what to call vocab.txt in an error.

    Raises:
        TokenizerError: a file can't be used, a token stands twice, or [UNK], [CLS] or [SEP] is missing.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    settings, added = read_settings(files), _added(files)
    names = [token_names(settings, role)[0] for role in ("unk", "sep", "pad", "cls", "mask")]
    unk, sep, _, cls, _ = names
    vocabulary = _vocabulary(files[VOCABULARY], (unk, cls, sep), where)
    others = [_name(token) for key in ("additional_special_tokens", "extra_special_tokens") for token in settings.get(key) or ()]
    fix = f"look at {SETTINGS}, {NAMES} and {ADDED} beside it"
    with Guard(TokenizerError, "the vocabulary and its settings do not fit together", value=where, fix=fix):
        built = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unk))
        built.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case", True),
        )
        built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        built.decoder = decoders.WordPiece(prefix="##")
        built.post_processor = processors.TemplateProcessing(
            single=f"{cls}:0 $A:0 {sep}:0",
            pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
            special_tokens=[(name, vocabulary[name]) for name in (cls, sep)],
        )
        built.add_special_tokens([name for name in names if name in vocabulary])
        for token, options in added.items():
            special = token in (*names, *others)
            number = options.pop("id")
            built.add_tokens([tokenizers.AddedToken(token, **({"normalized": not special, "special": special} | options))])
            if built.token_to_id(token) != number:
                raise ValueError(f"the added token '{token}' gets the id {built.token_to_id(token)}, not {number}")
        built.add_special_tokens([token for token in others if token not in added])
        return built.to_str(pretty=True).encode("utf-8")


def _vocabulary(data: bytes, needed: tuple[str, ...], where: str) -> dict[str, int]:
    try:
        lines = [line.rstrip("\n") for line in io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")]
    except UnicodeDecodeError as problem:
        raise TokenizerError("the vocabulary is not UTF-8", value=f"{where} ({problem})", fix="fetch or write it again") from None
    vocabulary = {token: number for number, token in enumerate(lines)}
    problems = [f"'{name}' is missing" for name in needed if name not in vocabulary]
    twice = [(token, number, vocabulary[token]) for number, token in enumerate(lines) if vocabulary[token] != number]
    problems += [f"'{token}' is on lines {number + 1} and {last + 1}" for token, number, last in twice]
    if problems:
        what = f"the vocabulary can't be used: {'; '.join(problems[:5])}"
        fix = f"fetch the file again, or name its special tokens in {SETTINGS}"
        raise TokenizerError(what, value=where, expected="one token a line, each once, special tokens too", fix=fix)
    return vocabulary


def _added(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    listed = _object(files, SETTINGS).get("added_tokens_decoder")
    try:
        if listed is None:
            entries = [(token, {"id": int(number)}) for token, number in _object(files, ADDED).items()]
        else:
            entries = [(entry.pop("content"), {**entry, "id": int(number)}) for number, entry in listed.items()]
    except (AttributeError, KeyError, TypeError, ValueError):
        where = SETTINGS if listed is not None else ADDED
        raise TokenizerError("the added tokens can't be read", value=where, expected="tokens with their ids") from None
    return dict(sorted(entries, key=lambda entry: entry[1]["id"]))


def _object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        data = json.loads(files[name])
    except (ValueError, RecursionError) as problem:
        fix = "the file is cut off; fetch or write it again"
        raise TokenizerError("the file is not valid JSON", value=f"{name} ({problem})", fix=fix) from None
    if not isinstance(data, dict):
        raise TokenizerError("the file does not hold an object", value=name, expected="{...} at the top")
    return data


def _name(token: Any) -> str:
    return str(token.get("content")) if isinstance(token, dict) else str(token)
