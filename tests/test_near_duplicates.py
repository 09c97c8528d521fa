"""Near-duplicates: which texts are alike."""

from __future__ import annotations

import random

import pytest

from distill.data import overlap


def alike(one: str, other: str) -> bool:
    """The definition, word for word."""
    words = [overlap.normalise(text).split() for text in (one, other)]
    if words[0] == words[1]:
        return True
    mine, theirs = ({tuple(found[i : i + 5]) for i in range(len(found) - 4)} for found in words)
    return bool(mine | theirs) and len(mine & theirs) / len(mine | theirs) >= 0.8


def brute_force(texts: list[tuple[str, ...]]) -> list[int]:
    """For each row the first row of its group, by comparing all pairs."""
    group = list(range(len(texts)))
    for i, row in enumerate(texts):
        for j in range(i):
            if group[i] != group[j] and all(alike(*pair) for pair in zip(row, texts[j], strict=True)):
                low, high = sorted((group[i], group[j]))
                group = [low if number == high else number for number in group]
    return group


def mutated(rng: random.Random, words: list[str]) -> list[str]:
    """The words with a few changed, dropped or put behind."""
    found = list(words)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        at = rng.randrange(len(found))
        match rng.randrange(4):
            case 0:
                found[at] = rng.choice("xyz")
            case 1 if len(found) > 1:
                del found[at]
            case 2:
                found.append(rng.choice("xyz"))
            case _:
                found = [word.upper() for word in found]
    return found


def random_text(rng: random.Random, bases: list[list[str]]) -> str:
    return rng.choice((" ", "  ", ", ")).join(mutated(rng, rng.choice(bases)))


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_groups_are_those_of_comparing_every_pair(columns, seed):
    rng = random.Random(seed)
    bases = [[rng.choice("abcdefgh") for _ in range(rng.choice((1, 4, 5, 9, 14, 24, 40)))] for _ in range(12)]
    texts = [tuple(random_text(rng, bases) for _ in range(columns)) for _ in range(160)]
    found, expected = overlap.group(texts), brute_force(texts)
    assert len(found) == len(texts)
    assert len(set(expected)) < len(texts)
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))


@pytest.mark.parametrize(
    ("runs", "shared", "expected"), [(9, 8, True), (18, 16, True), (18, 15, False), (90, 80, True)]
)
def test_the_threshold_itself_counts_as_alike(runs, shared, expected):
    """Two texts of `runs` runs each that share `shared`: 8 of 10 is exactly 0.8."""
    one = [f"w{i}" for i in range(runs + 4)]
    other = [*one[runs - shared :], *(f"v{i}" for i in range(runs - shared))]
    assert (shared / (2 * runs - shared) >= 0.8) is expected
    assert (len(set(overlap.group([(" ".join(one),), (" ".join(other),)]))) == 1) is expected


@pytest.mark.parametrize(
    ("one", "other"), [("Ｆｕｌｌ width", "full WIDTH!"), ("a-b  c", "A B, c."), ("STRASSE", "straße")]
)
def test_case_width_punctuation_and_spacing_make_no_difference(one, other):
    assert len(set(overlap.group([(one,), (other,), ("something else",)]))) == 2


def test_texts_without_words_are_alike_only_when_they_are_equal():
    assert overlap.group([("",), ("?!",), ("🙂",), (" ?!",)]).tolist() == [0, 1, 2, 1]


def test_pairs_are_alike_only_in_both_texts():
    long = " ".join(f"w{i}" for i in range(40))
    rows_of = [(long, "a"), (long + " end", "a"), (long, "b"), ("a", long)]
    assert overlap.group(rows_of).tolist() == [0, 0, 1, 2]


def test_vowel_signs_tell_words_apart_and_variants_of_signs_do_not():
    assert len({overlap.normalise(word) for word in ("दिन", "दान", "दीन")}) == 3
    assert overlap.normalise("I ❤\ufe0f it!") == overlap.normalise("i ❤ it")
