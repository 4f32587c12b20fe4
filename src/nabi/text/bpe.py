"""vocab.json and merges.txt, as the library's definition: BPE over characters as of GPT, over bytes as of GPT-2, RoBERTa and CLIP.

GPT reads BERT's words, lower-cased, and marks their ends with ``</w>``; a character that it lacks is unknown. The other three differ in what stands
around a text and in what offsets hold: RoBERTa's post-processor trims the space before a word off, GPT-2 has none that does. CLIP lower-cases, and marks
the end of a word where the others mark the space before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nabi.errors import TokenizerError, shortened
from nabi.text.files import ADDED, NAMES, SETTINGS, Guard, add_tokens, content, read_ids, read_settings, special_entries

if TYPE_CHECKING:
    import tokenizers

MERGES, WORD_END = "merges.txt", "</w>"
# a word of CLIP: special tokens, English endings, letters, one digit, signs
CLIP_WORD = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def by_character(files: Mapping[str, bytes], name: str, where: str, usual: Mapping[str, str]) -> tokenizers.Tokenizer:
    """GPT's tokenizer; the arguments and errors are those of :func:`byte_level`."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    vocabulary = read_ids(files[name], where)
    merges = _merges(files[MERGES], vocabulary, where.removesuffix(name) + MERGES)
    fix = f"look at {SETTINGS}, {NAMES} and {ADDED} beside it"
    with Guard(TokenizerError, "the vocabulary and its settings do not fit together", value=where, fix=fix):
        unk = content(special_entries(files, usual)["unk"])
        unknown = {"unk_token": unk} if unk in vocabulary else {}
        built = tokenizers.Tokenizer(
            models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=WORD_END, fuse_unk=False, **unknown)
        )
        built.normalizer, built.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        built.decoder = decoders.BPEDecoder(suffix=WORD_END)
        add_tokens(built, files, usual)
        return built


def byte_level(files: Mapping[str, bytes], name: str, where: str, usual: Mapping[str, str], kind: str) -> tokenizers.Tokenizer:
    """The tokenizer that vocab.json, merges.txt and the settings beside them stand for.

    Args:
        files: the bytes of the folder's files, by name.
        name: the vocabulary among them.
        where: what to call it in an error.
        usual: the usual special names by role.
        kind: "gpt2", "roberta" or "clip".

    Raises:
        TokenizerError: a file can't be used, or the files do not fit together.
    """
    import tokenizers
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

    settings, vocabulary = read_settings(files), read_ids(files[name], where)
    suffix = WORD_END if kind == "clip" else ""
    merges = _merges(files[MERGES], vocabulary, where.removesuffix(name) + MERGES)
    fix = f"look at {SETTINGS}, {NAMES} and {ADDED} beside it"
    with Guard(TokenizerError, "the vocabulary and its settings do not fit together", value=where, fix=fix):
        unk = content(special_entries(files, usual)["unk"])
        unknown = {"unk_token": unk} if kind == "clip" and unk in vocabulary else {}
        model = models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=suffix, fuse_unk=False, **unknown)
        built = tokenizers.Tokenizer(model)
        if kind == "clip":
            built.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
            words = pre_tokenizers.Split(Regex(CLIP_WORD), behavior="removed", invert=True)
            built.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
            built.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(suffix, " "), decoders.Replace(Regex(r"\A\s+|\s+\z"), "")])
        else:
            built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
            built.decoder = decoders.ByteLevel()
        names = add_tokens(built, files, usual)
        built.post_processor = _around(built, names, settings, kind)
        return built


def _around(built: tokenizers.Tokenizer, names: Mapping[str, str], settings: Mapping[str, Any], kind: str) -> Any:
    from tokenizers import processors

    def named(role: str) -> tuple[str, int]:
        number = built.token_to_id(names[role])
        if number is None:
            raise ValueError(f"the {role} token '{names[role]}' is not in the vocabulary")
        return names[role], number

    if kind == "gpt2":
        begin, end = (f"{names[role]}:{{0}} " if settings.get(f"add_{role}_token") else "" for role in ("bos", "eos"))
        one = f"{begin}${{1}}:{{0}} {end}"
        single, pair = one.replace("{1}", "A").replace("{0}", "0"), one.replace("{1}", "B").replace("{0}", "1")
        used = [named(role) for role in ("bos", "eos") if settings.get(f"add_{role}_token")]
        return processors.TemplateProcessing(single=single.strip(), pair=(single + pair).strip(), special_tokens=list(dict(used).items()))
    if kind == "clip":
        return processors.RobertaProcessing(named("eos"), named("bos"), trim_offsets=False, add_prefix_space=False)
    return processors.RobertaProcessing(
        named("sep"),
        named("cls"),
        trim_offsets=settings.get("trim_offsets", True),
        add_prefix_space=settings.get("add_prefix_space", False),
    )


def _merges(data: bytes, vocabulary: Mapping[str, int], where: str) -> list[tuple[str, str]]:
    fix = "the file is cut off or of another vocabulary; fetch it again"
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as problem:
        raise TokenizerError(f"the merges are not UTF-8 ({problem})", value=where, fix=fix) from None
    if lines[-1] == "":
        lines.pop()
    merges = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#version"):
            continue
        pair = line.removesuffix("\r").split(" ")
        if len(pair) != 2 or not all(pair):
            what = f"line {number} of the merges is not two tokens: {shortened(line)}"
            raise TokenizerError(what, value=where, expected="two tokens with a space between them", fix=fix)
        for token in (*pair, "".join(pair)):
            if token not in vocabulary:
                what = f"line {number} of the merges names a token that the vocabulary lacks: {shortened(token)}"
                raise TokenizerError(what, value=where, fix=fix)
        merges.append((pair[0], pair[1]))
    return merges
