"""The files beside a tokenizer's vocabulary: settings, special names, added tokens; and the guard around the library.

tokenizer_config.json is the newer file: where it lists all added tokens (``added_tokens_decoder``) it alone decides, else special_tokens_map.json
and added_tokens.json add to it. A token that no file names and the vocabulary lacks does not exist, whatever is usual for the kind of tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nabi.errors import TokenizerError, UserError, shortened

if TYPE_CHECKING:
    import tokenizers

DEFINITION = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
NAMES = "special_tokens_map.json"
ADDED = "added_tokens.json"
ROLES = {  # what each special token is called when neither a file nor the kind of tokenizer says it; in the order in which missing ones get ids
    "bos": ("<s>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("</s>", "<|endoftext|>"),
    "unk": ("[UNK]", "<unk>", "<|endoftext|>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<s>"),
    "mask": ("[MASK]", "<mask>"),
}
OPTIONS = ("lstrip", "rstrip", "single_word", "normalized", "special")
MOST_IDS = 10**7


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
    settings = read_object(files, SETTINGS)
    return settings if "added_tokens_decoder" in settings else settings | read_object(files, NAMES)


def token_names(settings: Mapping[str, Any], role: str, usual: Mapping[str, str] | None) -> tuple[str, ...]:
    """What the special token of a role may be called: as the settings say, else as is usual for the kind of tokenizer, else the usual names.

    Args:
        settings: of ``read_settings``.
        role: one of ``ROLES``.
        usual: the names of the kind of tokenizer by role; None if the kind is not known.
    """
    if settings.get(f"{role}_token"):
        return (content(settings[f"{role}_token"]),)
    if usual is None:
        return ROLES[role]
    return (usual[role], *ROLES[role]) if role in usual else ()


def add_tokens(
    built: tokenizers.Tokenizer, files: Mapping[str, bytes], usual: Mapping[str, str], pieces: Iterable[tuple[str, bool]] = ()
) -> dict[str, str]:
    """Give a tokenizer that was built from a vocabulary its special and added tokens.

    Args:
        built: the tokenizer, which gets them.
        files: the bytes of the folder's files, by name.
        usual: what special tokens of this kind of tokenizer are called, by role.
        pieces: further tokens of the vocabulary that are never cut, and whether each is special.

    Returns:
        What the special tokens are called, by role.

    Raises:
        TokenizerError: the files name tokens that can't be read, or ids that the tokens can't have.
    """
    import tokenizers

    names = {role: content(entry) for role, entry in special_entries(files, usual).items()}
    for token, options, number in token_list(files, usual, pieces):
        if number is None and options is None and built.token_to_id(token) is None:
            continue
        built.add_tokens([tokenizers.AddedToken(token, **(options or {"special": True}))])
        if number is not None and built.token_to_id(token) != number:
            what = f"the added token '{token}' gets the id {built.token_to_id(token)}, not {number}"
            raise TokenizerError(what, value=_source(files), expected="added tokens that go on where the vocabulary ends, or stand in it")
    return names


def special_entries(files: Mapping[str, bytes], usual: Mapping[str, str]) -> dict[str, Any]:
    """The special tokens by role, in the order in which they get ids: as the files have them, else the usual names."""
    settings = read_settings(files)
    others = {key.removesuffix("_token"): value for key, value in settings.items() if key.endswith("_token") and _is_token(value)}
    roles = [role for role in ROLES if role in others or role in usual]
    return {role: others.get(role, usual.get(role)) for role in [*roles, *(role for role in others if role not in ROLES)]}


def token_list(
    files: Mapping[str, bytes], usual: Mapping[str, str], pieces: Iterable[tuple[str, bool]] = ()
) -> list[tuple[str, dict[str, Any] | None, int | None]]:
    """The special and added tokens in the order in which they get ids, as (token, options, id).

    Options are ``AddedToken``'s; None is for a token that is only usual and need not exist. The id is None where the vocabulary decides.

    Raises:
        TokenizerError: the files name tokens that can't be read.
    """
    settings, entries = read_settings(files), special_entries(files, usual)
    extras = [entry for key in ("additional_special_tokens", "extra_special_tokens") for entry in _listed(settings.get(key))]
    stated = {content(entry) for role, entry in entries.items() if settings.get(f"{role}_token")} | {content(entry) for entry in extras}
    listed = _added(files, stated)
    for token, options, _ in listed:
        options["special"] = options["special"] or token in map(content, entries.values())
    found: list[tuple[str, dict[str, Any] | None, int | None]] = list(listed)
    known = {(token, form) for token, _, _ in listed for form in (str, dict)}
    for role, entry in [*entries.items(), *(("", extra) for extra in extras)]:
        token = content(entry)
        # two roles may share a token, one with options and one without: the library keeps what it is told last
        if token and (token, type(entry)) not in known:
            known.add((token, type(entry)))
            is_stated = token in stated or not role
            found.append((token, {**_options(entry), "special": True} if is_stated else None, None))
    return found + [(token, {"normalized": False, "special": special}, None) for token, special in pieces if (token, str) not in known]


def read_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is no such file.

    Raises:
        TokenizerError: the file does not hold a JSON object.
    """
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


def read_ids(data: bytes, where: str, *, holes: bool = False) -> dict[str, int]:
    """The tokens and their ids in a vocab.json, in the order of their ids.

    Args:
        data: the bytes of the file.
        where: what to call the file in an error.
        holes: whether ids may be left out.

    Raises:
        TokenizerError: the file does not hold tokens with ids, each once and none left out.
    """
    problems: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            seen: set[str] = set()
            problems.extend(f"'{key}' is there twice" for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        return table

    fix = "the file is cut off or of another format; fetch or write it again"
    try:
        table = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as problem:
        raise TokenizerError(f"the vocabulary is not valid JSON ({shortened(str(problem))})", value=where, fix=fix) from None
    if not isinstance(table, dict) or not table:
        raise TokenizerError("the vocabulary does not hold tokens", value=where, expected='{"token": id, ...}', fix=fix)
    numbers: dict[int, str] = {}
    for token, number in table.items():
        if type(number) is not int or not 0 <= number < MOST_IDS:
            problems.append(f"'{token}' has the id {shortened(number)}")
        elif numbers.setdefault(number, token) != token:
            problems.append(f"'{numbers[number]}' and '{token}' have the id {number}")
    if not problems and not holes and len(numbers) <= max(numbers):
        missing = next(i for i in range(len(numbers) + 1) if i not in numbers)
        problems.append(f"no token has the id {missing}, although ids go up to {max(numbers)}")
    if problems:
        what = f"the vocabulary can't be used: {'; '.join(problems[:5])}"
        raise TokenizerError(what, value=where, expected="each token once, with ids from 0 on and none left out", fix="fetch the file again")
    return {numbers[number]: number for number in sorted(numbers)}


def content(token: Any) -> str:
    """The characters of a token that a file gives as a string or as an object."""
    return str(token.get("content")) if isinstance(token, dict) else str(token)


def _added(files: Mapping[str, bytes], stated: set[str]) -> list[tuple[str, dict[str, Any], int]]:
    listed = read_object(files, SETTINGS).get("added_tokens_decoder")
    entries: list[tuple[str, dict[str, Any], int]] = []
    try:
        if listed is None:
            for token, number in read_object(files, ADDED).items():
                entries.append((token, {"normalized": token not in stated, "special": token in stated}, int(number)))
        else:
            for number, entry in listed.items():
                options = _options(entry)
                entries.append((entry["content"], {"normalized": True, "special": False} | options, int(number)))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise TokenizerError("the added tokens can't be read", value=_source(files), expected="tokens with their ids") from None
    return sorted(entries, key=lambda entry: entry[2])


def _source(files: Mapping[str, bytes]) -> str:
    return SETTINGS if "added_tokens_decoder" in read_object(files, SETTINGS) else ADDED


def _options(entry: Any) -> dict[str, Any]:
    options = {key: value for key, value in entry.items() if key not in ("content", "__type", "id")} if isinstance(entry, dict) else {}
    wrong = [f"{key} = {value!r}" for key, value in options.items() if key not in OPTIONS or not isinstance(value, bool)]
    if wrong:  # the library would print a word about an unknown one and go on
        what = f"the token '{content(entry)}' has options that can't be used: {'; '.join(wrong)}"
        raise TokenizerError(what, value=f"{SETTINGS} or {NAMES}", expected=f"{', '.join(OPTIONS)}, each true or false")
    return options


def _is_token(value: Any) -> bool:
    return bool(value) and isinstance(value, str | dict)


def _listed(tokens: Any) -> list[Any]:
    return list(tokens.values() if isinstance(tokens, dict) else tokens or ())
