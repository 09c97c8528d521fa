"""From an fp32 graph to one with rounded weights, one node a product.

* `static`: activations are rounded to 8 bits by a range that was measured beforehand, and multiplied with int8 weights
  that have a scale an output (QuantizeLinear, MatMulIntegerToFloat). The range is the same whatever is in a batch.
  Graphs are opened with `engines.EXACT`, without which sums overflow on x86 processors without VNNI.
* `token`: each block of each token's activations is rounded by its own largest value (MatMulNBits, accuracy level 4),
  with weights of 8 or 4 bits in blocks. Slower and more exact, and again a token hangs on no other.
* `fp32`: the product stays as it is.

Tables are looked up in few bits, a scale for each block of a row (GatherBlockQuantized). A sum in front of a layer norm
goes into it (SkipLayerNormalization); biases are in the products. The operators are ONNX Runtime's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from distill.engines import files_of, pair
from distill.quantization import arithmetic
from distill.quantization.products import Lookup, Product, lookups_of, products_in, products_of

Precision = Literal["static", "token", "token4", "fp32"]
RUNTIME = "com.microsoft"
_TOKEN_BLOCK = 64  # inputs that share a scale in 8 bits; beyond, sums come out in an order that hangs on the batch
_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy level
_LARGEST = 1536 << 20  # bytes of weights in one file with the graph, which may have 2 GiB; as torch's exporter has it


@dataclass(frozen=True)
class Plan:
    """What becomes of each product, and the range of what a `static` one is given, by the product's name."""

    products: Mapping[str, Precision]
    ranges: Mapping[str, tuple[float, float]]
    table_bits: int = 8
    group: int = 32  # weights that share a scale in 4 bits


def evenly(
    fp32: Path, start: Precision, ranges: Mapping[str, tuple[float, float]], table_bits: int = 8, group: int = 32
) -> Plan:
    """The plan that treats every product of a graph alike; one that shares its bytes with a table goes by token."""
    tied: Precision = "token" if start == "static" else start
    products = {product.name: start if product.table is None else tied for product in products_in(fp32)}
    return Plan(products, ranges, table_bits, group)


def lower(fp32: Path, target: Path, plan: Plan, *, borrow: bool = False) -> None:
    """Writes the graph of a plan; of an encoder-decoder's two files both. What `borrow` says may leave weights that
    stay as they are in the files of the fp32 graph, where that has files for them.
    """
    sources = files_of(fp32)
    for source, made in zip(sources, pair(target) if len(sources) == 2 else [target], strict=True):
        model = _lowered(source, plan)
        if not borrow:
            ir.external_data.load_to_model(model)
        held = sum(value.const_value.nbytes for value in model.graph.initializers.values())
        ir.save(model, made, external_data=f"{made.name}.data" if held > _LARGEST and not borrow else None)


def _lowered(fp32: Path, plan: Plan) -> ir.Model:
    model = ir.load(fp32)
    graph = model.graph
    graph.opset_imports[RUNTIME] = 1
    products, lookups = products_of(graph), lookups_of(graph)
    tied = _tied(products, lookups, plan)
    times = Counter(product.stored for product in products)
    rounded: dict[str, ir.Value] = {}
    for product in products:
        match plan.products[product.name]:
            case "static":
                _static(product, plan.ranges[product.name], rounded, shared=times[product.stored] > 1)
            case "token" | "token4" if product.table in tied:
                _tied_product(product, plan.table_bits, tied[product.table])
            case "token":
                _token(product, 8, _TOKEN_BLOCK)
            case "token4":
                _token(product, 4, plan.group)
    for lookup in lookups:
        if tied.get(lookup.node.inputs[0]) != 0:
            _look_up(lookup, plan, tied.get(lookup.node.inputs[0]))
    for node in list(graph):
        _skip_into_norm(node)
    common.RemoveUnusedNodesPass()(model)
    return model


def _tied(products: list[Product], lookups: list[Lookup], plan: Plan) -> dict[ir.Value, int]:
    """For a table that a product takes as well: how many numbers of a row share a scale, so that both read one table;
    0 where the product stays in fp32, and the table with it. What can't be shared is stored twice, rounded.
    """
    found: dict[ir.Value, int] = {}
    for product in products:
        table, precision = product.table, plan.products[product.name]
        if all(table is not lookup.node.inputs[0] for lookup in lookups) or precision == "static":
            continue
        columns = len(product.weight)
        bits, blocks = (8, (_TOKEN_BLOCK, 32, 16)) if precision == "token" else (4, (plan.group,))
        block = next((block for block in blocks if columns % block == 0), None)
        if precision == "fp32":
            found[table] = 0
        elif bits == plan.table_bits and block is not None:
            found[table] = block
    return found


def _static(product: Product, limits: tuple[float, float], rounded: dict[str, ir.Value], *, shared: bool) -> None:
    """By a fixed range. A weight that several products share is stored unsigned, which ONNX Runtime multiplies with on
    every processor: where it makes signed weights unsigned by itself, it stumbles over one that it has made before.
    """
    given = str(product.given.name)
    scale, zero = arithmetic.scale_of(*limits)
    at = product.nodes[0]
    scale_value, zero_value = _hold(at, f"{given}.scale", scale), _hold(at, f"{given}.zero_point", zero)
    if given not in rounded:
        node = _add(at, "QuantizeLinear", [product.given, scale_value, zero_value], f"{given}.int8", domain="")
        rounded[given] = node.outputs[0]
    integers, scales = arithmetic.by_column(product.weight)
    zeros = np.zeros(len(scales), np.int8)
    if shared:
        integers, zeros = ((array.astype(np.int16) + 128).astype(np.uint8) for array in (integers, zeros))
    parts = ("static.int8", "static.scales", "static.zero_points", "bias.fp32")
    names, arrays = [f"{product.stored}.{part}" for part in parts], [integers, scales, zeros, product.bias]
    weight, weight_scales, weight_zeros, bias = (
        None if array is None else _hold(at, name, array) for name, array in zip(names, arrays, strict=True)
    )
    inputs = [rounded[given], weight, scale_value, weight_scales, zero_value, weight_zeros, bias]
    _replace(product, _add(at, "MatMulIntegerToFloat", inputs, f"{product.name}.product"))


def _token(product: Product, bits: int, block: int) -> None:
    at, (inputs, outputs) = product.nodes[0], product.weight.shape
    integers, scales = arithmetic.in_blocks(product.weight.T, bits, block)
    weight = _hold(at, f"{product.stored}.int{bits}", arithmetic.packed(integers, bits))
    bias = None if product.bias is None else _hold(at, f"{product.stored}.bias.fp32", product.bias)
    given = [product.given, weight, _hold(at, f"{product.stored}.int{bits}.scales", scales), None, None, bias]
    words = {"K": inputs, "N": outputs, "bits": bits, "block_size": block, "accuracy_level": _INT8_ACTIVATIONS}
    _replace(product, _add(at, "MatMulNBits", given, f"{product.name}.product", **words))


def _tied_product(product: Product, bits: int, block: int) -> None:
    """By token, with the rounded table itself as its weight: its rows are the product's outputs."""
    at, (inputs, outputs) = product.nodes[0], product.weight.shape
    table, scales = _table(at, str(product.table.name), product.weight.T, bits, block)
    shape = _hold(at, f"{product.stored}.blocks", np.array([outputs, inputs // block, block * bits // 8], np.int64))
    weight = _add(at, "Reshape", [table, shape], f"{product.name}.blocked", domain="").outputs[0]
    bias = None if product.bias is None else _hold(at, f"{product.stored}.bias.fp32", product.bias)
    words = {"K": inputs, "N": outputs, "bits": bits, "block_size": block, "accuracy_level": _INT8_ACTIVATIONS}
    given = [product.given, weight, scales, None, None, bias]
    _replace(product, _add(at, "MatMulNBits", given, f"{product.name}.product", **words))


def _table(at: ir.Node, name: str, table: np.ndarray, bits: int, block: int) -> tuple[ir.Value, ir.Value]:
    """A table rounded, and its scales."""
    integers, scales = arithmetic.in_blocks(table, bits, block)
    flat = integers.reshape(len(integers), -1)[:, : table.shape[1]]
    return _hold(at, f"{name}.int{bits}", arithmetic.packed(flat, bits)), _hold(at, f"{name}.scales", scales)


def _look_up(lookup: Lookup, plan: Plan, block: int | None) -> None:
    columns = lookup.table.shape[1]
    bits = plan.table_bits if columns % 2 == 0 else 8  # two 4-bit numbers share a byte
    if block is None:
        block = plan.group if bits == 4 else 1 << max(4, (columns - 1).bit_length())  # in 8 bits a scale a row
    table, scales = _table(lookup.node, lookup.name, lookup.table, bits, block)
    made, ids = lookup.node.outputs[0], lookup.node.inputs[1]
    given = [table, ids, scales]
    words = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    node = _add(lookup.node, "GatherBlockQuantized", given, f"{made.name}.row", **words)
    _take_over(node.outputs[0], made)


def _skip_into_norm(norm: ir.Node) -> None:
    """LayerNormalization(a + b) in one node, where nobody else needs the sum and nothing is broadcast."""
    if norm.op_type != "LayerNormalization" or norm.domain or len(norm.inputs) != 3:
        return
    total, axis = norm.inputs[0].producer(), norm.attributes.get_int("axis", -1)
    if total is None or total.op_type != "Add" or axis != -1 or len(total.outputs[0].consumers()) > 1:
        return
    shapes = [value.shape for value in total.inputs]
    if None in shapes or len(shapes[0]) != 3 or shapes[0] != shapes[1]:
        return
    words = {"epsilon": norm.attributes.get_float("epsilon", 1e-5)}
    given = [*total.inputs, *norm.inputs[1:]]
    node = _add(norm, "SkipLayerNormalization", given, f"{norm.outputs[0].name}.skip", **words)
    _take_over(node.outputs[0], norm.outputs[0])


def _add(
    at: ir.Node, kind: str, inputs: list[ir.Value | None], name: str, *, domain: str = RUNTIME, **words: float
) -> ir.Node:
    """A node of one output, put in front of another."""
    node = ir.node(kind, inputs, words, domain=domain)
    node.outputs[0].name = name
    at.graph.insert_before(at, node)
    return node


def _hold(at: ir.Node, name: str, array: np.ndarray | np.generic) -> ir.Value:
    """A constant of the graph; the one that is there already where the name is known."""
    if name not in at.graph.initializers:
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        of_type = ir.TensorType(tensor.dtype)
        at.graph.register_initializer(ir.Value(name=name, shape=tensor.shape, type=of_type, const_value=tensor))
    return at.graph.initializers[name]


def _replace(product: Product, node: ir.Node) -> None:
    _take_over(node.outputs[0], product.made)


def _take_over(new: ir.Value, old: ir.Value) -> None:
    """Gives a new value an old one's place, name and shape."""
    new.shape, new.type = old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    name = old.name
    old.name, new.name = f"{name}.before", name
