"""What a label looks like to a person: letters of other scripts and letter pairs as the Latin ones they resemble.

Rules:
1. Two labels look alike when their skeletons are equal (the idea of Unicode TR39 section 4). The table is our own:
   the letters a registry may allow in a label that pass for a Latin one in common typefaces, in lower case.
2. `skeleton` joins only what looks the same. `latin` also drops accents and strokes: close, but visibly another name.
"""

from __future__ import annotations

from functools import cache
from typing import Final
from unicodedata import combining, name, normalize

ACE: Final = b"xn--"  # marks a label in Punycode, RFC 5890 section 2.3.2.1

_LOOKALIKES: Final = {  # code points in hexadecimal: the letters themselves would deceive the reader
    "a": "0430 0251 03b1 ff41 1d00 2c81",
    "b": "044c 0432 03b2 00df 0185 0253 0299",
    "c": "0441 03f2 1d04 217d 2ca5",
    "d": "0501 0257 217e 056a",
    "e": "0435 04bd 0454 025b 03b5 212e 0511 2c89 1d07",
    "f": "0192 017f 0584 a799",
    "g": "0261 0581 0262 018d 1d83",
    "h": "04bb 0570 043d 210e 029c 2c8f",
    "i": "0456 0131 03b9 0269 026a 2170 04cf",
    "j": "0458 03f3 029d 0575",
    "k": "043a 03ba 1d0b 2c95 049b a740",
    "l": "01c0 026d 217c 0196 05df 05c0 2c93 1d0c",
    "m": "043c 217f 0271 1d0d 028d",
    "n": "0578 057c 03b7 043f 0273 0274",
    "o": "043e 03bf 0585 03c3 1d0f 0275 0e50 0966 0d20 0be6 2c9f 05e1 06d5 0c66 0d66 0ed0 06f5",
    "p": "0440 03c1 03f1 2ca3 00fe",
    "q": "051b 0563 0566 024b",
    "r": "0433 1d26 027c 2c85 027e 0280 ab47 ab48",
    "s": "0455 0282 a731 01bd",
    "t": "0442 03c4 1d1b 01ad",
    "u": "03c5 057d 028b 1d1c 0446",
    "v": "0475 03bd 1d20 2174 05d8",
    "w": "051d 0461 0561 03c9 026f 1d21 0448 028d",
    "x": "0445 03c7 2179 04ff 04b3",
    "y": "0443 04af 03b3 0263 10e7 028f",
    "z": "1d22 0290 0292",
    "3": "0437 04e1 025c",
    "4": "0447",
    "6": "0431",
}
_LIGATURES: Final = {0x00E6: "ae", 0x0153: "oe", 0x014B: "n", 0x00F0: "d"}
_MARKED: Final = "LATIN SMALL LETTER "  # `... O WITH STROKE`: what Unicode does not take apart has it in its name
# Seen within one script: zero and o; one, l and i (upper case I); rn and m; vv and w; cl and d.
_PAIRS: Final = (("0", "o"), ("1", "l"), ("i", "l"), ("rn", "m"), ("vv", "w"), ("cl", "d"))


def readable(label: bytes) -> str | None:
    """Return the label as a person reads it in an address bar, or None when its Punycode is broken."""
    try:
        return normalize(
            "NFC", label[len(ACE) :].decode("punycode") if label.startswith(ACE) else label.decode("ascii")
        )
    except (UnicodeError, ValueError):
        return None


def glyphs(text: str) -> str:
    """Return the text with letters of other scripts as the Latin letters they pass for; accents stay."""
    return text if text.isascii() else text.translate(_table())


def latin(text: str) -> str:
    """Return the text as plain Latin letters as far as possible, accents and strokes dropped."""
    if text.isascii():
        return text
    bare = (_plain(char) for char in normalize("NFKD", glyphs(text)) if not combining(char))
    return "".join(bare).translate(_LIGATURES)


def skeleton(text: str) -> str:
    """Return what two texts have in common exactly when they look alike."""
    text = glyphs(text)
    for seen, meant in _PAIRS:
        text = text.replace(seen, meant)
    return text


@cache
def _table() -> dict[int, str]:
    return {int(other, 16): plain for plain, others in _LOOKALIKES.items() for other in others.split()}


def _plain(char: str) -> str:
    """Return the letter without its mark, as `o` for one with a stroke; other characters stay."""
    letter, found, _ = name(char, "").removeprefix(_MARKED).partition(" WITH ")
    return letter.lower() if found and len(letter) == 1 and not char.isascii() else char
