"""Step ``personal``: what points to a person or opens a door is replaced by a mark: mail, telephone, IP address, key, resident number, card number.

Unusual: each pattern begins at a rare sign or at the border of a number and has an end to every repeat, so that the time grows with the text alone. Resident
numbers (Korea): the date in it must be one of the calendar; written with its hyphen that is enough, since numbers given since October 2020 bear no check digit;
thirteen bare digits must have the right check digit (weights 2-9, 2-5, modulo 11), since times in milliseconds look like them. Card numbers: Luhn's check
(ISO/IEC 7812-1) and a known beginning. Keys: the published forms, and values of assignments to names such as ``api_key`` that look drawn by chance.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nabi.data.corpus.documents import Document
from nabi.errors import unknown

# top-level domains of more than two letters under which most mail lives; `a@b.weight` is a matrix product
_DOMAINS = "com|org|net|edu|gov|mil|int|info|biz|name|pro|dev|app|online|site|tech|cloud|email|mail|xyz|blog|shop|museum|local|example|test|invalid"
_MAIL = re.compile(rf"@(?:[a-z0-9](?:[a-z0-9-]{{0,61}}[a-z0-9])?\.){{1,6}}(?:[a-z]{{2}}|{_DOMAINS})(?![a-z0-9(\[=-]|\.[a-z])", re.ASCII | re.IGNORECASE)
_LOCAL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_PLUS = re.compile(r"\+(?<![\w.+/)\]-]\+)\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,5}){2,4}(?![\w-]|\.\d)", re.ASCII)
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:\(0\d{1,2}\) ?\d{3,4}[ -]\d{4}|0(?:2|[3-6][1-5]|1[016789]|50\d|70)[ -]\d{3,4}[ -]\d{4}|0(?:2|[3-6][1-5]|1[016789]|70)\.\d{3,4}\.\d{4}"
    r"|010\d{8}"
    r"|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4}"
    r")(?![\w-]|\.\d)", re.ASCII)  # fmt: skip
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.-]){_OCTET}(?:\.{_OCTET}){{3}}(?![\w-]|\.\w)", re.ASCII)
_VERSION = re.compile(r"(?:version|release|sections?|chapter|§|\bver|\bv|[=~><!]=)[\s\"':=_(]{0,4}$", re.IGNORECASE)
# 2000::/3 is all that is given out
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,35}(?![\w:])", re.ASCII)
# beginning -> the rest; a pattern that begins with plain letters is searched for at the speed of memory
_KEYS = {start: re.compile(rf"{start}(?<![A-Za-z0-9_]{start})(?:{rest})(?![A-Za-z0-9])") for starts, rest in {
    "AKIA ASIA": "[A-Z0-9]{16}", "ghp_ gho_ ghu_ ghs_ ghr_": "[A-Za-z0-9]{36,255}", "github_pat_": "[A-Za-z0-9_]{22,255}", "AIza": "[A-Za-z0-9_-]{35}",
    "xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs-": "[A-Za-z0-9-]{10,255}", "sk-": "(?:ant-|proj-)?[A-Za-z0-9_]{32,255}", "hf_": "[A-Za-z0-9]{34}",
    "eyJ": r"[A-Za-z0-9_-]{10,2000}+\.eyJ[A-Za-z0-9_-]{10,2000}+\.[A-Za-z0-9_-]{10,2000}"}.items() for start in starts.split()}  # fmt: skip
_NAMES = ("secret", "token", "passw", "credential", *(f"{kind}{line}key" for kind in ("api", "access", "auth", "private") for line in ("", "_")))
# a text's digits as 0, and its hexadecimal digits as h: whether a number of some shape can be there is then seen by searching for plain bytes
_DIGITS = bytes(48 if chr(code) in "0123456789" else code for code in range(256))
_HEX = bytes(104 if chr(code) in "0123456789abcdefABCDEF" else 32 if chr(code) == "h" else code for code in range(256))
_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_BLOCK = 1 << 14
_QUOTED = re.compile(r"([:=][ \t]{0,4}[\"'])([A-Za-z0-9+/=_.-]{16,256})(?=[\"'])")
_SECRET = re.compile(r"(?:secret|token|passw(?:or)?d|api_?key|access_?key|auth_?key|private_?key|credential)[a-z0-9_]{0,16}[\"']?\]?[ \t]{0,4}$", re.IGNORECASE)
_NO_SECRET = re.compile(r"(?:hash|digest|sha\d*|md5|checksum|public|_id|name|type|class|url|path)[a-z0-9_]{0,8}[\"']?\]?[ \t]{0,4}$", re.IGNORECASE)
_RESIDENT = re.compile(r"(?<![\w.-])(\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(-?)([0-9])(\d{6})(?![\w-]|\.\d)", re.ASCII)
_CARD = re.compile(r"(?<![\w.-])(?:[2-6]\d{3}([ -])\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -])\d{6}\2\d{5}|[2-6]\d{14,15})(?![\w-]|\.\d)", re.ASCII)
_CARD_BEGIN = re.compile(r"(?:4\d{3}|5[1-5]\d\d|22[3-9]\d|2[3-6]\d\d|6011|65\d\d|62\d\d|35[3-8]\d)\d{12}|3[47]\d{13}", re.ASCII)


@dataclass(frozen=True)
class Personal:
    """Options of the step ``personal``.

    Attributes:
        kinds: what to replace: mail, phone, ip, key, resident, card.
        marks: kind -> what to write instead; ``<mail>`` and so on where it is not given.
    """

    kinds: tuple[str, ...] = ("key", "mail", "resident", "card", "phone", "ip")
    marks: Mapping[str, str] = field(default_factory=dict)


class PersonalStep:
    """Replaces personal data by marks and counts them in ``document.changed``, by kind; drops nothing.

    Raises:
        OptionError: an unknown kind.
    """

    name = "personal"

    def __init__(self, options: Personal) -> None:
        for kind in (*options.kinds, *options.marks):
            if kind not in KINDS:
                raise unknown("kind of personal data", kind, KINDS)
        # in one fixed order: a card number must not be taken for a telephone number
        self._kinds = [(kind, replace, options.marks.get(kind, f"<{kind}>")) for kind, replace in KINDS.items() if kind in options.kinds]

    def __call__(self, document: Document) -> str | None:
        for kind, replace, mark in self._kinds:
            text, count = replace(document.text, mark)
            if count:
                document.text = text
                document.changed[kind] += count
        return None


def _replaced(text: str, pattern: re.Pattern[str], mark: str, meant: Callable[[re.Match[str]], bool], group: int = 0) -> tuple[str, int]:
    """The text with the mark in place of each match that is meant, and how many there were."""
    pieces, at = [], 0
    for match in pattern.finditer(text):
        if meant(match):
            pieces += [text[at : match.start(group)], mark]
            at = match.end(group)
    return ("".join([*pieces, text[at:]]), len(pieces) // 2) if pieces else (text, 0)


def _shaped(text: str, table: bytes, *shapes: bytes) -> bool:
    """Whether one of the shapes occurs among the text's bytes as the table folds them."""
    folded = text.encode("utf-8", "surrogatepass").translate(table)
    return any(shape in folded for shape in shapes)


def mail(text: str, mark: str) -> tuple[str, int]:
    """Addresses whose local part is plain ASCII; ``git@host`` is no person's."""
    if "@" not in text:
        return text, 0
    pieces, at = [], 0
    for match in _MAIL.finditer(text):
        before = text[max(at, match.start() - 65) : match.start()]
        local = before[len(before.rstrip(_LOCAL)) :].lstrip(".%+-")
        if local and len(local) <= 64 and local != "git":
            pieces += [text[at : match.start() - len(local)], mark]
            at = match.end()
    return ("".join([*pieces, text[at:]]), len(pieces) // 2) if pieces else (text, 0)


def phone(text: str, mark: str) -> tuple[str, int]:
    """International numbers (E.164: 8 to 15 digits after +), Korean ones, and North American ones in their usual spelling."""

    def telephone(match: re.Match[str]) -> bool:
        number = match[0]
        # a sign before a plain number, as after an operator, is arithmetic
        sign = number[1:].isdigit() and text[max(match.start() - 4, 0) : match.start()].rstrip().endswith(tuple("=<>*/%&|^~([{,"))
        return not sign and 8 <= sum(map(str.isdigit, number)) <= 15

    found = more = 0
    if "+" in text:
        text, found = _replaced(text, _PLUS, mark, telephone)
    if _shaped(text, _DIGITS, b"000-0000", b"000 0000", b"000.0000", b"00000000000"):
        text, more = _replaced(text, _PHONE, mark, lambda match: True)
    return text, found + more


def ip(text: str, mark: str) -> tuple[str, int]:
    """Public addresses; private and reserved ones stay, and so do what looks like a version: after such a word, or with four numbers below 20."""

    def public(match: re.Match[str]) -> bool:
        if max(map(int, match[0].split("."))) < 20 or not ipaddress.IPv4Address(match[0]).is_global:
            return False
        return not _VERSION.search(text[max(match.start() - 16, 0) : match.start()])

    found = more = 0
    if _shaped(text, _DIGITS, b".0.", b".00.", b".000."):
        text, found = _replaced(text, _IPV4, mark, public)
    if _shaped(text, _HEX, b"hhhh:h", b"hhhh::"):
        text, more = _replaced(text, _IPV6, mark, _public_v6)
    return text, found + more


def _public_v6(match: re.Match[str]) -> bool:
    try:
        return ipaddress.IPv6Address(match[0]).is_global
    except ValueError:
        return False


def key(text: str, mark: str) -> tuple[str, int]:
    """Private key blocks, keys and tokens of published forms, and random values that are assigned to a name that tells."""
    count = 0
    if "PRIVATE KEY" in text:
        ends, end = _END.finditer(text), None
        pieces, at = [], 0
        for begin in _BEGIN.finditer(text):
            while begin.start() >= at and (end is None or end.start() < begin.end()) and (end := next(ends, None)):
                pass
            if end is None:
                break
            if begin.start() >= at and end.start() - begin.end() <= _BLOCK:
                pieces += [text[at : begin.start()], mark]
                count, at = count + 1, end.end()
        text = "".join([*pieces, text[at:]])
    for start, pattern in _KEYS.items():
        if start in text:
            text, found = _replaced(text, pattern, mark, lambda match: True)
            count += found
    lowered = text.lower()
    if not any(name in lowered for name in _NAMES):
        return text, count

    def secret(match: re.Match[str]) -> bool:
        name = text[max(match.start() - 48, 0) : match.start()]
        return bool(_SECRET.search(name)) and not _NO_SECRET.search(name) and _random(match[2])

    text, found = _replaced(text, _QUOTED, mark, secret, 2)
    return text, count + found


def _random(value: str) -> bool:
    """Letters and digits with at least 3 bits of entropy a character, as 16 hexadecimal digits by chance have."""
    counts = Counter(value)
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return entropy >= 3 and any(map(str.isdigit, value)) and any(map(str.isalpha, value))


def resident(text: str, mark: str) -> tuple[str, int]:
    """Korean resident registration numbers; the rule is in the head of this file."""
    return _replaced(text, _RESIDENT, mark, _is_resident) if _shaped(text, _DIGITS, b"000000-0000000", b"0000000000000") else (text, 0)


def _is_resident(match: re.Match[str]) -> bool:
    year, month, day, hyphen, kind, _ = match.groups()
    century = 1800 if kind in "09" else 1900 if kind in "1256" else 2000
    try:
        dt.date(century + int(year), int(month), int(day))
    except ValueError:
        return False
    return bool(hyphen) or check_digit(match[0])


def check_digit(digits: str) -> bool:
    """Whether the last of thirteen digits is the resident number's check digit."""
    *numbers, last = map(int, digits)
    return (11 - sum(n * weight for n, weight in zip(numbers, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=True)) % 11) % 10 == last


def card(text: str, mark: str) -> tuple[str, int]:
    """Card numbers in groups or bare that begin as a card's and pass Luhn's check."""
    shapes = (b"0000-0000-", b"0000 0000 ", b"0000-000000-", b"0000 000000 ", b"000000000000000")
    return _replaced(text, _CARD, mark, _is_card) if _shaped(text, _DIGITS, *shapes) else (text, 0)


def _is_card(match: re.Match[str]) -> bool:
    digits = match[0].replace(" ", "").replace("-", "")
    return bool(_CARD_BEGIN.fullmatch(digits)) and luhn(digits)


def luhn(digits: str) -> bool:
    """Luhn's check: every second digit from the right is doubled, the digits of all are summed."""
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    return sum(doubled[int(d)] if at % 2 else int(d) for at, d in enumerate(reversed(digits))) % 10 == 0


KINDS: dict[str, Callable[[str, str], tuple[str, int]]] = {"key": key, "mail": mail, "resident": resident, "card": card, "phone": phone, "ip": ip}
