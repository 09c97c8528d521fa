"""A torch graph as an engine likes it: the same sums in fewer nodes, in standard ONNX alone.

* Attention takes its heads flat, (batch, tokens, heads · width), so that nothing is transposed around it.
* Where the head reads one position only, as BERT's does, the last layer is worked out for that position alone: its keys
  and values are needed of every token, everything behind them of one.

Neither changes a logit beyond the order of sums. A graph that doesn't match stays as it is.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

FIRST = ".first"  # behind the name of a value that is there for the first position alone
_HEADS_FIRST = [0, 2, 1, 3]
_ROW_BY_ROW = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Gelu",
    "Relu",
    "Tanh",
    "Sigmoid",
    "Erf",
    "Identity",
    "LayerNormalization",
}


def tidy(model: ir.Model) -> None:
    """Rewrites a model's graph in place."""
    for node in list(model.graph):
        if node.op_type == "Attention" and node.domain == "":
            _flatten(node)
    for node in list(model.graph):
        _last_layer_at_one_position(node)
    common.RemoveUnusedNodesPass()(model)


def _flatten(attention: ir.Node) -> None:
    """Query, key and value as they leave their Linear, instead of heads first; and so does what comes out."""
    flat = [_before_heads(given) for given in attention.inputs[:3]]
    back = _only_user(attention.outputs[0])
    if None in flat or back is None or back.op_type != "Transpose" or _permutation(back) != _HEADS_FIRST:
        return
    joined = _only_user(back.outputs[0])
    if joined is None or joined.op_type != "Reshape" or len(attention.outputs) > 1:
        return
    shape = joined.outputs[0].shape
    if shape is None or len(shape) != 3:  # GPT-2 puts the tokens of all texts in one row
        return
    numbers = [_heads(given) for given in attention.inputs[:2]]
    if None in numbers:
        return
    for place, value in enumerate(flat):
        attention.replace_input_with(place, value)
    attention.attributes.add(ir.AttrInt64("q_num_heads", numbers[0]))
    attention.attributes.add(ir.AttrInt64("kv_num_heads", numbers[1]))
    made, shown = attention.outputs[0], joined.outputs[0]
    made.shape, made.type = shown.shape, shown.type
    shown.replace_all_uses_with(made)


def _before_heads(value: ir.Value | None) -> ir.Value | None:
    """What a heads-first value was, (batch, tokens, heads · width); None when it was made in another way."""
    turned = value.producer() if value is not None else None
    if turned is None or turned.op_type != "Transpose" or _permutation(turned) != _HEADS_FIRST:
        return None
    split = turned.inputs[0].producer()
    if split is None or split.op_type != "Reshape":
        return None
    before = split.inputs[0]
    return before if before.shape is not None and len(before.shape) == 3 else None


def _heads(value: ir.Value) -> int | None:
    """The number of heads of a heads-first value, where the graph says it."""
    number = value.shape[1] if value.shape is not None and len(value.shape) == 4 else None
    return number if isinstance(number, int) else None


def _last_layer_at_one_position(select: ir.Node) -> None:
    """Works out only the first position of what a Gather takes the first position of, from the last attention on."""
    if select.op_type != "Gather" or select.attributes.get_int("axis", 0) != 1:
        return
    index = select.inputs[1].const_value
    attention = _last_attention(select.inputs[0])
    if index is None or index.numpy().shape != () or int(index.numpy()) != 0 or attention is None:
        return
    lifted = _FirstPosition(select, attention)
    value = lifted.of(select.inputs[0])
    if value is not None:
        select.replace_input_with(0, value)


def _last_attention(value: ir.Value) -> ir.Node | None:
    """The attention nearest above a value, if it takes its heads flat."""
    waiting, seen = [value], set()
    while waiting:
        node = waiting.pop(0).producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type == "Attention":
            return node if "q_num_heads" in node.attributes else None
        waiting += [given for given in node.inputs if given is not None]
    return None


class _FirstPosition:
    """The first position of values, (batch, 1, …), worked out by copies of the nodes that make them."""

    def __init__(self, select: ir.Node, attention: ir.Node) -> None:
        self.select, self.attention = select, attention
        self.needed = _above(attention.inputs[1]) | _above(attention.inputs[2])  # by all positions anyway
        self.known: dict[ir.Value, ir.Value | None] = {}

    def of(self, value: ir.Value) -> ir.Value | None:
        """A value's first position; None where a node on the way does not work position by position."""
        if value not in self.known:
            self.known[value] = self._make(value)
        return self.known[value]

    def _make(self, value: ir.Value) -> ir.Value | None:
        node = value.producer()
        if value.is_initializer() or (node is not None and node.op_type == "Constant"):
            return value if value.shape is not None and len(value.shape) < 2 else None  # nothing a position
        if node is None or node in self.needed:
            return self._slice(value, axis=1) if value.shape is not None and len(value.shape) == 3 else None
        inputs = list(node.inputs)
        if node is self.attention:
            inputs[0] = self.of(inputs[0])
            if len(inputs) > 3 and inputs[3] is not None:
                mask = inputs[3]
                inputs[3] = self._slice(mask, axis=2) if mask.shape is not None and len(mask.shape) == 4 else None
        elif node.op_type == "MatMul" and inputs[1].is_initializer() and len(inputs[1].shape) == 2:
            inputs[0] = self.of(inputs[0])
        elif node.op_type in _ROW_BY_ROW and len(node.outputs) == 1:
            inputs = [given and self.of(given) for given in inputs]
        else:
            return None
        if any(new is None and old is not None for new, old in zip(inputs, node.inputs, strict=True)):
            return None
        copied = ir.node(node.op_type, inputs, dict(node.attributes), domain=node.domain)
        return self._insert(copied, value, axis=1)

    def _slice(self, value: ir.Value, axis: int) -> ir.Value:
        bounds = [self._constant(number) for number in (0, 1, axis)]
        return self._insert(ir.node("Slice", [value, *bounds]), value, axis)

    def _insert(self, node: ir.Node, whole: ir.Value, axis: int) -> ir.Value:
        """Puts a node before the Gather; it makes the first position of `whole`, and says so."""
        made = node.outputs[0]
        made.name, made.type = f"{whole.name}{FIRST}", whole.type
        if whole.shape is not None:
            made.shape = ir.Shape([1 if place == axis else size for place, size in enumerate(whole.shape)])
        self.select.graph.insert_before(self.select, node)
        return made

    def _constant(self, number: int) -> ir.Value:
        graph, name = self.select.graph, f"first_position.{number}"
        if name not in graph.initializers:
            tensor = ir.tensor([number], dtype=ir.DataType.INT64, name=name)
            of_type = ir.TensorType(tensor.dtype)
            graph.register_initializer(ir.Value(name=name, shape=tensor.shape, type=of_type, const_value=tensor))
        return graph.initializers[name]


def _above(value: ir.Value) -> set[ir.Node]:
    """Every node that a value hangs on."""
    found, waiting = set(), [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [given.producer() for given in node.inputs if given is not None]
    return found


def _only_user(value: ir.Value) -> ir.Node | None:
    users = value.consumers()
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def _permutation(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", []))
