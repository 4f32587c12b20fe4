"""Which kind of tokenizer a folder holds, and from which of its files it is read.

The kind is what tokenizer_config.json's ``tokenizer_class`` says, else config.json's, else what config.json's ``model_type`` uses. A kind that is not
read is refused by name, for its ids would be wrong without a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from nabi.errors import TokenizerError
from nabi.text.bpe import MERGES, by_character, byte_level
from nabi.text.files import DEFINITION, SETTINGS, read_object
from nabi.text.marian import SOURCE, TARGET, TARGET_VOCABULARY, Marian
from nabi.text.unigram import sentencepiece
from nabi.text.wordpiece import wordpiece

if TYPE_CHECKING:
    import tokenizers

CONFIG = "config.json"
WORDS, IDS = "vocab.txt", "vocab.json"
MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True)
class Form:
    """A kind of tokenizer as it is saved without tokenizer.json.

    Attributes:
        classes: the class names that stand for it, without "Fast"; the first is its own.
        model_types: the models that use it.
        usual: what its special tokens are called when no file says it, by role.
        vocabularies: the files that hold its vocabulary; the first one found is read.
        beside: the files that must lie beside it.
        read: (files, name of the vocabulary, where, usual) -> the library's tokenizer; None for Marian, which has none.
    """

    classes: tuple[str, ...]
    model_types: tuple[str, ...]
    usual: Mapping[str, str]
    vocabularies: tuple[str, ...]
    beside: tuple[str, ...] = ()
    read: Callable[[Mapping[str, bytes], str, str, Mapping[str, str]], tokenizers.Tokenizer] | None = field(default=None, repr=False)


END = "<|endoftext|>"
ANGLED = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>", "mask": "<mask>"}
BERT = Form(
    (
        *("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "ConvBertTokenizer", "SqueezeBertTokenizer"),
        *("LayoutLMTokenizer", "LayoutLMv2Tokenizer", "LxmertTokenizer", "TapasTokenizer", "RetriBertTokenizer"),
        *("DPRQuestionEncoderTokenizer", "DPRContextEncoderTokenizer", "DPRReaderTokenizer"),
    ),
    (
        *("bert", "distilbert", "electra", "mobilebert", "convbert", "squeezebert", "layoutlm", "layoutlmv2", "lxmert", "tapas", "retribert"),
        *("dpr", "megatron-bert", "visual_bert", "vilt", "blip", "chinese_clip", "nomic_bert"),
    ),
    {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    (WORDS,),
    (),
    wordpiece,
)
ROBERTA = Form(
    ("RobertaTokenizer", "BartTokenizer", "LongformerTokenizer"),
    ("roberta", "bart", "longformer", "data2vec-text", "roberta-prelayernorm", "ibert", "lilt", "clap", "bridgetower"),
    ANGLED,
    (IDS,),
    (MERGES,),
    partial(byte_level, kind="roberta"),
)
GPT = Form(("OpenAIGPTTokenizer",), ("openai-gpt",), {"unk": "<unk>"}, (IDS,), (MERGES,), by_character)
GPT2 = Form(
    ("GPT2Tokenizer",),
    ("gpt2", "gpt_neo", "gptj", "opt", "imagegpt"),
    {"bos": END, "eos": END, "unk": END},
    (IDS,),
    (MERGES,),
    partial(byte_level, kind="gpt2"),
)
CLIP = Form(
    ("CLIPTokenizer",),
    ("clip", "clipseg", "owlvit", "owlv2"),
    {"bos": "<|startoftext|>", "eos": END, "unk": END, "pad": END},
    (IDS,),
    (MERGES,),
    partial(byte_level, kind="clip"),
)
XLM_ROBERTA = Form(
    ("XLMRobertaTokenizer",), ("xlm-roberta", "xlm-roberta-xl", "xmod"), ANGLED, MODELS, (), partial(sentencepiece, kind="xlm-roberta")
)
T5 = Form(
    ("T5Tokenizer",),
    ("t5", "mt5", "switch_transformers"),
    {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
    MODELS,
    (),
    partial(sentencepiece, kind="t5"),
)
ALBERT = Form(
    ("AlbertTokenizer",),
    ("albert", "yoso"),
    {"bos": "[CLS]", "eos": "[SEP]", "unk": "<unk>", "sep": "[SEP]", "pad": "<pad>", "cls": "[CLS]", "mask": "[MASK]"},
    MODELS,
    (),
    partial(sentencepiece, kind="albert"),
)
PLAIN = Form((), (), {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}, MODELS, (), partial(sentencepiece, kind="plain"))
MARIAN = Form(("MarianTokenizer",), ("marian",), {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}, (IDS,), (SOURCE, TARGET))
FORMS = (BERT, ROBERTA, GPT, GPT2, CLIP, XLM_ROBERTA, T5, ALBERT, MARIAN)
GENERIC = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend", "SentencePieceBackend")  # names that say nothing
FILES = (WORDS, IDS, MERGES, *MODELS, SOURCE, TARGET, TARGET_VOCABULARY)


def find_form(files: Mapping[str, bytes]) -> tuple[Form | None, str]:
    """The kind of tokenizer that the settings name, and the class or model type that was read; None for a kind that is not known or not named.

    Args:
        files: the bytes of the folder's files by name, config.json among them.

    Raises:
        TokenizerError: one of the files is not a JSON object.
    """
    name = _class_name(read_object(files, SETTINGS))
    if not name:
        config = read_object(files, CONFIG)
        name = _class_name(config)
        if not name:
            kind = str(config.get("model_type") or "")
            return next((form for form in FORMS if kind in form.model_types), None), kind
    return next((form for form in FORMS if name in form.classes), None), name


def open_form(files: Mapping[str, bytes], form: Form | None, named: str, folder: str) -> tuple[tokenizers.Tokenizer | Marian, Form, str]:
    """The tokenizer of a folder without tokenizer.json, its kind, and the file that it was read from.

    Args:
        files: the bytes of the folder's files, by name.
        form: of ``find_form``, as is ``named``.
        named: the class or model type that the settings name.
        folder: where the files lie.

    Raises:
        TokenizerError: there is no tokenizer that is read, its kind is not known, or a file of it is missing or can't be used.
    """
    if not any(name in files for name in FILES):
        raise _not_read(files, named, folder)
    # a model type alone does not speak against a vocab.txt: some models have been trained with BERT's tokenizer in place of their own
    if WORDS in files and not named.endswith("Tokenizer") and not (form and any(name in files for name in form.vocabularies)):
        form = BERT
    if form is None and SOURCE in files and not named:
        form = MARIAN
    if form is None and MODELS[0] in files and not named:
        form = PLAIN
    if form is None:
        raise _not_read(files, named, folder)
    name = next((name for name in form.vocabularies if name in files), None)
    missing = [name for name in form.beside if name not in files]
    if name is None:
        missing.insert(0, " or ".join(form.vocabularies))
    if name is None or missing:
        what = f"the tokenizer's files are not complete: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        raise TokenizerError(what, value=folder, expected=f"{DEFINITION}, or the files of {form.classes[0]}", fix="fetch the folder again")
    where = f"{folder}/{name}"
    if form.read is None:
        return open_marian(files, "source", folder), form, where
    return form.read(files, name, where, form.usual), form, where


def open_marian(files: Mapping[str, bytes], side: str, folder: str) -> Marian:
    """One side, "source" or "target", of a Marian folder.

    Raises:
        TokenizerError: a file is missing or can't be used.
    """
    separate = bool(read_object(files, SETTINGS).get("separate_vocabs"))
    if separate and TARGET_VOCABULARY not in files:
        raise TokenizerError(f"{SETTINGS} asks for {TARGET_VOCABULARY}, which is missing", value=folder, fix="fetch the folder again")
    return Marian(files, side, folder, MARIAN.usual, separate=separate)


def with_class(files: Mapping[str, bytes], form: Form) -> dict[str, bytes]:
    """The tokenizer_config.json that also says the kind, by its name; nothing if it says one, or if the kind has no name."""
    settings = read_object(files, SETTINGS)
    if "tokenizer_class" in settings or not form.classes:
        return {}
    return {SETTINGS: json.dumps({**settings, "tokenizer_class": form.classes[0]}, ensure_ascii=False, indent=2).encode("utf-8")}


def _class_name(settings: Mapping[str, Any]) -> str:
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    return "" if name in GENERIC else name


def _not_read(files: Mapping[str, bytes], named: str, folder: str) -> TokenizerError:
    held = [name for name in FILES if name in files]
    if not held:
        what, fix = "there is no tokenizer in the folder", "save the tokenizer beside the model, or give its folder"
        return TokenizerError(what, value=folder, expected=f"{DEFINITION} or {WORDS} in it, or another form of a tokenizer", fix=fix)
    classes = ", ".join(form.classes[0] for form in FORMS)
    if named:
        what = f"tokenizers of the kind {named} are not read from {' and '.join(held)}"
        fix = f"save it as {DEFINITION}: transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        return TokenizerError(what, value=folder, expected=f"{DEFINITION}, or the files of {classes}", fix=fix)
    what = f"nothing says what kind of tokenizer {' and '.join(held)} belong to"
    return TokenizerError(what, value=folder, expected=f"one of {classes}", fix=f"write it into {SETTINGS} as tokenizer_class")
