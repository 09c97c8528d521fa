"""Where a head reads one position only, the last layer worked out for that position alone.

Keys and values are needed of every token, everything behind them of one. A head that reads every token, or a token that
depends on the text, leaves the graph as it is.
"""

from __future__ import annotations

import onnx_ir as ir

FIRST = ".first"  # behind the name of a value that is there for the first position alone
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


def last_layer_at_one_position(select: ir.Node) -> None:
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
