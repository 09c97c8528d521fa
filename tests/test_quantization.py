"""Fewer bits: the rounding against numbers worked out another way, graphs in which no text hangs on another, and
sensitive layers that stay in more bits.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import load_tiny
from onnx import TensorProto, helper, numpy_helper

from distill import Quantize, export, quantization, recipe
from distill.data import Encoded, Ragged
from distill.engines import OnnxRuntime, answer_all, open_session
from distill.errors import RecipeError
from distill.quantization import arithmetic, calibration, choosing, judging
from distill.quantization.calibration import calibrate
from distill.quantization.choosing import choose
from distill.quantization.lowering import Plan, lower
from distill.quantization.products import lookups_of, products_of
from distill.tasks import restored

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert", "electra", "mpnet", "albert"])
def graph(request, tmp_path_factory):
    """A checkpoint of each kind of encoder with its fp32 graph."""
    folder = tmp_path_factory.mktemp(request.param)
    layers = "n_layers" if request.param == "distilbert" else "num_hidden_layers"
    # wide enough a vocabulary that its table is worth rounding
    checkpoint = load_tiny(folder / "model", request.param, vocab_size=300, **{layers: 2})
    return checkpoint, export.export(checkpoint, folder / "model.onnx")


def plan_of(path: Path, precision: str, ranges=None, **more) -> Plan:
    return Plan({product.name: precision for product in products_of(ir.load(path).graph)}, ranges or {}, **more)


def random_batch(rows: int, tokens: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, tokens + 1, size=rows)
    lengths[0] = tokens
    real = np.arange(tokens) < lengths[:, None]
    ids = np.where(real, rng.integers(5, 48, size=(rows, tokens)), 0)
    return {"input_ids": ids, "attention_mask": real.astype(np.int64), "token_type_ids": np.zeros_like(ids)}


# ------------------------------------------------------------------------------------- arithmetic


def test_weights_by_column_are_the_nearest_integers_of_their_columns_scale():
    weight = RNG.normal(size=(20, 5)).astype(np.float32) * np.array([1, 10, 0.1, 3, 0], np.float32)
    integers, scales = arithmetic.by_column(weight)
    for column in range(4):
        assert scales[column] == pytest.approx(max(abs(weight[:, column])) / 127)
        assert np.abs(integers[:, column]).max() == 127
        wanted = [round(float(number) / float(scales[column])) for number in weight[:, column]]
        assert integers[:, column].tolist() == wanted
    assert not integers[:, 4].any() and np.isfinite(scales).all()


@pytest.mark.parametrize(("bits", "block"), [(8, 16), (8, 128), (4, 16), (4, 32)])
def test_blocks_are_within_half_a_step_of_what_they_stand_for(bits, block):
    weight = RNG.normal(size=(6, 40)).astype(np.float32)
    integers, scales = arithmetic.in_blocks(weight, bits, block)
    blocks = -(-40 // block)
    assert integers.shape == (6, blocks, block) and scales.shape == (6, blocks)
    back = ((integers.astype(float) - 2 ** (bits - 1)) * scales[..., None]).reshape(6, -1)
    assert back[:, 40:] == pytest.approx(0)
    inside = np.abs(back[:, :40] - weight)
    if bits == 8:
        assert (inside <= np.repeat(np.abs(scales), block, 1)[:, :40] * 0.5001).all()
    naive = np.abs(weight).max() / (2 ** (bits - 1) - 1)  # one scale for all
    assert np.square(inside).mean() < np.square(np.rint(weight / naive) * naive - weight).mean()


def test_four_bits_leave_less_error_than_scaling_by_the_largest_value():
    weight = RNG.normal(size=(64, 128)).astype(np.float32)
    integers, scales = arithmetic.in_blocks(weight, 4, 32)
    found = np.square((integers.astype(float) - 8) * scales[..., None] - weight.reshape(64, 4, 32)).sum()
    by_largest = np.abs(weight.reshape(64, 4, 32)).max(-1, keepdims=True) / 7
    plain = np.square(np.rint(weight.reshape(64, 4, 32) / by_largest) * by_largest - weight.reshape(64, 4, 32)).sum()
    assert found < 0.95 * plain


def test_two_numbers_of_four_bits_share_a_byte_the_first_in_the_low_half():
    assert arithmetic.packed(np.array([[1, 2, 15, 0]], np.uint8), 4).tolist() == [[0x21, 0x0F]]
    assert arithmetic.packed(np.array([[1, 200]], np.uint8), 8).tolist() == [[1, 200]]


def test_a_range_holds_zero_and_cuts_off_what_costs_more_than_it_brings():
    ordinary = RNG.normal(size=(500, 4)).astype(np.float32)
    low, high = arithmetic.activation_range(ordinary, np.ones(4))
    assert low < -2 and high > 2
    outlying = ordinary.copy()
    outlying[0, 3] = 1000.0  # met by weights of nothing
    cut = arithmetic.activation_range(outlying, np.array([1, 1, 1, 0.0]))
    assert cut[1] < 1000
    assert arithmetic.activation_range(np.full((3, 2), 5, np.float32), np.ones(2))[0] == 0


@pytest.mark.parametrize("limits", [(-1.0, 3.0), (0.0, 2.0), (-4.0, 0.0), (0.0, 0.0)])
def test_a_zero_point_stands_for_zero(limits):
    scale, zero = arithmetic.scale_of(*limits)
    assert scale > 0 and 0 <= int(zero) <= 255
    assert (0 - float(zero)) * float(scale) == pytest.approx(limits[0], abs=1.01 * float(scale) + 1e-8)
    assert (255 - float(zero)) * float(scale) == pytest.approx(limits[1], abs=1.01 * float(scale) + 1e-8)


# ------------------------------------------------------------------------------------- graphs


def test_every_weight_of_a_graph_is_found_once_with_its_bias(graph):
    checkpoint, path = graph
    model = ir.load(path)
    products = products_of(model.graph)
    names = [product.name for product in products]
    assert len(set(names)) == len(names)
    matrices = [
        p
        for name, p in checkpoint.model.named_parameters()
        if p.dim() == 2 and "embeddings." not in name and "relative_attention" not in name
    ]
    if checkpoint.model.config.model_type != "albert":  # whose layers share one set
        assert sorted(product.weight.size for product in products) == sorted(p.numel() for p in matrices)
    assert sum(product.bias is not None for product in products) >= len(products) - 1
    assert next(lookup.table.shape for lookup in lookups_of(model.graph))[0] == 300


@pytest.mark.parametrize(("precision", "table_bits"), [("static", 8), ("token", 8), ("token4", 4)])
def test_a_logit_hangs_on_no_other_text_of_its_batch(graph, data, tmp_path, precision, table_bits):
    checkpoint, path = graph
    ranges = calibrate(path, checkpoint.encode(data, "train"), 0) if precision == "static" else {}
    lower(path, tmp_path / "small.onnx", plan_of(path, precision, ranges, table_bits=table_bits))
    engine = OnnxRuntime(tmp_path / "small.onnx")
    for seed in range(3):
        batch = random_batch(rows=7, tokens=20, seed=seed)
        together = engine.answer(batch)
        for row in range(7):
            length = int(batch["attention_mask"][row].sum())
            alone = engine.answer({name: array[row : row + 1, :length] for name, array in batch.items()})
            other = random_batch(rows=7, tokens=20, seed=seed + 100)
            among = {name: np.concatenate([array[row : row + 1], other[name][1:]]) for name, array in batch.items()}
            assert np.array_equal(engine.answer(among)[0], together[row])
            # padding may turn the last bit of a float, and that a rounding: a step of one activation, no more
            assert alone[0] == pytest.approx(together[row], abs=0.02 * float(np.abs(together).max()))


@pytest.mark.parametrize(
    ("precision", "table_bits", "near"), [("static", 8, 0.1), ("token", 8, 0.3), ("token4", 4, 0.5)]
)
def test_fewer_bits_answer_nearly_what_fp32_answers(graph, data, tmp_path, precision, table_bits, near):
    checkpoint, path = graph
    held = checkpoint.encode(data, "test")
    exact = answer_all(OnnxRuntime(path), held)
    ranges = calibrate(path, checkpoint.encode(data, "train"), 0) if precision == "static" else {}
    lower(path, tmp_path / "small.onnx", plan_of(path, precision, ranges, table_bits=table_bits))
    found = answer_all(OnnxRuntime(tmp_path / "small.onnx"), held)
    assert 0 < np.abs(found - exact).max() < near * np.abs(exact).max()


@pytest.mark.parametrize(("rungs", "near"), [(("static", "token", "fp32"), 0.3), (("token4", "token"), 0.8)])
def test_products_of_several_precisions_share_a_graph_and_where_layers_do_a_weight(graph, data, tmp_path, rungs, near):
    checkpoint, path = graph
    held, ranges = checkpoint.encode(data, "test"), {}
    if "static" in rungs:
        ranges = calibrate(path, checkpoint.encode(data, "train"), 0)
    products = [product.name for product in products_of(ir.load(path).graph)]
    plan = Plan({name: rungs[place % len(rungs)] for place, name in enumerate(products)}, ranges, group=64)
    lower(path, tmp_path / "small.onnx", plan)
    exact, found = (answer_all(OnnxRuntime(at), held) for at in (path, tmp_path / "small.onnx"))
    assert 0 < np.abs(found - exact).max() < near * np.abs(exact).max()


def test_a_graph_whose_weights_lie_beside_it_is_rounded_as_any_and_needs_them_no_more(
    bert, data, quantized, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
    monkeypatch.setattr("distill.quantization.lowering._LARGEST", 1000)
    folder = quantization.quantize(bert, Quantize(), data=data, folder=tmp_path / "large")
    assert {"model.onnx.data", "model_int8.onnx.data"} <= {path.name for path in folder.iterdir()}
    (folder / "model.onnx.data").unlink()
    held = bert.encode(data, "test")
    found, expected = (answer_all(OnnxRuntime(at / "model_int8.onnx"), held) for at in (folder, quantized))
    assert np.array_equal(found, expected)


def test_a_static_graph_spends_one_node_a_product_and_none_on_sums_and_biases(bert, data, quantized):
    nodes = Counter(node.op_type for node in onnx.load(quantized / "model_int8.onnx").graph.node)
    assert nodes["MatMulIntegerToFloat"] == 4 * 6 + 2
    assert nodes["SkipLayerNormalization"] == 2 * 4
    assert not {"MatMul", "Gemm", "DynamicQuantizeLinear", "Transpose"} & set(nodes)
    before = len(onnx.load(quantized / "model.onnx").graph.node)
    assert sum(nodes.values()) < before


def test_int8_weights_are_a_quarter_of_the_bytes_and_have_a_scale_an_output(quantized, bert):
    found = {t.name: t for t in onnx.load(quantized / "model_int8.onnx").graph.initializer}
    weights = {name: t for name, t in found.items() if name.endswith(".int8") and t.data_type == TensorProto.INT8}
    assert len(weights) == 4 * 6 + 2
    assert sum(numpy_helper.to_array(t).nbytes for t in weights.values()) == sum(
        p.numel() for name, p in bert.model.named_parameters() if p.dim() == 2 and "embeddings." not in name
    )
    for name, tensor in weights.items():
        scales = found[name.removesuffix("int8") + "scales"]
        assert list(scales.dims) == [tensor.dims[1]]


def test_a_wide_vocabularys_table_has_a_scale_a_row(graph, tmp_path):
    _, path = graph
    lower(path, tmp_path / "small.onnx", plan_of(path, "fp32"))
    found = {t.name: t for t in onnx.load(tmp_path / "small.onnx").graph.initializer}
    (name,) = [name for name in found if "word_embeddings" in name and name.endswith(".int8")]
    assert found[name].data_type == TensorProto.UINT8
    assert list(found[name.removesuffix("int8") + "scales"].dims) == [300, 1]


def test_ranges_leave_padding_out(bert, data, quantized, monkeypatch):
    path = quantized / "model.onnx"
    texts = bert.encode(data, "train").take(np.arange(20))  # so few that every token is looked at
    assert len(set(texts.lengths)) > 3
    padded = calibrate(path, texts, 0)
    monkeypatch.setattr(calibration, "_BATCH", 1)
    alone = calibrate(path, texts, 0)
    for name, limits in padded.items():
        assert limits == pytest.approx(alone[name], rel=1e-4, abs=1e-6), name
    assert all(low <= 0 <= high and low < high for low, high in padded.values())


def test_sums_of_the_largest_weights_are_exact_on_every_processor(tmp_path):
    weight = numpy_helper.from_array(np.ones((64, 16), np.float32), "wide.weight")
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", c]) for n, c in (("x", 64), ("y", 16)))
    product = helper.make_node("MatMul", ["x", "wide.weight"], ["y"])
    graph = helper.make_graph([product], "one", [given], [made], [weight])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "one.onnx"
    )
    lower(tmp_path / "one.onnx", tmp_path / "small.onnx", Plan({"wide": "static"}, {"wide": (0.0, 1.0)}))
    assert [node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node] == [
        "QuantizeLinear", "MatMulIntegerToFloat",
    ]  # fmt: skip
    (found,) = open_session(tmp_path / "small.onnx").run(None, {"x": np.ones((2, 64), np.float32)})
    assert found == pytest.approx(64, rel=1e-5)  # 64 times 255 · 127: without VNNI every second sum overflows 16 bits


# ------------------------------------------------------------------------------------- sensitive layers


def test_nothing_is_left_in_more_bits_where_nothing_changes(bert, data, quantized):
    told = quantization.read_parity(quantized)["onnx-int8"]
    assert told["in_more_bits"] == [] and told["products"] == {"static": 26}


def test_the_layer_whose_ranges_are_ruined_is_found_and_left_in_more_bits(bert, data, quantized, tmp_path, caplog):
    path, held = quantized / "model.onnx", bert.encode(data, "validation")
    ranges = dict(calibrate(path, bert.encode(data, "train"), 0))
    products = products_of(ir.load(path).graph)
    ruined = next(p for p in products if p.name.endswith("layer.2.intermediate.dense"))
    ranges[ruined.name] = (-1e-3, 1e-3)
    lower(path, tmp_path / "right.onnx", plan_of(path, "static", calibrate(path, bert.encode(data, "train"), 0)))
    usual = np.abs(answer_all(OnnxRuntime(tmp_path / "right.onnx"), held) - answer_all(OnnxRuntime(path), held)).max()

    def far(found: np.ndarray, expected: np.ndarray) -> float:
        return float(np.abs(found - expected).max() > 1.5 * usual)

    with caplog.at_level(logging.INFO, "distill"):
        choice = choose(path, plan_of(path, "static", ranges), held, data.task, far, 0.0)
    assert choice.kept == (ruined.name,) and choice.changed == 0
    assert choice.plan.products[ruined.name] == "token"
    assert sum(precision != "static" for precision in choice.plan.products.values()) == 1


@pytest.mark.parametrize(("number", "tries"), [(48, 48), (169, 13 + 4 * 13)])
def test_many_products_are_ranked_by_groups_and_the_worst_groups_one_by_one(number, tries):
    harm = {f"product.{i}": 1.0 for i in range(number)} | {"product.30": 90.0, "product.2": 50.0, "product.47": 70.0}
    tried: list[list[str]] = []

    def moved_by(plan: Plan) -> float:
        tried.append([name for name, precision in plan.products.items() if precision == "static"])
        return sum(harm[name] for name in tried[-1])

    plan = Plan(dict.fromkeys(harm, "static"), {}, 8, 32)
    ranked = choosing._ranked(plan, moved_by)
    assert ranked[:3] == ["product.30", "product.47", "product.2"] and sorted(ranked) == sorted(harm)
    assert len(tried) == tries and all(tried)


def test_products_are_ranked_on_so_many_tokens(bert, data, monkeypatch):
    held = bert.encode(data, "validation")
    monkeypatch.setattr(choosing, "_RANKED_TOKENS", int(held.work[:15].sum()))
    some = choosing._some(held)
    assert 8 < len(some) < len(held) and some.work.sum() <= held.work[:15].sum()
    assert some.labels.tolist() != held.labels[: len(some)].tolist()  # rows may stand class by class
    monkeypatch.setattr(choosing, "_RANKED_TOKENS", 1)
    assert len(choosing._some(held)) == 8
    monkeypatch.setattr(choosing, "_RANKED_TOKENS", 10**6)
    assert len(choosing._some(held)) == min(64, len(held))
    assert len(choosing._some(held.take(np.arange(3)))) == 3


def test_every_plan_is_judged_on_all_validation_texts_though_fewer_rank_the_layers(bert, data, quantized, monkeypatch):
    path, held = quantized / "model.onnx", bert.encode(data, "validation").take(np.arange(6))
    monkeypatch.setattr(choosing, "_RANKED_ON", 2)
    seen = []

    def judge(found: np.ndarray, expected: np.ndarray) -> float:
        seen.append((len(found), len(expected)))
        return 0.0 if len(seen) == 2 else 1.0  # the second is that of the tables alone

    choose(path, plan_of(path, "token"), held, data.task, judge, 0.0)
    assert len(seen) > 2 and set(seen) == {(6, 6)}


def test_what_no_precision_mends_ends_with_the_best_that_was_found(bert, data, quantized):
    path, held = quantized / "model.onnx", bert.encode(data, "validation").take(np.arange(6))
    shares = iter([0.5, 0.0, 0.4, 0.2, 0.3] + [0.9] * 20)  # the second is that of the tables alone
    choice = choose(path, plan_of(path, "token"), held, data.task, lambda *_: next(shares), 0.0)
    assert choice.changed == 0.2 and len(choice.kept) == 2
    assert [choice.plan.products[name] for name in choice.kept] == ["fp32", "fp32"]


def test_what_stays_in_more_bits_counts_what_an_earlier_rung_raised(bert, data, quantized):
    path, held = quantized / "model.onnx", bert.encode(data, "validation").take(np.arange(6))
    ranges = calibrate(path, bert.encode(data, "train"), 0)
    shares = iter(
        [0.5, 0.0, *[0.5] * 6, 0.0]
    )  # of the tables alone nothing; nothing helps until all go by token and one in fp32
    choice = choose(path, plan_of(path, "static", ranges), held, data.task, lambda *_: next(shares), 0.0)
    became = Counter(choice.plan.products.values())
    assert became == {"fp32": 1, "token": 25} and len(choice.kept) == 26


def test_what_the_tables_change_is_told_and_asks_for_no_more_bits_elsewhere(bert, data, quantized, caplog):
    path, held = quantized / "model.onnx", bert.encode(data, "validation").take(np.arange(6))
    plan = plan_of(path, "token", table_bits=4)
    shares = iter([0.06, 0.05])
    choice = choose(path, plan, held, data.task, lambda *_: next(shares), 0.01)
    assert choice.kept == () and choice.changed == 0.06
    assert "the embedding tables alone, to 4 bits, changes 5.0 % of the answers" in caplog.text
    assert "`embeddings: int8`" in caplog.text
    shares = iter([0.07, 0.05, 0.065, 0.06])  # too much even beside that, so products are looked at
    choice = choose(path, plan, held, data.task, lambda *_: next(shares), 0.01)
    assert len(choice.kept) == 2 and choice.changed == 0.06


# ------------------------------------------------------------------------------------- the step


@pytest.mark.parametrize("words", [{"activations": "token"}, {"weights": "int4"}, {"embeddings": "int4"}])
def test_the_step_writes_what_its_words_say(bert, data, tmp_path, words):
    settings = Quantize(**words, changed=1.0)
    folder = quantization.quantize(bert, settings, data=data, folder=tmp_path / "small")
    form = f"onnx-{settings.weights}"
    nodes = Counter(node.op_type for node in onnx.load(folder / f"model_{settings.weights}.onnx").graph.node)
    assert ("MatMulNBits" in nodes) == (words != {"embeddings": "int4"})
    parity = quantization.read_parity(folder)
    assert set(parity) >= {"torch", "onnx-fp32", form} and parity[form]["agreement"] > 0.5
    assert sum(parity[form]["products"].values()) == 26
    assert parity[form]["changed"] == pytest.approx(1 - parity[form]["agreement"], abs=0.02)


@pytest.mark.parametrize("name", ["causal_language_modelling", "text_to_text"])
def test_where_tokens_are_foretold_a_change_is_the_growth_of_perplexity(name):
    """Whatever the loss is: by a hundredth of a nat a token it grows by a hundredth."""
    task = restored(name, ())
    before = np.array([[300.0, 100, 400, 40], [20.0, 20, 80, 10]])
    after = before + np.array([[1.0, 0, 0, 0], [0.2, 0, 0, 0]])
    grown = np.exp(321.2 / 120) / np.exp(320 / 120) - 1
    assert judging.changed(task, after, before, 0.5) == pytest.approx(grown)
    if not task.generates:
        assert task.score(after, np.zeros(2)) / task.score(before, np.zeros(2)) - 1 == pytest.approx(grown)
    assert judging.changed(task, before, after, 0.5) == 0
    assert judging.says(task, grown) == "raises perplexity by 1.0 %"
    for broken in (np.nan, np.inf):
        assert judging.changed(task, before * [broken, 1, 1, 1], before, 0.5) == np.inf
    assert np.isfinite(judging.changed(task, before * 1e6, before, 0.5))


def test_calibration_on_the_test_split_is_refused_by_its_path(recipe_file):
    with pytest.raises(
        RecipeError, match=r"steps.0.quantize.calibration.split: .*must not see the examples that score"
    ):
        recipe.load(recipe_file(steps=[{"quantize": {"calibration": {"split": "test"}}}]))
    assert Quantize(calibration=64).calibration.examples == 64


def test_products_that_share_a_bias_keep_their_own_weights():
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(4, 4)).astype(np.float32) for _ in range(2))
    held = [numpy_helper.from_array(array, name) for name, array in (("a", first), ("b", second))]
    held.append(numpy_helper.from_array(np.zeros(4, np.float32), "norm.bias"))
    nodes = []
    for given, weight, made in (("x", "a", "y"), ("y", "b", "z")):
        nodes.append(onnx.helper.make_node("MatMul", [given, weight], [f"{made}.sum"]))
        nodes.append(onnx.helper.make_node("Add", [f"{made}.sum", "norm.bias"], [made]))
    told = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4]) for name in "xz"]
    graph = onnx.helper.make_graph(nodes, "shared", told[:1], told[1:], held)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])
    found = products_of(ir.from_proto(model).graph)
    assert [product.stored for product in found] == ["norm", "norm#2"]
    assert np.array_equal(found[1].weight, second)


def test_ranges_of_a_decoder_are_of_what_it_writes(monkeypatch):
    """Long texts to read don't thin out what is looked at of short texts to write."""
    rng = np.random.default_rng(0)
    source, targets = ([rng.integers(5, 40, length) for _ in range(64)] for length in (512, 16))
    texts = Encoded(
        ids=np.concatenate(source), types=None, offsets=np.arange(65) * 512, labels=np.zeros(64), pad=0, truncated=0,
        targets=Ragged.of(targets), decoder_start=0,
    )  # fmt: skip

    class Session:
        def run(self, names, feed):
            places = np.broadcast_to(np.arange(16.0)[:, None], (*feed["labels"].shape, 1))
            return [places] * len(names)

    monkeypatch.setattr(calibration, "_feed", lambda session, encoder, batch: batch)
    monkeypatch.setattr(calibration, "_MOST", 1024)  # as many as there are
    found = calibration._watch(Session(), object(), ["a"], texts, rng)["a"]
    assert np.bincount(found[:, 0].astype(int), minlength=16).tolist() == [64] * 16
    monkeypatch.setattr(calibration, "_MOST", 8)
    found = calibration._watch(Session(), object(), ["a"], texts, rng)["a"]
    assert (found > 0).any()
