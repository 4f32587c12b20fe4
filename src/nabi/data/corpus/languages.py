"""Step ``languages``: which language a document is in, as the fact ``language``, and a filter by it.

A programming language is told by the file's name (of a row in a table, by the row's own ``path``) or its first line (``#!``); else what the source says
holds; else the natural language is identified by py3langid (naive Bayes over byte n-grams, Lui and Baldwin 2011 and 2012), with the probability that it
gives. Unusual: of a long text three pieces are judged, since its time grows with the text (about 0.3 MB a second); names and numbers in a short text decide
nothing, so it has a reason of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Literal

from nabi.data.corpus.documents import Document
from nabi.errors import OptionError, unknown

_ENDINGS = {
    "ada": "adb ads", "assembly": "asm s", "c": "c h", "c#": "cs", "c++": "cc cpp cxx hh hpp hxx", "clojure": "clj cljs", "cmake": "cmake", "cobol": "cob cbl",
    "css": "css", "cuda": "cu cuh", "cython": "pyx pxd", "d": "d", "dart": "dart", "elixir": "ex exs", "erlang": "erl hrl", "f#": "fs fsx",
    "fortran": "f f90 f95",
    "go": "go", "groovy": "groovy gradle", "haskell": "hs", "html": "html htm xhtml", "ini": "ini cfg", "java": "java", "javascript": "js jsx mjs cjs",
    "json": "json", "julia": "jl", "jupyter": "ipynb", "kotlin": "kt kts", "less": "less", "lisp": "lisp el", "lua": "lua", "makefile": "mk", "matlab": "m",
    "nim": "nim", "ocaml": "ml mli", "pascal": "pas", "perl": "pl pm", "php": "php", "powershell": "ps1 psm1", "prolog": "pro", "protobuf": "proto",
    "python": "py pyi pyw", "r": "r", "ruby": "rb", "rust": "rs", "scala": "scala", "scheme": "scm", "scss": "scss sass", "shell": "sh bash zsh", "sql": "sql",
    "swift": "swift", "tcl": "tcl", "tex": "tex sty", "toml": "toml", "typescript": "ts tsx", "verilog": "v sv", "vhdl": "vhd vhdl", "vue": "vue",
    "xml": "xml xsd xsl", "yaml": "yaml yml", "zig": "zig",
}  # fmt: skip
ENDINGS = {ending: language for language, endings in _ENDINGS.items() for ending in endings.split()}
NAMES = {"makefile": "makefile", "gnumakefile": "makefile", "dockerfile": "dockerfile", "cmakelists.txt": "cmake", "rakefile": "ruby", "gemfile": "ruby"}
PROGRAMS = {"python": "python", "sh": "shell", "bash": "shell", "zsh": "shell", "dash": "shell", "perl": "perl", "ruby": "ruby", "node": "javascript",
            "lua": "lua", "php": "php", "Rscript": "r", "tclsh": "tcl"}  # fmt: skip
PROGRAMMING = frozenset({*ENDINGS.values(), *NAMES.values(), *PROGRAMS.values()})
SHEBANG = re.compile(r"#![ \t]{0,8}(?:/[^\s/]{1,64}){1,9}/?(?:[ \t]{1,8}(?:-S[ \t]{1,8})?([^\s/]{1,64}))?")
NO_LETTERS = re.compile(r"[\W\d_]+")


@dataclass(frozen=True)
class Languages:
    """Options of the step ``languages``.

    Attributes:
        keep: ISO 639 codes (``en``, ``ko``) and names of programming languages in lower case (``python``); all are kept if empty.
        confidence: least probability, in 0..1, of a natural language that is identified.
        shortest: least number of letters that a natural language is told by; below it the text is undecided.
        undecided: keep or drop texts whose language can't be told; they get no fact ``language``.
        sample: most characters of a text that are looked at.
    """

    keep: tuple[str, ...] = ()
    confidence: float = 0.5
    shortest: int = 20
    undecided: Literal["keep", "drop"] = "drop"
    sample: int = 1500


class LanguageStep:
    """Tells a document's language and drops it if it is not among those to keep.

    Raises:
        OptionError: an unknown language, an impossible number, or py3langid is not installed.
    """

    name = "languages"

    def __init__(self, options: Languages) -> None:
        if not 0 <= options.confidence <= 1:
            raise OptionError("'confidence' is a probability", value=options.confidence, expected="a number in 0..1")
        if options.shortest < 1 or options.sample < options.shortest:
            raise OptionError("'shortest' must be 1 or more, and no more than 'sample'", value=f"shortest {options.shortest}, sample {options.sample}")
        _package()
        for name in options.keep:
            if name not in PROGRAMMING and name not in _identifier().labels:
                raise unknown("language", name, {*PROGRAMMING, *_identifier().labels})
        self.options, self.keep = options, frozenset(options.keep)

    def __call__(self, document: Document) -> str | None:
        # of a row of a table, ``document.path`` is its place in the table
        language = programming_language(document.facts.get("path") or document.path, document.text) or document.facts.get("language", "").lower()
        if not language:
            text = _sampled(document.text, self.options.sample)
            if len(NO_LETTERS.sub("", text)) < self.options.shortest:
                return "too short to tell the language" if self.options.undecided == "drop" else None
            language, confidence = natural_language(text)
            if confidence < self.options.confidence:
                return "language in doubt" if self.options.undecided == "drop" else None
        document.facts["language"] = language
        return "language" if self.keep and language not in self.keep else None


def programming_language(path: str, text: str) -> str:
    """The programming or markup language of a file, in lower case, by its name, else by its first line; empty if neither says it."""
    name = re.split(r"[/!\\]", path[-256:])[-1].lower()
    if found := NAMES.get(name) or (ENDINGS.get(name.rpartition(".")[2]) if "." in name else None):
        return found
    if not text.startswith("#!") or not (line := SHEBANG.match(text)):
        return ""
    program = line[0][2:].split()[0].rpartition("/")[2]
    program = line[1] or "" if program == "env" else program
    return PROGRAMS.get(program.rstrip("0123456789."), "")


def natural_language(text: str) -> tuple[str, float]:
    """The ISO 639 code of the likeliest language and its probability in 0..1."""
    language, confidence = _identifier().classify(text)
    return str(language), float(confidence)


def _sampled(text: str, size: int) -> str:
    """The text, or of a long one its beginning, middle and end."""
    if len(text) <= size:
        return text
    piece, middle = size // 3, len(text) // 2
    return "\n".join((text[:piece], text[middle - piece // 2 : middle - piece // 2 + piece], text[-piece:]))


def _package() -> Any:
    try:
        return import_module("py3langid.langid")
    except ImportError:
        raise OptionError("telling natural languages needs the package py3langid", fix="install it: pip install 'nabi[corpus]'") from None


@cache
def _identifier() -> Any:
    package = _package()
    return package.LanguageIdentifier.from_model_file(package.MODEL_FILE, norm_probs=True)
