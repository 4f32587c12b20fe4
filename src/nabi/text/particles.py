"""Korean particles at the end of a span: 박근혜가 -> 박근혜.

Particles are written onto the word before them, so a span of whole words or of long pieces takes them along. The list is closed (the case, topic and
auxiliary particles of the National Institute of Korean Language's dictionary, with their usual sequences); the longest one that fits is taken off.
Which form stands behind a consonant and which behind a vowel is part of the list, so 오이 keeps its 이. Unusual: a name that ends like a particle
(김정은, 고양이) can't be told from one that bears it, so whoever trims also tells what was trimmed.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

Behind = Literal["any", "consonant", "vowel", "soft", "hard"]  # soft: a vowel or the consonant ㄹ; hard: any other consonant

_FORMS: dict[Behind, str] = {
    "any": """에 에서 에게 에게서 에게로 께 께서 의 도 만 까지 부터 마다 조차 마저 밖에 처럼 보다 만큼 한테 한테서 하고 에는 에도 에만 에의 에서는 에서도
        에서만 에서의 에서부터 에게는 에게도 에게만 께서는 께서도 만은 만이 만을 만의 까지는 까지도 까지만 까지의 부터는 부터도 부터의 처럼은 보다는 보다도""",
    "consonant": "은 이 을 과 과는 과도 과의 이나 이라도 이라는 이라고 이든지 이랑",
    "vowel": "는 가 를 와 와는 와도 와의 라도 라는 라고 든지 랑",
    "soft": "로 로는 로도 로의 로서 로써 로부터",
}
PARTICLES: dict[str, Behind] = {form: behind for behind, forms in _FORMS.items() for form in forms.split()}
PARTICLES |= {"으" + form: "hard" for form in _FORMS["soft"].split()}
LONGEST = max(map(len, PARTICLES))
_RIEUL = 8  # ㄹ among the final consonants


def is_hangul(char: str) -> bool:
    """Whether a character is a Hangul syllable or one of its letters."""
    return "\uac00" <= char <= "\ud7a3" or "\u1100" <= char <= "\u11ff" or "\u3131" <= char <= "\u318e"


def stem_end(text: str, start: int, end: int, least: int | None = None) -> int:
    """Where ``text[start:end]`` ends without its particle; ``end`` if it has none.

    Args:
        text: composed or taken apart (NFD); the result counts its characters.
        start, end: of the span.
        least: the result lies behind this place; behind ``start`` if None, so that a span is never emptied.
    """
    if end <= start or not is_hangul(text[end - 1]) or (end < len(text) and is_hangul(text[end])):
        return end
    span = unicodedata.normalize("NFC", text[start:end])
    for length in range(min(LONGEST, len(span) - 1), 0, -1):
        behind = PARTICLES.get(span[-length:])
        if behind is None or not _fits(span[-length - 1], behind):
            continue
        at = end - length if len(span) == end - start else _place(text, start, end, span[:-length])
        if at > (start if least is None else max(start, least)):
            return at
    return end


def _fits(syllable: str, behind: Behind) -> bool:
    if not "\uac00" <= syllable <= "\ud7a3":  # a number or a Latin name: how it ends when read is not known
        return True
    final = (ord(syllable) - 0xAC00) % 28
    return {"any": True, "consonant": final != 0, "vowel": final == 0, "soft": final in (0, _RIEUL), "hard": final not in (0, _RIEUL)}[behind]


def _place(text: str, start: int, end: int, stem: str) -> int:
    """Where the composed ``stem`` ends in a text that is taken apart."""
    return next((at for at in range(end, start, -1) if unicodedata.normalize("NFC", text[start:at]) == stem), start)
