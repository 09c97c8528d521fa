"""What is a letter, a part of one, or a word of its own, in any script."""

from __future__ import annotations

import unicodedata

# Scripts that set no blanks between words: kana, Han, Thai, Lao, Myanmar and Khmer. A character counts as a word there.
ALONE = (
    r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
)
# Vowel signs, accents and joiners that stand behind a letter, which `\w` leaves out: half of the letters of Hindi.
MARKS = (
    "".join(chr(place) for place in range(0x300, 0x10000) if unicodedata.category(chr(place)) in ("Mn", "Mc"))
    + "\u200c\u200d\U00011000-\U00011fff"  # and whole blocks of rarer scripts, as one range: `re` is slow on many
)
_LETTERS = rf"\w+(?:[{MARKS}]+\w*)*"
WORD = rf"{_LETTERS}(?:['’-]{_LETTERS})*"  # as people count words: with apostrophes and hyphens
