"""Korean particles at the end of a span: 박근혜가 -> 박근혜.

Particles are written onto the word before them, so a span of whole words or of long pieces takes them along. The list is closed (the case, topic and
auxiliary particles of the National Institute of Korean Language's dictionary, with their usual sequences); the longest one that fits is taken off.
Which form stands behind a consonant and which behind a vowel is part of the list, so 오이 keeps its 이. Left out are 나, 야, 아, 여, 든 and 엔: among the
10,800 entities of KLUE (Park et al. 2021) that the list was tried on, they end a name at least as often as they follow one (나: 30 names, 7 particles).
Unusual: a name that ends like a particle (김정은, 고양이) can't be told from one that bears it, so whoever trims also tells what was trimmed.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

Behind = Literal["any", "consonant", "vowel", "soft", "hard"]  # soft: a vowel or the consonant ㄹ; hard: any other consonant

_FORMS: dict[Behind, str] = {
    "any": """에 에서 에게 에게서 에게로 께 께서 의 도 만 까지 부터 마다 조차 마저 밖에 처럼 보다 만큼 한테 한테서 하고 대로 뿐 커녕 마냥
        에다 에다가 에는 에도 에만 에의 에까지 에서는 에서도 에서만 에서의 에서부터 에서까지 에선 에게는 에게도 에게만 에게까지 에겐 께서는
        께서도 한테는 한테도 한테만 한텐 만은 만이 만을 만의 만으로 만으로는 만으로도 까지는 까지도 까지만 까지의 부터는 부터도 부터의 조차도
        마저도 밖에는 처럼은 보다는 보다도 보단 만큼은 만큼도 만큼의 하고는 하고도 마다의""",
    "consonant": "은 이 을 과 과는 과도 과의 이나 이나마 이란 이야 이며 이든 이든지 이라도 이라는 이라고 이라든지 이랑 이랑은 이랑도 은커녕",
    "vowel": "는 가 를 와 와는 와도 와의 나마 란 며 든지 라도 라는 라고 라든지 랑 랑은 랑도 는커녕",
    "soft": "로 로는 로도 로만 로의 로서 로써 로까지 로부터",
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
