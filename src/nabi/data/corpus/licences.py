"""Step ``licences``: under which licence a document stands, as the fact ``license`` (SPDX id or expression), and a filter by it.

What the file says itself is stronger than what its source says: an ``SPDX-License-Identifier`` line, then the usual headers and licence texts in its first
8 KB, known by a few phrases of each. Two licences found in one head are joined by AND, so that a filter asks for both. Unusual: SPDX expressions are read
as such, and GPL's short names mean "only", as SPDX has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nabi.data.corpus.documents import Document
from nabi.errors import OptionError

HEAD = 8192
PERMISSIVE = ("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib")
_SPDX = (*PERMISSIVE, "AFL-3.0", "Artistic-2.0", "BSD-4-Clause", "BSL-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0",
         "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CDDL-1.0", "EPL-1.0", "EPL-2.0", "EUPL-1.2", "MPL-1.1", "MPL-2.0", "MS-PL", "MulanPSL-2.0", "OFL-1.1", "WTFPL",
         *(f"{family}-{end}" for family in ("AGPL-3.0", "GPL-2.0", "GPL-3.0", "LGPL-2.0", "LGPL-2.1", "LGPL-3.0") for end in ("only", "or-later")))  # fmt: skip
_ALIASES = {
    "apache": "Apache-2.0", "apache 2": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "bsd-2": "BSD-2-Clause", "bsd-3": "BSD-3-Clause", "bsd 2-clause": "BSD-2-Clause", "bsd 3-clause": "BSD-3-Clause", "cc0": "CC0-1.0", "cc-0": "CC0-1.0",
    "mit license": "MIT", "the mit license": "MIT", "expat": "MIT", "mpl": "MPL-2.0", "the unlicense": "Unlicense", "isc license": "ISC", "zlib/libpng": "Zlib",
    "psf": "PSF-2.0", "python": "PSF-2.0",
}  # fmt: skip
_KNOWN = {name.lower(): name for name in _SPDX} | _ALIASES
_GNU = re.compile(r"(a?gpl|lgpl)[- ]?(?:v(?:ersion)?)?[- ]?([23](?:\.[01])?)(\+|[- ]or[- ]later|[- ]only)?")
_SPDX_LINE = re.compile(r"SPDX-License-Identifier:[ \t]{0,8}([\w.+() :-]{1,200})")
_PARTS = re.compile(r"[()]|[^\s()]+")
_HINTS = ("licen", "permission", "redistribut", "public domain", "creativecommons", "gpl")
# the signs that comments and frames of stars are made of, and every run of white space
_FILLING = re.compile(r"[\s#*/;%!<>\"'`,|_=-]+")
_VERSION = r"(?:v ?|version )?"
_LATER = r"(?=.{0,220}(?:any later version|or later|or newer))"
_GAP = r"[^.]{0,80}?"
# (SPDX id, pattern): held against the head in lower case with comment signs, quotes, commas, hyphens and white space folded into single spaces
_TEXTS = [(spdx, re.compile(pattern)) for spdx, pattern in (
    ("AGPL-3.0-or-later", rf"gnu affero general public license{_LATER}"),
    ("AGPL-3.0-only", r"gnu affero general public license"),
    ("LGPL-2.1-or-later", rf"gnu lesser general public license(?=.{{0,120}}2\.1){_LATER}"),
    ("LGPL-2.1-only", r"gnu lesser general public license(?=.{0,120}2\.1)"),
    ("LGPL-3.0-or-later", rf"gnu lesser general public license{_LATER}"),
    ("LGPL-3.0-only", r"gnu lesser general public license"),
    ("LGPL-2.0-or-later", r"gnu library general public license"),
    ("GPL-2.0-or-later", rf"gnu general public license(?=.{{0,120}}version 2){_LATER}"),
    ("GPL-2.0-only", r"gnu general public license(?=.{0,120}version 2)"),
    ("GPL-3.0-or-later", rf"gnu general public license(?=.{{0,120}}version 3){_LATER}|\bgplv?3 ?\+"),
    ("GPL-3.0-only", r"gnu general public license(?=.{0,120}version 3)|\bgpl ?v?3\b"),
    ("MPL-2.0", r"mozilla public license v(?:ersion|\.)? ?2\.0|mozilla\.org mpl 2\.0"),
    ("Apache-2.0", rf"apache license ?{_VERSION}2\.0|apache\.org licenses license 2\.0|(?:under|license:) (?:the )?apache {_VERSION}2"),
    ("BSD-3-Clause", r"redistribution and use in source and binary forms(?=.{0,1500}neither the names? of)|\b(?:3 clause bsd|bsd 3 clause|new bsd) licen[sc]e"),
    ("BSD-2-Clause", r"redistribution and use in source and binary forms|\b(?:2 clause bsd|bsd 2 clause|simplified bsd) licen[sc]e"),
    ("ISC", r"permission to use copy modify and or distribute this software for any purpose|\bisc licen[sc]e\b"),
    ("MIT", rf"permission is hereby granted free of charge to any person{_GAP}obtaining a copy|\bmit licen[sc]ed?\b|under (?:the )?mit\b"),
    ("CC0-1.0", r"creativecommons\.org publicdomain zero|\bcc0 1\.0\b|creative commons zero"),
    ("CC-BY-SA-4.0", r"creativecommons\.org licenses by sa 4|creative commons attribution sharealike 4|\bcc by sa 4\.0"),
    ("CC-BY-SA-3.0", r"creativecommons\.org licenses by sa 3|creative commons attribution sharealike 3|\bcc by sa 3\.0"),
    ("CC-BY-4.0", r"creativecommons\.org licenses by 4|creative commons attribution 4|\bcc by 4\.0"),
    ("CC-BY-3.0", r"creativecommons\.org licenses by 3|creative commons attribution 3|\bcc by 3\.0"),
    ("Unlicense", r"this is free and unencumbered software released into the public domain|unlicense\.org"),
)]  # fmt: skip


@dataclass(frozen=True)
class Licences:
    """Options of the step ``licences``.

    Attributes:
        allowed: SPDX ids or their usual names; ``permissive`` stands for the usual permissive ones; all are kept if empty.
        unknown: keep or drop a document under no licence that is known; only asked if ``allowed`` is given.
    """

    allowed: tuple[str, ...] = ()
    unknown: Literal["keep", "drop"] = "drop"


class LicenceStep:
    """Tells a document's licence and drops it if it is not allowed.

    Raises:
        OptionError: an allowed name that is no licence we know.
    """

    name = "licences"

    def __init__(self, options: Licences) -> None:
        self.options = options
        names = {one for name in options.allowed for one in (PERMISSIVE if name == "permissive" else (spdx_id(name) or name,))}
        if unheard := sorted(name for name in names if name not in _SPDX):
            raise OptionError("unknown licence", value=unheard[0], expected="an SPDX id such as MIT, Apache-2.0, GPL-3.0-or-later, or 'permissive'")
        self.allowed = frozenset(names)

    def __call__(self, document: Document) -> str | None:
        said = document.facts.get("license", "")
        found = licence_of(document.text) or normalised(said)
        if found:
            document.facts["license"] = found
        if not self.allowed or allowed(found, self.allowed):
            return None
        if any(spdx_id(part) for part in _PARTS.findall(found)):
            return "license"
        return "license unknown" if self.options.unknown == "drop" else None


def spdx_id(name: str) -> str:
    """The SPDX id of a licence by one of its usual names (``mit``, ``apache-2.0``, ``gpl-3.0``, ``GPLv2+``); empty if it is not known."""
    name = name.strip().lower()
    if match := _GNU.fullmatch(name):
        family, version, end = match.groups()
        version = {"2": "2.0", "3": "3.0"}.get(version, version)
        return _KNOWN.get(f"{family}-{version}-{'or-later' if end and 'only' not in end else 'only'}", "")
    return _KNOWN.get(name, "")


def normalised(expression: str) -> str:
    """An SPDX expression with each name in SPDX's spelling; names that are not known stay."""
    if known := spdx_id(expression):
        return known
    words = {"and": "AND", "or": "OR", "with": "WITH"}
    joined = " ".join(words.get(part.lower()) or spdx_id(part) or part for part in _PARTS.findall(expression[:200]))
    return joined.replace("( ", "(").replace(" )", ")")


def allowed(expression: str, names: frozenset[str]) -> bool:
    """Whether an SPDX expression can be met with licences among ``names`` only: OR needs one side, AND both; ``WITH`` an exception counts as without it."""
    values: list[bool | str] = []
    skip = False
    for part in [*_PARTS.findall(expression), ")"]:
        if skip:
            skip = False
        elif part == "WITH":
            skip = True
        elif part in ("(", "AND", "OR"):
            values.append(part)
        elif part != ")":
            values.append(part in names)
        else:
            inner: list[bool | str] = []
            while values and (value := values.pop()) != "(":
                inner.append(value)
            values.append(_either(inner))
    return len(values) == 1 and values[0] is True


def _either(parts: list[bool | str]) -> bool:
    """A flat expression: AND binds before OR. One that is not well formed is met by nothing."""
    if len(parts) % 2 == 0 or any(isinstance(part, bool) == bool(at % 2) for at, part in enumerate(parts)):
        return False
    groups = [[parts[0]]]
    for word, value in zip(parts[1::2], parts[2::2], strict=True):
        if word == "OR":
            groups.append([value])
        else:
            groups[-1].append(value)
    return any(all(group) for group in groups)


def licence_of(text: str) -> str:
    """The licence that a file's first 8 KB tell, as an SPDX expression; empty if they tell none."""
    head = text[:HEAD]
    if line := _SPDX_LINE.search(head):
        return normalised(line[1].strip().rstrip("-").strip())
    lowered = head.lower()
    if not any(hint in lowered for hint in _HINTS):
        return ""
    folded = _FILLING.sub(" ", lowered)
    found: list[str] = []
    for spdx, pattern in _TEXTS:
        family = spdx.partition("-")[0]
        # the first of a family is its most exact one, and the texts of the lesser and the Affero licence name the GPL too
        kin = {"GPL": ("GPL", "LGPL", "AGPL"), "CC": ("CC",)}.get(family, (family,))
        if any(other.partition("-")[0] in kin for other in found):
            continue
        if pattern.search(folded):
            found.append(spdx)
    return " AND ".join(sorted(found))
