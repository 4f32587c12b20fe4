"""BERT's vocab.txt, as the library's definition of a WordPiece tokenizer."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nabi.errors import TokenizerError
from nabi.text.files import ADDED, NAMES, SETTINGS, Guard, add_tokens, content, read_settings, special_entries

if TYPE_CHECKING:
    import tokenizers


def wordpiece(files: Mapping[str, bytes], name: str, where: str, usual: Mapping[str, str]) -> tokenizers.Tokenizer:
    """The tokenizer that BERT's vocab.txt and the settings beside it stand for.

    Args:
        files: the bytes of the folder's files, by name.
        name: the vocabulary among them.
        where: what to call it in an error.
        usual: the usual special names by role.

    Raises:
        TokenizerError: a file can't be used, a token stands twice, or [UNK], [CLS] or [SEP] is missing.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    settings = read_settings(files)
    unk, cls, sep = (content(special_entries(files, usual)[role]) for role in ("unk", "cls", "sep"))
    vocabulary = _vocabulary(files[name], (unk, cls, sep), where)
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
            special_tokens=[(token, vocabulary[token]) for token in (cls, sep)],
        )
        add_tokens(built, files, usual)
        return built


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
