"""What a recipe can say, and what is said back when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from distill import library
from distill.card import Card, load_card
from distill.errors import RecipeError
from distill.recipe import Bound, Recipe, Settings, load, to_yaml

RECIPE = """\
task: text-classification
teacher: {checkpoint: /teachers/bert}
student: {layers: 2}
data: {source: rows.csv}
steps:
  - distill: {imitate: {logits: 1.0}}
"""


@pytest.fixture
def read(tmp_path):
    """Reads a recipe's text or bytes, with overrides."""

    def load_text(text: str | bytes, *overrides: str) -> Recipe:
        path = tmp_path / "my.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, overrides)

    return load_text


def told(read, text: str | bytes, *overrides: str) -> list[str]:
    """What is wrong with a recipe, without the folder that it lies in."""
    with pytest.raises(RecipeError) as caught:
        read(text, *overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix(f"{Path(problem.split('my.yaml')[0])}/") for problem in caught.value.problems]


def all_settings(kind: type[Settings] = Settings) -> list[type[Settings]]:
    return [found for sub in kind.__subclasses__() for found in (sub, *all_settings(sub))]


# --------------------------------------------------------------------------------------------- unknown words


@pytest.mark.parametrize(
    ("old", "new", "where", "nearest"),
    [
        ("student: {layers", "student: {layres", "my.yaml:3: student.layres", "layers"),
        ("{source", "{sorce", "my.yaml:4: data.sorce", "source"),
        ("- distill:", "- distil:", "my.yaml:6: steps.0.distil", "distill"),
        ("{logits", "{logit", "my.yaml:6: steps.0.distill.imitate.logit", "logits"),
        ("{logits: 1.0}", "{logits: {wieght: 1.0}}", "my.yaml:6: steps.0.distill.imitate.logits.wieght", "weight"),
        ("}}\n", "}, temprature: 2}\n", "my.yaml:6: steps.0.distill.temprature", "temperature"),
        ("task:", "sead: 1\ntask:", "my.yaml:1: sead", "seed"),
        ("task:", "expect: {retaind: at least 1}\ntask:", "my.yaml:1: expect.retaind", "retained"),
    ],
)
def test_a_mistyped_setting_is_named_by_path_and_line_with_the_nearest_word(read, old, new, where, nearest):
    assert RECIPE.count(old) == 1
    problems = told(read, RECIPE.replace(old, new))
    assert any(
        line.startswith(f"{where}: no such setting; did you mean '{nearest}'? (known here: ") for line in problems
    )


def test_a_word_that_is_like_none_gets_the_known_ones_only(read):
    (problem,) = told(read, RECIPE + "wandb: offline\n")
    assert problem.startswith("my.yaml:7: wandb: no such setting (known here: task, metric, teacher,")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RECIPE.replace("text-classification", "text-clasification"), "did you mean 'text-classification'?"),
        (RECIPE + "  - quantize: {weights: int2}\n", 'steps.1.quantize.weights: "int2" is not known here'),
        (RECIPE.replace("}}\n", "}, schedule: cosin}\n"), "did you mean 'cosine'? (known: linear, cosine, constant)"),
    ],
)
def test_an_unknown_choice_is_answered_with_the_known_ones(read, text, expected):
    (problem,) = told(read, text)
    assert expected in problem


def test_every_problem_is_told_at_once(read):
    text = RECIPE.replace("layers: 2", "layers: 0").replace("1.0", "-1").replace("rows.csv", "rows.csv, limit: 3")
    problems = told(read, text + "seed: -1\n")
    assert [problem.split(":")[1:3] for problem in problems] == [
        ["3", " student.layers"],
        ["4", " data.limit"],
        ["6", " steps.0.distill.imitate.logits.weight"],
        ["7", " seed"],
    ]


@pytest.mark.parametrize("section", ["task", "teacher", "student", "data", "steps"])
def test_a_missing_section_is_required(read, section):
    lines = [line for line in RECIPE.splitlines() if not line.startswith(section)]
    if section == "steps":
        lines.pop()
    assert told(read, "\n".join(lines)) == [f"my.yaml: {section}: this setting is required"]


# ------------------------------------------------------------------------------------------- types and ranges


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seed='1'", "seed: this should be a valid integer"),
        ("seed=1.5", "seed: this should be a valid integer"),
        ("seed=true", "seed: this should be a valid integer"),
        ("seed=4294967296", "seed: this should be less than 4294967296"),
        ("student=3", "--set student: this holds settings of its own, as in {word: value}, not 3"),
        ("student=null", "student: "),
        ("student.layers=true", "student.layers: this should be a valid integer"),
        ("student.layers=0", "student.layers: keep at least one layer"),
        ("student.layers=[]", "student.layers: keep at least one layer"),
        ("student.layers=[3, 2]", "student.layers: layers are counted from 1 and listed in rising order, each once"),
        ("student.layers=[0, 2]", "student.layers: layers are counted from 1"),
        ("student.layers=[2, 2]", "student.layers: layers are counted from 1"),
        ("student.config={hidden_size: 3}", "student: make the student from one of: `layers`, `checkpoint`, `config`"),
        ("student={config: {hidden_size: 3}}", "student: `config` needs a `model_type`, such as bert"),
        ("student.revision=main", "student: `revision` belongs to `checkpoint`"),
        ("teacher.card=minilm-l6", "teacher: name the teacher by `card` or by `checkpoint`"),
        ("teacher={}", "teacher: name the teacher by `card` or by `checkpoint`"),
        ("teacher={card: minilm-l6, revision: main}", "teacher: `revision` belongs to `checkpoint`"),
        ("data.text=[a, b, c]", "data.text: one text column, or a list of two"),
        ("data.text=[]", "data.text: one text column, or a list of two"),
        ("data.label=[]", "--set data.label: name a column, or a list of them"),
        ("data.text=label", "data: column 'label' is a text and the label, so a model would read the answer"),
        ("ship={formats: onnx}", '--set ship.formats: this is a list, such as [onnx], not "onnx"'),
        ("timing.batch=1", "--set timing.batch: this is a list, such as [1], not 1"),
        ("steps=[]", "--set steps: this list holds at least 1, not []"),
        ("track.country=Germany", '--set track.country: "Germany" is not of this form: ISO code of three capital'),
        ("steps=[{quantize: {group: 30}}]", "30 is not known here (known: 16, 32, 64)"),
        ("timing.new_tokens=8", "timing.new_tokens: text-classification has no use for it"),
        ("data.validation=1", "data.validation: this should be less than 1"),
        ("data.test=0.0", "data.test: this should be greater than 0"),
        ("data.max_length=3", "data.max_length: this should be greater than or equal to 4"),
        ("data.source={}", "data.source: say where the data is"),
        ("data.source={hub: a/b, path: c}", "data.source: `hub` stands alone"),
        ("data.source={path: c, config: sst2}", "data.source: `config` belongs to `hub`"),
        ("data.source={path: c, first: 1000}", "data.source: `first` belongs to `hub`"),
        ("data.source.encoding=utf-9", "data.source.encoding: Python knows no encoding 'utf-9'"),
        ("data.source.encoding=[utf-8, nope]", "data.source.encoding: Python knows no encoding 'nope'"),
        ("data.source.encoding=[]", "data.source.encoding: name an encoding, such as utf-8"),
        ("steps.0.distill.imitate.logits={weight: 1, beta: 0.5}", "`beta` belongs to `loss: js`, not to kl"),
        ("steps=quantize", "steps: this is a list, such as [quantize], not"),
        ("steps=[]", "steps: "),
        ("steps.0=3", "steps.0: this holds settings of its own, as in {word: value}, not 3"),
        ("steps.0=null", "--set steps.0: this holds settings of its own, as in {word: value}, not nothing"),
        ("steps.0={}", "steps.0: a step is exactly one of: finetune, distill, prune, quantize"),
        (
            "steps.0={distill: {}, finetune: {}}",
            "steps.0: a step is exactly one of: finetune, distill, prune, quantize",
        ),
        ("steps.0.distill.epochs=0", "steps.0.distill.epochs: this should be greater than 0"),
        ("steps.0.distill.epochs=many", "steps.0.distill.epochs: this should be a valid number"),
        ("steps.0.distill.epochs=.inf", "steps.0.distill.epochs: this should be a finite number"),
        ("steps.0.distill.temperature=.nan", "steps.0.distill.temperature: this should be a finite number"),
        ("steps.0.distill.learning_rate=1", "steps.0.distill.learning_rate: this should be less than 1"),
        (
            "steps.0.distill.imitate={labels: 1}",
            "steps.0.distill.imitate: give `logits`, `hidden_states`, `attentions` or `relations` a weight",
        ),
        (
            "steps.0.distill.imitate={}",
            "steps.0.distill.imitate: give `logits`, `hidden_states`, `attentions` or `relations` a weight",
        ),
        ("timing.batch=[0]", "timing.batch: a batch holds at least one example"),
        ("timing.rounds=2", "timing.rounds: this should be greater than or equal to 3"),
        ("seed=2020-01-01", "only words, numbers, lists and settings belong in here"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(read, setting, expected):
    problems = told(read, RECIPE, setting)
    assert any(expected in problem for problem in problems), problems


def test_a_setting_of_several_forms_complains_once_and_says_the_forms(read):
    (problem,) = told(read, RECIPE, "steps.0.distill.imitate.hidden_states={weight: 1, layers: 3}")
    assert "hidden_states.layers: 3 is not known here" in problem
    assert "a list of teacher layers" in problem


# ------------------------------------------------------------------------------------------------ short forms


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("steps.0.distill.imitate={logits: 0.7}", "steps.0.distill.imitate={logits: {weight: 0.7}}"),
        ("steps.0.distill.imitate.hidden_states=2", "steps.0.distill.imitate.hidden_states={weight: 2.0}"),
        ("steps.0.distill.imitate.labels=0.1", "steps.0.distill.imitate.labels={weight: 0.1}"),
        ("steps=[quantize]", "steps=[{quantize: {weights: int8}}]"),
        ("steps=[{quantize: }]", "steps=[{quantize: {}}]"),
        ("steps=[distill]", "steps=[{distill: {imitate: {logits: {weight: 1.0}}}}]"),
        ("teacher=minilm-l6", "teacher={card: minilm-l6}"),
        ("data.source=other.csv", "data.source={path: other.csv}"),
    ],
)
def test_a_short_form_means_the_long_one(read, short, long):
    assert read(RECIPE, short) == read(RECIPE, long)


def test_settings_are_frozen(read):
    with pytest.raises(ValidationError, match="frozen"):
        read(RECIPE).seed = 3


# ------------------------------------------------------------------------------------------------------- YAML


def test_yaml_is_1_2_so_off_is_a_word_and_5e_5_a_number(read):
    recipe = read(RECIPE, "data.label=off", "data.text=[yes, no]", "steps.0.distill.learning_rate=5e-5")
    assert recipe.data.label == "off"
    assert recipe.data.text == ["yes", "no"]
    assert recipe.steps[0].distill.learning_rate == 0.00005


def test_a_byte_order_mark_is_no_matter(read):
    assert read(b"\xef\xbb\xbf" + RECIPE.encode()) == read(RECIPE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RECIPE + "seed: 1\nseed: 2\n", 'my.yaml:8: not valid YAML: found duplicate key "seed"'),
        (
            RECIPE + "seed: !!python/object/apply:os.getpid []\n",
            "my.yaml:7: !!python/object/apply:os.getpid is a YAML tag",
        ),
        (RECIPE + "seed: !mine 3\n", "my.yaml:7: !mine is a YAML tag, and tags are not"),
        (RECIPE + "seed: [1,\n", "my.yaml:8: not valid YAML: "),
        (RECIPE + "\tseed: 1\n", "not valid YAML: "),
        (RECIPE + "---\nseed: 1\n", "not valid YAML: but found another document"),
        (RECIPE + "seed: *nowhere\n", "my.yaml:7: not valid YAML: found undefined alias"),
        ("task: &a [*a]\n", "my.yaml: not valid YAML here: nested too deeply, or an alias inside its own anchor"),
        ("task: &a {b: *a}\n", "my.yaml: not valid YAML here: nested too deeply"),
        ("task: " + "[" * 2000, "my.yaml: not valid YAML here: nested too deeply"),
        ("task: \x00", "my.yaml: not valid YAML: unacceptable character"),
        ("", "my.yaml: expected `word: value` lines, found nothing"),
        ("- a\n- b\n", 'my.yaml: expected `word: value` lines, found ["a", "b"]'),
        ("just words", 'my.yaml: expected `word: value` lines, found "just words"'),
        (b"task: caf\xe9", "my.yaml: not UTF-8 text (byte 9)"),
        (b"#" * (1 << 18) + b"\n", "my.yaml: larger than 256 KiB; this is not a recipe or a card"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() and len(value) < 100 else "",
)
def test_what_is_no_yaml_is_refused_with_its_line(read, text, expected):
    (problem,) = told(read, text)
    assert expected in problem


@pytest.mark.parametrize("layer", ["[{aliases}]", "{{<<: [{aliases}]}}"], ids=["lists", "merges"])
def test_an_alias_bomb_is_refused_before_it_goes_off(read, layer):
    lines = ["a0: &a0 [x, x]" if layer.startswith("[") else "a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} " + layer.format(aliases=", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 20)]
    (problem,) = told(read, "\n".join(lines))
    assert "it holds more than 100000 values, its aliases written out" in problem


def test_an_alias_may_save_writing(read):
    text = RECIPE.replace("{imitate: {logits: 1.0}}", "&again {imitate: {logits: 1.0}}") + "  - distill: *again\n"
    first, second = read(text).steps
    assert first == second


# -------------------------------------------------------------------------------------------------- overrides


def test_overrides_change_make_and_lengthen_settings(read):
    recipe = read(
        RECIPE,
        "seed=9",
        "steps.0.distill.imitate.logits.loss=mse",  # beside the short form's weight
        "data.source.encoding=cp1252",  # beside the short form's path
        "timing.batch=[4]",  # in a section that isn't there yet
        "expect.retained=at least 0.5",
        "teacher.finetune.epochs=2",
        "steps.0.distill.max_steps = 3",
    )
    step = recipe.steps[0].distill
    assert (recipe.seed, recipe.timing.batch, recipe.expect.retained.value) == (9, [4], 0.5)
    assert (step.imitate.logits.loss, step.imitate.logits.weight, step.max_steps) == ("mse", 1.0, 3)
    assert (recipe.data.source.encoding, recipe.data.source.path) == ("cp1252", "rows.csv")
    assert recipe.teacher.finetune.epochs == 2


def test_an_override_lengthens_a_teacher_by_name_and_a_bare_step(read):
    recipe = read(
        RECIPE, "teacher=minilm-l6", "teacher.finetune.epochs=2", "steps=[distill]", "steps.0.distill.epochs=1"
    )
    assert (recipe.teacher.card, recipe.teacher.finetune.epochs, recipe.steps[0].distill.epochs) == ("minilm-l6", 2, 1)


def test_an_override_lengthens_every_short_form(read):
    recipe = read(
        RECIPE, "ship=[onnx]", "ship.hub=me/compact", "data.unlabelled=more.csv", "data.unlabelled.encoding=cp1252",
        "data.further=[a.csv, b.csv]", "data.further.1.encoding=cp1252", "steps.0.distill.signals=64",
        "steps.0.distill.signals.engine=float32", "steps=[{prune: {vocabulary: used}}, quantize]",
        "steps.0.prune.vocabulary.margin=3", "steps.1.quantize.calibration=40",
        "steps.1.quantize.calibration.split=validation",
    )  # fmt: skip
    assert (recipe.ship.formats, recipe.ship.hub) == (["onnx"], "me/compact")
    assert (recipe.data.unlabelled.path, recipe.data.unlabelled.encoding) == ("more.csv", "cp1252")
    assert [(one.path, one.encoding) for one in recipe.data.further] == [("a.csv", "utf-8"), ("b.csv", "cp1252")]
    assert recipe.steps[0].prune.vocabulary.keep == "used"
    calibration = recipe.steps[1].quantize.calibration
    assert (calibration.examples, calibration.split) == (40, "validation")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("student.layers.encoder=1", "--set student.layers.encoder: 'student.layers' holds 2, not settings"),
        ("seed", "--set seed: write it as path.to.setting=value"),
        ("=1", "--set =1: write it as path.to.setting=value"),
        ("data..text=a", "--set data..text=a: write it as path.to.setting=value"),
        ("steps.1.distill.epochs=1", "--set steps.1.distill.epochs: '1' is not a place in the list (it holds 0 to 0)"),
        ("steps.-1=quantize", "--set steps.-1: '-1' is not a place in the list (it holds 0 to 0)"),
        ("steps.²=quantize", "--set steps.²: '²' is not a place in the list (it holds 0 to 0)"),
        ("steps.distill.epochs=1", "--set steps.distill.epochs: 'distill' is not a place in the list"),
        ("student=[", "--set student:1: not valid YAML: "),
        ("stpes.0=quantize", "--set stpes: no such setting; did you mean 'steps'?"),
        ("seed.value=1", "--set seed: this should be a valid integer"),
        ("student.layers=six", "--set student.layers: this should be a valid integer"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(read, override, expected):
    assert told(read, RECIPE, override)[0].startswith(expected)


# -------------------------------------------------------------------------------------- order, bounds, round trip


@pytest.mark.parametrize("after", ["distill", "quantize", "finetune"])
def test_nothing_comes_after_quantize(read, after):
    (problem,) = told(read, RECIPE, f"steps=[distill, quantize, {after}]")
    assert f"--set steps: quantize comes last, but steps.1 is one, and behind it come: {after}" in problem


@pytest.mark.parametrize(
    ("words", "side", "value"),
    [
        ("at least 0.97", "least", 0.97),
        ("at most 2e-1", "most", 0.2),
        ("  at least  1 ", "least", 1.0),
        ("at least -.5", "least", -0.5),
    ],
)
def test_a_bound_reads_as_words(read, words, side, value):
    bound = read(RECIPE, f"expect.score='{words}'").expect.score
    assert (bound.side, bound.value) == (side, value)


@pytest.mark.parametrize(
    "words", ["0.97", "'0.97'", "at least", "at least e", "at least 1.2.3", "least 1", "at best 1", "[1]"]
)
def test_a_bound_that_is_no_bound_is_shown_how_it_is_written(read, words):
    (problem,) = told(read, RECIPE, f"expect.score={words}")
    assert "--set expect.score: write 'at least 0.97' or 'at most 0.2', not " in problem


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.separator=|", "--set data.separator: YAML reads | as nothing; put it in quotes: 'data.separator=\"|\"'"),
        ("data.separator=#", "YAML reads # as nothing"),
        ("data.separator=''", "--set data.separator: "),
        ("data.problem=question_answering", '"question_answering" is not known here'),
        ("data.source.encoding=hex", "'hex' is no encoding of text"),
        ("data.source={package: '', path: x}", "--set data.source.package: "),
    ],
)
def test_what_reads_as_nothing_or_can_not_be_meant_is_refused(read, override, said):
    (problem,) = told(read, RECIPE, override)
    assert said in problem
    assert read(RECIPE, "data.separator='|'").data.separator == "|"


@pytest.mark.parametrize(
    ("word", "bound", "said"),
    [
        ("retained", "at least 97", "write 40 % as 0.4, not 'at least 97'"),
        ("size", "at most 10", "write 40 % as 0.4"),
        ("retained", "at most 0.9", "more of it is better, so write 'at least 0.9', not 'at most 0.9'"),
        ("parameters", "at least 0.5", "less of it is better, so write 'at most 0.5'"),
        ("latency_vs_eager", "at least 1.63", "less of it is better"),
        ("score", "at least 90", None),
        ("latency_same_engine", "at most 99", None),
    ],
)
def test_a_bound_that_nothing_could_miss_or_meet_is_refused(read, word, bound, said):
    if said is None:
        assert str(getattr(read(RECIPE, f"expect.{word}={bound}").expect, word)) == bound
    else:
        (problem,) = told(read, RECIPE, f"expect.{word}={bound}")
        assert problem.startswith(f"--set expect.{word}: ") and said in problem


def test_a_bound_holds_up_to_its_value():
    least, most = Bound(side="least", value=0.5), Bound(side="most", value=0.5)
    assert [least.holds(x) for x in (0.4, 0.5, 0.6)] == [False, True, True]
    assert [most.holds(x) for x in (0.4, 0.5, 0.6)] == [True, True, False]
    assert not least.holds(float("nan"))
    assert not most.holds(float("nan"))
    assert (str(least), str(most)) == ("at least 0.5", "at most 0.5")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("expect={retained: at least 0.97, size: at most 0.2}", "seed=7", "data.note='café: \"€\"'"),
        ("steps=[finetune, distill, quantize]", "data.source={path: a.csv, encoding: [utf-8, cp1252]}"),
        ("steps.0.distill.imitate.hidden_states={weight: 1, layers: {1: 2, 2: 4}}", "data.label=[a, b]"),
        ("student={config: {model_type: bert, layer_norm_eps: 1e-12}}", "steps.0.distill.learning_rate=1e-5"),
        ("data.label='off'", "data.text='1e5'", "data.source={hub: a/b, revision: '0123'}"),
    ],
)
def test_a_recipe_written_out_reads_the_same(read, overrides):
    recipe = read(RECIPE, *overrides)
    assert read(to_yaml(recipe)) == recipe


# ------------------------------------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("name", library.names("recipes"))
def test_every_shipped_recipe_loads_and_reads_the_same_when_written_out(read, name):
    recipe = load(library.find("recipes", name))
    assert read(to_yaml(recipe)) == recipe


@pytest.mark.parametrize("name", library.names("teachers"))
def test_every_shipped_card_loads_with_hashes_and_a_pinned_revision(name):
    card = load_card(name)
    whole = {"config.json", "tokenizer.json"} <= set(card.sha256) or list(card.sha256) == [card.gguf]
    assert whole or (card.hub.revision != "main" and any(file.endswith(".safetensors") for file in card.sha256))
    assert card.hub is None or card.hub.revision


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"sha256": {"config.json": "0" * 64}}, "sha256 lacks model.safetensors"),
        (
            {"folder": None, "hub": {"id": "a/b", "revision": "main"}, "sha256": {"model.safetensors": "0" * 64}},
            "sha256 lacks config.json",
        ),
        (
            {"folder": None, "hub": {"id": "a/b", "revision": "1" * 40}, "sha256": {"config.json": "0" * 64}},
            "sha256 lacks model.safetensors",
        ),
        ({"sha256": {"config.json": "0" * 63, "model.safetensors": "0" * 64}}, "String should match pattern"),
        ({"folder": None}, "say where the checkpoint is: `package`, `hub` or `folder`"),
        ({"family": "decoder"}, "family: a bert is of the kind encoder, not decoder"),
        ({"layers": {"encoder": 2, "decoder": 2}}, "layers: a number, but of an encoder-decoder both sides"),
        ({"family": "encoder-decoder", "model_type": "t5"}, "layers: a number, but of an encoder-decoder both sides"),
        ({"family": "encoder-decoder", "model_type": "bart", "layers": {"encoder": 2}}, "encoder-decoder both sides"),
    ],
)
def test_a_card_says_where_it_is_and_what_it_hashes_to(change, expected):
    facts = {
        "family": "encoder", "model_type": "bert", "layers": 2, "hidden_size": 8, "parameters": 9, "licence": "MIT",
        "source": "here", "folder": "x", "sha256": {"config.json": "0" * 64, "model.safetensors": "0" * 64},
    }  # fmt: skip
    assert Card(**facts).config() == {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 8}
    with pytest.raises(ValidationError, match=expected):
        Card(**{**facts, **change})


def test_a_card_of_an_encoder_decoder_says_both_sides():
    card = Card(
        family="encoder-decoder", model_type="bart", layers={"decoder": 3, "encoder": 12}, hidden_size=8, parameters=9,
        licence="MIT", source="here", folder="x", sha256={"m.gguf": "0" * 64},
    )  # fmt: skip
    told = {"model_type": "bart", "d_model": 8, "encoder_layers": 12, "decoder_layers": 3}
    assert card.config() == told and card.gguf == "m.gguf"


@pytest.mark.parametrize("kind", all_settings(), ids=lambda kind: kind.__name__)
def test_every_setting_is_described(kind):
    if kind is not Bound:
        assert not [name for name, field in kind.model_fields.items() if not field.description]
