"""Encoder-decoders: texts to write, their losses, metrics, hidden states of two sides, and a teacher's own texts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_tokenizer
from writers import WRITERS, build_writer, make_pairs, save_writer, write_lines

from distill import Checkpoint, Data, Distill, Finetune, anatomy, checkpoint, distillation, load_data
from distill.data import Encoded, Ragged, collate
from distill.engines import Torch, answer_all
from distill.errors import CheckpointError, DataError
from distill.evaluation import evaluate
from distill.generation import read_rules
from distill.losses import LOSSES, to_targets
from distill.recipe import settings
from distill.recipe.settings import Generation
from distill.signals import Signals, read, tensors
from distill.tasks import METRICS, from_config
from distill.training import TrainingLog, Watch, choose_dtype

FAST = {"epochs": 1, "learning_rate": 3e-3, "batch_size": 8}


def writer(name: str, seed: int = 0, **more: object) -> Checkpoint:
    return Checkpoint(build_writer(name, seed, **more), make_tokenizer())


@pytest.fixture(scope="module")
def pairs():
    return make_pairs()


# ---------------------------------------------------------------------------------------------- what is trained


def test_labels_are_shifted_right_behind_the_start_token_and_padded():
    targets = Ragged.of([[7, 8, 3], [9, 3]])
    ids = np.array([5, 6, 3, 5, 3], dtype=np.int32)
    held = Encoded(ids, None, np.array([0, 3, 5]), np.array(["a", "b"]), 0, 0, targets=targets, decoder_start=1)
    batch = collate(held, [0, 1])
    assert batch["labels"].tolist() == [[7, 8, 3], [9, 3, -100]]
    assert batch["decoder_input_ids"].tolist() == [[1, 7, 8], [1, 9, 3]]
    assert held.work.tolist() == [6, 4] and held.take(np.array([1])).work.tolist() == [4]


@pytest.mark.parametrize("name", WRITERS)
def test_shifted_labels_are_those_of_transformers(name, pairs):
    pupil = writer(name)
    batch = collate(pupil.encode(pairs, "train"), [0, 1, 2])
    given = tensors(batch, pupil.model.device)
    theirs = pupil.model(
        input_ids=given["input_ids"], attention_mask=given["attention_mask"], labels=given["labels"]
    )  # fmt: skip
    found = read(pupil.model, given)
    real = given["labels"] != -100
    torch.testing.assert_close(found.logits[real], theirs.logits[real])
    torch.testing.assert_close(to_targets(pairs.task, found.logits, given), theirs.loss)


def test_what_is_imitated_and_reduced_leaves_padding_out(pairs):
    rng = np.random.default_rng(0)
    labels = np.array([[1, 2, -100, -100], [0, 1, 2, 0]])
    student, teacher = (rng.normal(size=(2, 4, 3)).astype(np.float32) for _ in range(2))
    given = {"labels": torch.from_numpy(labels)}
    s, t = (pairs.task.imitated(torch.from_numpy(logits), given) for logits in (student, teacher))
    assert s.shape == (6, 3)

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    places = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]
    p, q = (np.array([log_softmax(logits[at].astype(float) / 2) for at in places]) for logits in (teacher, student))
    by_hand = (np.exp(p) * (p - q)).sum(-1).mean() * 4
    assert float(LOSSES["kl"](s, t, 2.0)) == pytest.approx(by_hand, rel=1e-5)
    spoilt = student.copy()
    spoilt[0, 2:] = 1e6
    assert torch.equal(pairs.task.imitated(torch.from_numpy(spoilt), given), s)
    told = pairs.task.reduce(student, {"labels": labels})
    nll = [
        -sum(log_softmax(student[r, c].astype(float))[labels[r, c]] for r, c in places if r == row) for row in (0, 1)
    ]
    np.testing.assert_allclose(told, [[nll[0], 2], [nll[1], 4]], rtol=1e-6)


# ------------------------------------------------------------------------------------------------------- metrics


def test_metrics_are_those_of_sacrebleu_and_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import corpus_bleu, corpus_chrf

    texts = np.array(["the cat sat on the mat", "hello there world", "  same ", ""])
    right = np.array(["the cat sat on a mat", "hello world there", "same", "not empty"])
    assert METRICS["chrf"](texts, right) == pytest.approx(corpus_chrf(texts.tolist(), [right.tolist()]).score)
    assert METRICS["bleu"](texts, right) == pytest.approx(corpus_bleu(texts.tolist(), [right.tolist()]).score)
    assert METRICS["exact_match"](texts, right) == 0.25
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name, theirs in (("rouge1", "rouge1"), ("rouge2", "rouge2"), ("rouge_l", "rougeL")):
        found = [scorer.score(r, t)[theirs].fmeasure for t, r in zip(texts, right, strict=True)]
        assert METRICS[name](texts, right) == pytest.approx(np.mean(found))
    # by hand: five of six words shared with six of six
    assert METRICS["rouge1"](texts[:1], right[:1]) == pytest.approx(5 / 6)
    assert METRICS["rouge_l"](texts[1:2], right[1:2]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("metric", ["chrf", "bleu", "rouge_l", "exact_match"])
def test_a_tally_scores_any_choice_of_rows_as_the_metric_does(metric, pairs):
    task = replace(pairs.task, metric=metric)
    texts, right = np.array(["a b c", "d e f g", "h i"]), np.array(["a b d", "d e f g", "i h"])
    tally = task.tally(texts, right)
    for rows in ([0], [0, 1, 1], [2, 0, 1]):
        at = np.array(rows)
        assert tally(at) == pytest.approx(task.score(texts[at], right[at]))


# ---------------------------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_greedily_is_the_likeliest_token_each_time(name, pairs):
    pupil = writer(name)
    batch = collate(pupil.encode(pairs, "test"), [0, 1, 2])
    found = Torch(pupil.model).generate(batch, Generation(max_new_tokens=5))
    for row in range(3):
        ids = tensors({key: batch[key][row : row + 1] for key in ("input_ids", "attention_mask")}, pupil.model.device)
        written = [pupil.model.config.decoder_start_token_id]
        for _ in range(5):
            with torch.no_grad():
                logits = pupil.model(**ids, decoder_input_ids=torch.tensor([written])).logits[0, -1]
            written.append(int(logits.argmax()))
            if written[-1] == 3:
                break
        assert found[row] == written[1:]


def test_texts_begin_as_the_config_says_where_the_generation_config_does_not(tmp_path):
    folder = save_writer(tmp_path / "marian", "marian")
    path = folder / "generation_config.json"
    told = json.loads(path.read_text())
    assert told.pop("decoder_start_token_id") == 0 != told["bos_token_id"]
    path.write_text(json.dumps(told))
    assert read_rules(folder).start == 0
    made = checkpoint.load(folder)
    assert made.model.generation_config.decoder_start_token_id == 0
    assert json.loads((made.save(tmp_path / "made") / path.name).read_text())["decoder_start_token_id"] == 0


def test_a_forced_number_of_tokens_is_written_whatever_ends(pairs):
    pupil = writer("t5")
    batch = collate(pupil.encode(pairs, "test"), [0, 1])
    for beams in (1, 3):
        found = Torch(pupil.model).generate(batch, Generation(max_new_tokens=4, beams=beams), forced=9)
        assert [len(row) for row in found] == [9, 9]


def test_the_checkpoints_own_beams_and_lengths_do_not_count(pairs):
    plain = writer("bart")
    batch = collate(plain.encode(pairs, "test"), [0, 1])
    before = Torch(plain.model).generate(batch, Generation(max_new_tokens=6))
    plain.model.generation_config.num_beams = 4
    plain.model.generation_config.max_length = 3
    assert Torch(plain.model).generate(batch, Generation(max_new_tokens=6)) == before


# ------------------------------------------------------------------------------------------- hidden states of sides


@pytest.mark.parametrize(
    ("layers", "side", "expected"),
    [
        ("even", None, [(3 + 1 + 1, 3 + 1 + 2), (3 + 1 + 2, 3 + 1 + 4)]),
        ("last", "decoder", [(5, 7), (6, 8)]),
        ("even", "encoder", [(1, 1), (2, 2), (3, 3)]),
        ("even", "both", [(1, 1), (2, 2), (3, 3), (5, 6), (6, 8)]),
        ([1, 4], "decoder", [(5, 5), (6, 8)]),
        ({0: 0}, "decoder", [(4, 4)]),
    ],
)
def test_states_of_a_side_are_counted_behind_the_encoders(layers, side, expected):
    student = {"model_type": "bart", "encoder_layers": 3, "decoder_layers": 2}
    assert anatomy.state_pairs(layers, side, student, {**student, "decoder_layers": 4}) == expected


@pytest.mark.parametrize(
    ("layers", "side", "kind", "words"),
    [
        ([1], "both", "bart", "for both sides it is a word"),
        ("even", "encoder", "bert", "a bert has one side only"),
        ([1, 2, 3], None, "bart", "lists 3 teacher layers for a student of 2"),
    ],
)
def test_states_that_cannot_be_paired_are_refused(layers, side, kind, words):
    facts = {"model_type": kind, "encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2}
    with pytest.raises(CheckpointError, match=words):
        anatomy.state_pairs(layers, side, facts, facts)


@pytest.mark.parametrize("name", ["bart", "t5"])
@pytest.mark.parametrize("epochs", [1, 2])  # a live teacher, and saved signals
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name, epochs, pairs):
    pupil = writer(name)
    terms = {"logits": 1.0, "hidden_states": {"weight": 1.0, "loss": "mse", "side": "both"}}
    watch = Watch("twin")
    words = Distill(imitate=terms, epochs=epochs, learning_rate=1e-9, dtype="float32", dropout=0)
    distillation.distill(pupil, words, data=pairs, teacher=pupil, watch=watch)
    first = watch.log.records[0]["terms"]
    assert first["logits"]["value"] < 1e-6 and first["hidden_states"]["value"] < 1e-3  # saved in bfloat16


def test_padding_and_places_without_a_target_do_not_count_in_hidden_states(pairs):
    teacher = writer("bart", 1)
    batch = tensors(collate(teacher.encode(pairs, "train"), list(range(6))), teacher.model.device)
    asked = settings.Imitate(hidden_states={"weight": 1.0, "loss": "mse", "side": "both"})
    lesson = distillation.Lesson(teacher.model, pairs.task, asked, pairs={"hidden_states": [(1, 1), (4, 4)]})
    mine = Signals(torch.zeros(1), {1: torch.zeros(6, batch["input_ids"].shape[1], 2)})
    mine.hidden_states[4] = torch.zeros(6, batch["labels"].shape[1], 2)
    other = Signals(torch.zeros(1), {key: value.clone() for key, value in mine.hidden_states.items()})
    other.hidden_states[1][batch["attention_mask"] == 0] = 9.0
    other.hidden_states[4][batch["labels"] == -100] = 9.0
    assert [float(part.mean) for part in lesson._hidden_states(mine, other, batch)] == [0, 0]
    other.hidden_states[4][0, 0] = 1.0
    read, written = lesson._hidden_states(mine, other, batch)
    assert int(written.places) == int((batch["labels"] != -100).sum())
    assert float(read.mean) == 0 and float(written.mean) == pytest.approx(1 / int(written.places))


# ------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_what_is_learned_is_chosen_by_token_loss_and_written_down(name, pairs, tmp_path):
    watch = Watch("finetune")
    made = distillation.finetune(writer(name), Finetune(**{**FAST, "epochs": 3}), data=pairs, watch=watch)
    losses = [epoch["score"] for epoch in watch.log.epochs]
    assert watch.log.lower and losses[-1] < losses[0] and watch.log.best["score"] == min(losses)
    held = made.encode(pairs, "validation")
    engine = Torch(made.model, choose_dtype("auto"))
    assert distillation.token_loss(engine, held, pairs.task) == pytest.approx(min(losses), rel=0.02)
    found = checkpoint.load(made.save(tmp_path / "made"))
    assert found.model.generation_config.max_new_tokens == 8 and found.model.config.task == "translation"
    assert type(from_config(found.model.config.to_dict())).name == "translation"
    texts = pairs.task.predictions(answer_all(Torch(found.model), held, pairs.task))
    assert texts.dtype.kind == "U" and texts.shape == (len(held),)


def test_a_teacher_that_foretells_worse_than_its_student_is_warned_of(pairs, caplog):
    from distill.distillation.comparing import compare

    student, teacher, record = writer("t5"), writer("t5", 1), TrainingLog("1-distill", "float32")
    record.epochs, record.lower = [{"epoch": 1.0, "score": 0.5}], True
    compare(student, teacher, pairs, record)
    held = teacher.encode(pairs, "validation")
    assert record.teacher == {"loss": distillation.token_loss(Torch(teacher.model), held, pairs.task)}
    assert "imitates what is worse" in caplog.text
    caplog.clear()
    record.epochs = [{"epoch": 1.0, "score": 2 * record.teacher["loss"]}]
    compare(student, teacher, pairs, record)
    assert not caplog.text


def test_a_teachers_texts_are_written_once_for_the_training_split_alone(pairs):
    kept: dict[str, bytes] = {}
    asked = []

    def keep(facts, write, folder):
        key = json.dumps(facts, sort_keys=True)
        asked.append(key in kept)
        folder.mkdir()
        if key in kept:
            (folder / "texts.json").write_bytes(kept[key])
        else:
            write(folder)
            kept[key] = (folder / "texts.json").read_bytes()

    teacher = writer("bart", 1)
    told = distillation.taught(pairs, teacher, torch.float32, keep)
    own = answer_all(Torch(teacher.model), teacher.encode(pairs, "train"), pairs.task)
    assert told.train.labels == own[:, 0].tolist() and told.train.texts == pairs.train.texts
    assert told.validation is pairs.validation and told.test is pairs.test
    distillation.taught(pairs, teacher, torch.float32, keep)
    assert asked == [False, True]
    longer = replace(pairs, task=pairs.task.writing(Generation(max_new_tokens=3)), _encoded={})
    distillation.taught(longer, teacher, torch.float32, keep)
    assert asked == [False, True, False]


def test_a_student_learns_what_its_teacher_writes(pairs):
    teacher = writer("t5", 1)
    words = Distill(targets="teacher", **{**FAST, "epochs": 2})
    assert words.imitate.labels.weight == 1 and words.imitate.logits is None
    watch = Watch("1-distill")
    distillation.distill(writer("t5"), words, data=pairs, teacher=teacher, watch=watch)
    assert set(watch.log.records[0]["terms"]) == {"labels"}


# --------------------------------------------------------------------------------------------------------- refused


def test_texts_that_are_too_long_are_cut_and_counted(pairs):
    pupil = writer("bart")
    short = replace(pairs, words=Data(source="made", max_length=5, target_length=4), _encoded={})
    held = pupil.encode(short, "train")
    assert held.lengths.max() == 5 and held.targets.lengths.max() == 4
    longer = sum(len(text.split()) + 2 > 4 for text in short.train.labels)
    assert held.cut_targets == longer > 0
    assert short.truncated == {"train": held.truncated, "train, to write": longer}
    assert (held.targets.values[held.targets.offsets[1:] - 1] == 3).all()


def test_the_prefix_stands_before_each_text(pairs):
    pupil, told = writer("t5"), make_pairs(prefix="the movie ")
    plain, led = pupil.encode(pairs, "test"), pupil.encode(told, "test")
    first = pupil.tokenizer.decode(led.tokens[0], skip_special_tokens=True)
    assert first == "the movie " + pupil.tokenizer.decode(plain.tokens[0], skip_special_tokens=True)


def test_a_decoder_needs_a_start_and_an_end(pairs):
    pupil = writer("t5")
    pupil.model.config.decoder_start_token_id = None
    with pytest.raises(CheckpointError, match="no decoder_start_token_id"):
        pupil.encode(pairs, "train")
    pupil = writer("bart", eos_token_id=1)
    with pytest.raises(CheckpointError, match=r"ends texts with the token 3.*has 1 for eos_token_id.*never end"):
        pupil.encode(replace(pairs, _encoded={}), "train")
    pupil = writer("bart")
    pupil.model.generation_config.eos_token_id = None
    with pytest.raises(CheckpointError, match=r"the model's generation config has nothing for eos_token_id.*never end"):
        pupil.encode(replace(pairs, _encoded={}), "train")
    pupil = writer("bart")
    pupil.tokenizer.pad_token = None
    with pytest.raises(CheckpointError, match="no pad token"):
        pupil.encode(replace(pairs, _encoded={}), "train")


def test_an_empty_text_to_write_is_refused_with_its_row(tmp_path):
    path = write_lines(tmp_path / "lines.csv", 12)
    path.write_text(path.read_text() + "nothing to say,   \n")
    with pytest.raises(DataError, match=r"data.label: row 12 of train has an empty text to write"):
        load_data(Data(source=str(path)), task="translation")


# ------------------------------------------------------------------------------------------------------- the ledger


def test_texts_that_do_not_end_are_counted_and_said(pairs, caplog):
    from distill.evaluation.writing import warn_of_unended

    cut = pairs.task.read_back([[5] * 8, [5, 6, 3], [3]], make_tokenizer())
    assert cut[:, 1].tolist() == ["cut off", "", ""] and cut[2, 0] == ""
    assert pairs.task.unended(cut) == pytest.approx(1 / 3)
    warn_of_unended("student", 1 / 3, pairs.task)
    assert "33.3 % of the texts have generation.max_new_tokens = 8" in caplog.text


def test_a_ledger_of_writers_tells_speed_and_what_is_the_teachers_own(pairs, without_memory):
    pupil = writer("t5", 1, num_decoder_layers=1)
    timing = settings.Timing(batch=[1, 2], rounds=3, new_tokens=6)
    ledger = evaluate({"teacher": writer("t5"), "twin": writer("t5"), "student": pupil}, data=pairs, timing=timing)
    teacher, twin, student = ledger.rows
    assert twin.agreement == 1 and teacher.agreement is None and 0 <= student.agreement < 1
    assert all(spent.new_tokens == 6 and spent.tokens_per_second > 0 for row in ledger.rows for spent in row.latency)
    assert all(0 < spent.prefill_ms < spent.p95_ms for spent in teacher.latency)
    head, body = ledger.cells()
    assert "as teacher" in head and head.count("tokens/s") == 2 and {len(line) for line in body} == {len(head)}
    assert [place for _, columns in ledger.groups() for place in columns] == list(range(1, len(head)))
    assert 0 <= teacher.unended <= 1 and list(teacher.scores) == ["chrf", "bleu", "exact_match"]
    assert {sample.read: sample.expected for sample in ledger.samples}.items() <= {
        text: label for (text,), label in zip(pairs.test.texts, pairs.test.labels, strict=True)
    }.items()
    assert all(set(sample.written) == {"teacher", "twin", "student"} for sample in ledger.samples)
    assert all(sample.written["teacher"] == sample.written["twin"] for sample in ledger.samples)


def test_samples_show_texts_as_they_are_and_equal_ones_once():
    from distill.evaluation.writing import Sample
    from distill.report.samples import markdown

    told = markdown([Sample(2, "a\n```\n# b", "c", {"teacher": "d", "other": "e", "student": "d"})])
    assert "## Example 3\n\nreads\n\n````text\na\n```\n# b\n````\n\nexpected" in told
    assert "**teacher**, **student**\n\n```text\nd\n```\n\n**other**" in told
