"""A torch graph as an engine likes it: the same sums in fewer nodes, in standard ONNX alone.

* What is worked out twice is worked out once, such as the angles of rotary positions.
* Attention joins new keys and values to those of earlier tokens itself.
* Attention takes its heads flat, (batch, tokens, heads · width), so that nothing is transposed around it.
* A product with a table that is looked up as well, as tied heads have it, takes the table turned instead of a copy.
* Where the head reads one position only, as BERT's does, the last layer is worked out for that position alone.

None of it changes a logit beyond the order of sums. A graph that doesn't match stays as it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from distill.export.first_position import last_layer_at_one_position
from distill.export.products import unfold

_HEADS_FIRST = [0, 2, 1, 3]


def tidy(model: ir.Model) -> None:
    """Rewrites a model's graph in place."""
    common.CommonSubexpressionEliminationPass()(model)
    unfold(model.graph)
    common.RemoveUnusedNodesPass()(model)
    for node in list(model.graph):
        if node.op_type == "Attention" and node.domain == "":
            _take_past(node)
            _flatten(node)
    _share_tables(model.graph)
    for node in list(model.graph):
        last_layer_at_one_position(node)
    common.RemoveUnusedNodesPass()(model)


def _take_past(attention: ir.Node) -> None:
    """Keys and values joined to those of earlier tokens by the attention itself, where both are outputs as well."""
    joins = [value.producer() if value is not None else None for value in attention.inputs[1:3]]
    if len(attention.inputs) != 4 or len(attention.outputs) > 1 or any(
        join is None or join.op_type != "Concat" or len(join.inputs) != 2 or not join.outputs[0].is_graph_output()
        or not join.inputs[0].is_graph_input() for join in joins
    ):  # fmt: skip
        return
    past, new = [join.inputs[0] for join in joins], [join.inputs[1] for join in joins]
    node = ir.node("Attention", [attention.inputs[0], *new, attention.inputs[3], *past], dict(attention.attributes),
                   num_outputs=3)  # fmt: skip
    attention.graph.insert_before(attention, node)
    for made, old in zip(node.outputs, (attention.outputs[0], *(join.outputs[0] for join in joins)), strict=True):
        made.shape, made.type, name = old.shape, old.type, old.name
        old.replace_all_uses_with(made, replace_graph_outputs=True)
        old.name, made.name = f"{name}.before", name
    _flatten(node)


def _flatten(attention: ir.Node) -> None:
    """Query, key and value as they leave their Linear, instead of heads first; and so does what comes out."""
    back = _only_user(attention.outputs[0])
    if back is None or back.op_type != "Transpose" or _permutation(back) != _HEADS_FIRST:
        return
    joined = _only_user(back.outputs[0])
    if joined is None or joined.op_type != "Reshape":
        return
    shape = joined.outputs[0].shape
    if shape is None or len(shape) != 3:  # GPT-2 puts the tokens of all texts in one row
        return
    numbers = [_heads(given) for given in attention.inputs[:2]]
    flat = [_before_heads(given) for given in attention.inputs[:3]]
    if None in numbers or None in flat:
        return
    for place, value in enumerate(flat):
        rotated = attention.inputs[place].producer()
        attention.replace_input_with(place, value if rotated.op_type != "RotaryEmbedding" else _rotate(rotated, value))
    attention.attributes.add(ir.AttrInt64("q_num_heads", numbers[0]))
    attention.attributes.add(ir.AttrInt64("kv_num_heads", numbers[1]))
    made, shown = attention.outputs[0], joined.outputs[0]
    made.shape, made.type = shown.shape, shown.type
    shown.replace_all_uses_with(made)


def _before_heads(value: ir.Value | None) -> ir.Value | None:
    """What a heads-first value was, (batch, tokens, heads · width); None when it was made in another way."""
    turned = value.producer() if value is not None else None
    if turned is not None and turned.op_type == "RotaryEmbedding" and turned.domain == "":
        turned = turned.inputs[0].producer()
    if turned is None or turned.op_type != "Transpose" or _permutation(turned) != _HEADS_FIRST:
        return None
    split = turned.inputs[0].producer()
    if split is None or split.op_type != "Reshape":
        return None
    before = split.inputs[0]
    return before if before.shape is not None and len(before.shape) == 3 else None


def _rotate(rotated: ir.Node, flat: ir.Value) -> ir.Value:
    """The same rotation of flat heads."""
    words = {**rotated.attributes, "num_heads": ir.AttrInt64("num_heads", _heads(rotated.outputs[0]))}
    node = ir.node("RotaryEmbedding", [flat, *rotated.inputs[1:]], words)
    made = node.outputs[0]
    made.name, made.shape, made.type = f"{rotated.outputs[0].name}.flat", flat.shape, flat.type
    rotated.graph.insert_before(rotated, node)
    return made


def _share_tables(graph: ir.Graph) -> None:
    """A weight that is a looked-up table turned, kept as a copy, becomes the turned table: ONNX Runtime turns it once,
    when it opens the graph, and the file holds it once.
    """
    tables = {node.inputs[0] for node in graph if node.op_type == "Gather" and _matrix(node.inputs[0]) is not None}
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if (held := _matrix(weight)) is None:
            continue
        table = next((found for found in tables if np.array_equal(_matrix(found).T, held)), None)
        if table is not None:
            turned = ir.node("Transpose", [table], {"perm": [1, 0]})
            made = turned.outputs[0]
            made.name, made.shape, made.type = f"{table.name}.turned", weight.shape, weight.type
            graph.insert_before(node, turned)
            node.replace_input_with(1, made)


def _matrix(value: ir.Value | None) -> np.ndarray | None:
    """A constant of two dimensions, or None."""
    if value is None or value.const_value is None or len(value.const_value.shape) != 2:
        return None
    return value.const_value.numpy()


def _heads(value: ir.Value) -> int | None:
    """The number of heads of a heads-first value, where the graph says it."""
    number = value.shape[1] if value.shape is not None and len(value.shape) == 4 else None
    return number if isinstance(number, int) else None


def _only_user(value: ir.Value) -> ir.Node | None:
    users = value.consumers()
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def _permutation(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", []))
