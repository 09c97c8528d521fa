"""The parts of an fp32 graph that hold its weights: products with a weight, and lookups in a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from distill.engines import files_of

_SMALL = 4096  # a table of fewer numbers stays as it is


@dataclass(frozen=True)
class Product:
    """`made = given @ weight + bias`, by one or two nodes.

    `name` is its own; `stored` is that of its weight, which products of shared layers have in common.
    """

    name: str
    stored: str
    weight: np.ndarray  # (inputs, outputs)
    bias: np.ndarray | None  # (outputs,)
    nodes: tuple[ir.Node, ...]

    @property
    def table(self) -> ir.Value | None:
        """The table that the weight is, turned, where it is looked up as well: tied heads have it."""
        turned = self.nodes[0].inputs[1].producer()
        return None if turned is None else turned.inputs[0]

    @property
    def given(self) -> ir.Value:
        """What the weight is multiplied with."""
        return self.nodes[0].inputs[0]

    @property
    def made(self) -> ir.Value:
        """What comes out."""
        return self.nodes[-1].outputs[0]


@dataclass(frozen=True)
class Lookup:
    """`made = table[ids]`."""

    name: str
    table: np.ndarray  # (rows, columns)
    node: ir.Node


def products_of(graph: ir.Graph) -> list[Product]:
    """Every product with a weight, in the order in which they are worked out."""
    found = []
    for node in graph:
        if node.op_type == "MatMul" and (weight := _constant(node.inputs[1], 2)) is not None:
            found.append(_with_bias(node, weight))
        elif node.op_type == "Gemm" and (product := _from_gemm(node)) is not None:
            found.append(product)
    found = _told_apart(found)
    times: Counter[str] = Counter()
    for place, product in enumerate(found):
        times[product.stored] += 1
        if times[product.stored] > 1:
            found[place] = replace(product, name=f"{product.stored} ({times[product.stored]})")
    return found


def _told_apart(found: list[Product]) -> list[Product]:
    """Products whose weights differ under names that differ: one bias may stand behind several of them, because equal
    constants, such as biases of zeros, are kept once in a graph.
    """
    known: dict[str, list[np.ndarray]] = {}
    apart = []
    for product in found:
        held = known.setdefault(product.stored, [])
        number = next((i for i, weight in enumerate(held) if np.array_equal(weight, product.weight)), len(held))
        if number == len(held):
            held.append(product.weight)
        name = f"{product.stored}#{number + 1}" if number else product.stored
        apart.append(replace(product, name=name, stored=name))
    return apart


def products_in(graph: Path) -> list[Product]:
    """The products of all files of a graph."""
    return [product for file in files_of(graph) for product in products_of(ir.load(file).graph)]


def lookups_of(graph: ir.Graph) -> list[Lookup]:
    """Every lookup of rows in a table that is worth rounding."""
    return [
        Lookup(str(node.inputs[0].name), table, node)
        for node in graph
        if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0
        if (table := _constant(node.inputs[0], 2)) is not None and table.size >= _SMALL
    ]


def _with_bias(node: ir.Node, weight: np.ndarray) -> Product:
    """A MatMul, and the Add of a bias behind it where there is one."""
    made = node.outputs[0]
    users = made.consumers()
    if len(users) == 1 and users[0].op_type == "Add" and not made.is_graph_output():
        for place in (0, 1):
            other = users[0].inputs[1 - place]
            bias = _constant(other, 1)
            if users[0].inputs[place] is made and bias is not None and bias.shape == weight.shape[1:]:
                name = str(other.name).removesuffix(".bias")
                return Product(name, name, weight, bias, (node, users[0]))
    name = str(node.inputs[1].name).removesuffix(".turned").removesuffix(".weight")
    return Product(name, name, weight, None, (node,))


def _from_gemm(node: ir.Node) -> Product | None:
    """A Gemm, as heads have it; None where it does more than multiply and add a bias."""
    words = node.attributes
    weight = _constant(node.inputs[1], 2)
    bias = _constant(node.inputs[2], 1) if len(node.inputs) > 2 else None
    plain = words.get_float("alpha", 1.0) == 1.0 == words.get_float("beta", 1.0) and not words.get_int("transA", 0)
    if weight is None or not plain or (len(node.inputs) > 2 and bias is None):
        return None
    weight = weight.T if words.get_int("transB", 0) else weight
    name = str(node.inputs[1].name).removesuffix(".weight")
    return Product(name, name, weight, bias, (node,))


def _constant(value: ir.Value | None, dimensions: int) -> np.ndarray | None:
    """A float32 constant of so many dimensions, turned where the graph turns it, or None."""
    if value is None:
        return None
    maker = value.producer()
    if maker is not None and maker.op_type == "Transpose" and dimensions == 2:
        table = _constant(maker.inputs[0], 2)
        return None if table is None else table.T
    if value.const_value is None:
        return None
    array = value.const_value.numpy()
    return array if array.dtype == np.float32 and array.ndim == dimensions else None
