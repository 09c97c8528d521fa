"""Corpora that don't fit into memory: the same rows, splits, blocks and batches, from mapped files and by portions."""

from __future__ import annotations

import random

import numpy as np
import pytest
from conftest import make_tokenizer, rows, write_csv
from datasets import ClassLabel, Dataset, Features, Value

from distill import Data, load_data
from distill.data import arrays, batching, overlap, splitting
from distill.data.batching import TokenBatches
from distill.data.readers import columns, reader
from distill.data.rows import Alike
from distill.errors import DataError, MachineError


@pytest.fixture
def tight(monkeypatch) -> None:
    """Everything beyond a few numbers goes to a file, and is worked on in small portions."""
    monkeypatch.setattr(arrays, "IN_MEMORY", 64)
    monkeypatch.setattr(arrays, "PORTION", 7)
    monkeypatch.setattr(arrays, "_LOOSE", 5)


def is_mapped(array: np.ndarray) -> bool:
    return isinstance(array.base, np.memmap)


def test_small_arrays_are_in_memory_and_large_ones_in_files_without_a_name(tight, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    small, large = arrays.zeros(8, np.int64), arrays.zeros((9, 3), np.int64)
    assert not is_mapped(small) and is_mapped(large) and not large.any()
    large[4] = 5
    assert large.sum() == 15 and list(tmp_path.iterdir()) == []


def test_what_grows_is_the_same_in_a_file(tight):
    rng = np.random.default_rng(0)
    grown, all_of_them = arrays.Growing(np.int32), []
    for _ in range(20):
        some = rng.integers(100, size=rng.integers(9))
        grown.add(some)
        all_of_them += some.tolist()
    found = grown.whole()
    assert is_mapped(found) and found.tolist() == all_of_them
    few = arrays.Growing(np.uint16)
    for number in range(50):
        few.extend((number, 2 * number))
    assert few.whole().tolist() == [value for number in range(50) for value in (number, 2 * number)]
    assert arrays.Growing(np.int8).whole().tolist() == []


@pytest.mark.parametrize("number", [1, 7, 8, 50])
def test_work_by_portions_is_that_on_the_whole(tight, number):
    values = np.random.default_rng(number).integers(1, 5, size=number)
    ends = arrays.ends(values)
    assert ends.tolist() == np.cumsum([0, *values]).tolist()
    assert arrays.differences(ends).tolist() == values.tolist()
    assert arrays.places(number, lambda part: values[part] == 2).tolist() == np.flatnonzero(values == 2).tolist()
    assert arrays.equal(values, values.copy()) and not arrays.equal(values, np.append(values, 1))
    other = values.copy()
    other[-1] += 1
    assert not arrays.equal(values, other)


def test_a_full_disk_is_told(tight, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(MachineError, match=r"keeping a corpus's numbers in .*: no space left on device"):
        arrays.zeros(1000, np.int64)


# ------------------------------------------------------------------------------------- splits


def dealt_plainly(groups, kinds, shares, seed):
    """As rows were dealt when lists held them all."""
    members: dict[int, list[int]] = {}
    for row, number in enumerate(groups):
        members.setdefault(number, []).append(row)
    numbers, wanted = list(members), {"train": 1 - sum(shares.values()), **shares}
    total = {kind: list(kinds).count(kind) for kind in set(kinds)}
    dealt = {name: [] for name in wanted}
    for position in np.random.default_rng(seed).permutation(len(members)):
        rows = members[numbers[position]]
        kind, taken = kinds[rows[0]], {}
        for name, mine in dealt.items():
            taken[name] = sum(kinds[row] == kind for row in mine)
        lacking = [name for name in wanted if wanted[name] * total[kind] - taken[name] > 0] or ["train"]
        emptiest = min(lacking, key=lambda name: len(dealt[name]) / (wanted[name] * len(kinds)))
        dealt["train" if taken["train"] == 0 else emptiest] += rows
    return {name: sorted(rows) for name, rows in dealt.items()}


@pytest.mark.parametrize("alike", [True, False])
def test_rows_are_dealt_as_they_were_when_lists_held_them(tight, alike):
    rng = random.Random(4)
    for seed in range(6):
        groups = [rng.randrange(60) for _ in range(90)]
        kinds = Alike(0, 90) if alike else [rng.choice("aaab") for _ in groups]
        shares = {"validation": 0.1, "test": 0.2} if seed % 2 else {"test": 0.3}
        found = splitting.split(groups, kinds, shares, seed)
        assert {name: rows.tolist() for name, rows in found.items()} == dealt_plainly(groups, kinds, shares, seed)


def test_a_sample_of_rows_that_are_alike_is_that_of_a_list(tight):
    for limit in (1, 5, 39, 40):
        expected = list(splitting.sample([0] * 40, limit, seed=3))
        assert list(splitting.sample(Alike(0, 40), limit, seed=3)) == expected


def test_equal_texts_are_found_a_share_at_a_time(tight):
    rng = random.Random(1)
    lines = [(rng.choice("abcdefgh") * rng.randrange(1, 4),) for _ in range(200)]
    found = overlap.group_equal(lines, len(lines)).tolist()
    assert found == [lines.index(line) for line in lines]
    assert len(set(overlap.group(lines).tolist())) == len(set(lines))


def test_a_text_that_is_there_often_is_looked_at_once(monkeypatch):
    asked = []
    monkeypatch.setattr(overlap._Hashed, "_near", lambda self, *pair: asked.append(pair))
    long = " ".join(f"w{n}" for n in range(20))
    assert overlap.group([(long,)] * 50).tolist() == [0] * 50
    assert asked == []


def test_labels_that_are_alike_are_a_list(tight):
    labels = Alike(0, 5)
    assert list(labels) == [0] * 5 == labels[:9] and labels[-1] == 0 and labels[1:3] == [0, 0]
    assert len(labels.take([4, 2])) == 2
    with pytest.raises(IndexError):
        labels[5]


# ------------------------------------------------------------------------------------- batches


def cut_plainly(lengths, batch_size, batch_tokens):
    """One row after the other."""
    cuts = [0]
    for position, length in enumerate(lengths):
        rows = position - cuts[-1] + 1
        if rows > 1 and (rows > batch_size or rows * length > batch_tokens):
            cuts.append(position)
    return [*cuts, len(lengths)]


@pytest.mark.parametrize(("size", "tokens"), [(1, 16), (4, 16), (32, 64), (32, 8192), (7, 100)])
def test_batches_are_those_that_they_were(tight, size, tokens):
    rng = np.random.default_rng(size)
    for number in (1, 5, 80, 300):
        lengths = rng.integers(1, 90, size=number)
        rounded = -(-lengths // batching._STEP) * batching._STEP
        for seed in (None, 3):
            batches = TokenBatches(lengths, size, tokens, seed)
            batches.set_epoch(2)
            assert batches.cuts.tolist() == cut_plainly(np.sort(rounded), size, tokens)
            if seed is None:
                order, turns = np.argsort(rounded, kind="stable"), range(len(batches))
            else:
                chance = np.random.default_rng((seed, 2))
                order = np.lexsort((chance.random(number), rounded))
                turns = chance.permutation(len(batches))
            assert list(batches) == [order[batches.cuts[t] : batches.cuts[t + 1]].tolist() for t in turns]


# ------------------------------------------------------------------------------------- columns


@pytest.fixture
def many(monkeypatch) -> None:
    """A few rows are many."""
    for module in (columns, reader):
        monkeypatch.setattr(module, "MANY", 10)
    monkeypatch.setattr(columns, "AT_ONCE", 7)


def facts_of(words, folder, tokenizer):
    found = load_data(words, seed=2)
    encoded = [found.encode(name, tokenizer) for name in ("train", "validation")]
    told = (found.fingerprint, found.notes, found.task, [rows.ids.tolist() for rows in encoded])
    return told, [rows.labels.tolist() for rows in encoded], found


@pytest.mark.parametrize("form", ["names", "numbers", "flags", "fractions", "two texts", "named classes"])
def test_many_rows_are_what_few_rows_are(form, tmp_path, many, monkeypatch):
    lines = [
        [text, ("film", "sport", "money")[n % 3], n % 2, n / 7, f"and {n}"] for n, (text, _) in enumerate(rows(80))
    ]
    path = write_csv(tmp_path / "rows.csv", ["text", "topic", "flag", "share", "more"], lines)
    words = {"source": str(path), "label": {"numbers": "flag", "fractions": "share"}.get(form, "topic")}
    words |= {"text": ["text", "more"]} if form == "two texts" else {}
    words |= {"separator": ";"} if form == "flags" else {}
    if form == "named classes":
        features = Features({"text": Value("string"), "topic": ClassLabel(names=["a", "b", "c"])})
        made = Dataset.from_dict({"text": [line[0] for line in lines], "topic": [n % 3 for n in range(80)]}, features)
        monkeypatch.setattr("distill.data.sources.read_all", lambda *_: made)
    told, labels, large = facts_of(Data(**words, max_length=24), tmp_path, make_tokenizer())
    assert isinstance(large.train.texts, columns.Texts)
    assert isinstance(large.train.labels, columns.Values) == (
        form in ("names", "numbers", "two texts", "named classes")
    )
    assert large.train.texts[3] == large.train.texts[2:5][1] == list(large.train.texts)[3]
    for module in (columns, reader):
        monkeypatch.setattr(module, "MANY", 1000)
    expected, expected_labels, small = facts_of(Data(**words, max_length=24), tmp_path, make_tokenizer())
    assert isinstance(small.train.texts, list)
    assert told == expected and labels == expected_labels


@pytest.mark.parametrize(("text", "label", "reason"), [("", "film", None), ("a", "", "row 30 of train has no label")])
def test_what_is_wrong_is_told_of_many_rows(text, label, reason, tmp_path, many):
    lines = [[text or "b", label] if n == 30 else [f"a {n}", "film" if n % 2 else "sport"] for n in range(40)]
    path = write_csv(tmp_path / "rows.csv", ["text", "label"], lines)
    if reason is None:
        assert len(load_data(Data(source=str(path))).train) > 10
        return
    with pytest.raises(DataError, match=reason):
        load_data(Data(source=str(path)))


@pytest.mark.parametrize("limit", [None, 70])
def test_many_rows_without_labels_stay_where_they_are(limit, tmp_path, many, tight, monkeypatch):
    lines = [[text, topic] for text, topic in rows(80)]
    path = write_csv(tmp_path / "rows.csv", ["text", "label"], lines)
    new = [text for text, _ in rows(90, seed=8)]
    (tmp_path / "more.txt").write_text("\n".join([*new, *new[:9], *(text for text, _ in lines), "...", new[3]]))
    words = Data(source=str(path), unlabelled=str(tmp_path / "more.txt"), max_length=24, limit=limit)
    (extra,) = load_data(words, seed=2).extra
    made = load_data(words, seed=2).extended
    encoded = made.encode("train", make_tokenizer())
    assert isinstance(extra.texts, columns.Texts) and extra.repeated >= (9 if limit is None else 1)
    for module in (columns, reader):
        monkeypatch.setattr(module, "MANY", 1000)
    small = load_data(words, seed=2)
    assert isinstance(small.extra[0].texts, list) and list(extra.texts) == small.extra[0].texts
    assert extra.told == small.extra[0].told
    expected = small.extended.encode("train", make_tokenizer())
    assert encoded.ids.tolist() == expected.ids.tolist() and encoded.labels.tolist() == expected.labels.tolist()
    assert made.fingerprint == small.extended.fingerprint


def test_too_many_values_to_tell_apart_stay_a_list(many, monkeypatch):
    monkeypatch.setattr(columns, "_DISTINCT", 5)
    made = Dataset.from_dict(
        {"few": [n % 3 for n in range(40)], "all": list(range(40)), "lists": [[n] for n in range(40)]}
    )
    assert isinstance(columns.values_of(made, "few"), columns.Values)
    assert columns.values_of(made, "all") == list(range(40)) and columns.values_of(made, "lists")[2] == [2]
    few = columns.values_of(made, "few")
    assert list(few) == [n % 3 for n in range(40)] == few[:] and few.take([5, 4])[:] == [2, 1]
    assert np.asarray(few).tolist() == list(few)


def test_a_chain_is_its_parts_behind_one_another():
    from distill.data.readers.columns import Values
    from distill.data.rows import Chain

    whole = [3, 1, 2, 7, 7, 7, 5]
    chain = Chain(whole[:3], [], Alike(7, 3), Values([5, 6], np.array([0])))
    assert list(chain) == whole and len(chain) == 7 and [chain[place] for place in range(-7, 7)] == 2 * whole
    for cut in (
        slice(None),
        slice(2, 5),
        slice(4, 99),
        slice(3, 3),
        slice(-2, None),
        slice(None, None, 3),
        slice(5, 1),
    ):
        assert chain[cut] == whole[cut], cut
    with pytest.raises(IndexError):
        chain[7]
    assert np.asarray(chain).tolist() == whole and np.asarray(Chain([[0.0, 1.0]], Alike([2.0, 2.0], 2))).shape == (3, 2)
    assert list(Chain()) == [] == Chain()[:5]
