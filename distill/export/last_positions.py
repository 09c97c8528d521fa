"""A decoder's logits of the last positions alone, where no more are asked for: a prompt's next token needs one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

KEPT = "num_logits_to_keep"  # an input that may be left out: how many last positions' logits come out, 0 for all


def only_last(graph: ir.Graph) -> None:
    """Lets the product behind the last layer work on the last positions alone; a head without one stays as it is."""
    product = graph.outputs[0].producer()
    while product is not None and product.op_type != "MatMul":
        product = product.inputs[0].producer() if product.op_type in {"Add", "Mul", "Identity"} else None
    if product is None or product.inputs[0].shape is None or len(product.inputs[0].shape) != 3:
        return
    kept = _held(graph, KEPT, np.array([0], np.int64))
    graph.inputs.append(kept)
    bounds = [_held(graph, f"{KEPT}.{name}", np.array([number], np.int64)) for name, number in
              (("end", np.iinfo(np.int64).max), ("axis", 1))]  # fmt: skip
    states = product.inputs[0]
    start = ir.node("Neg", [kept])
    slice_ = ir.node("Slice", [states, start.outputs[0], *bounds])
    start.outputs[0].name, slice_.outputs[0].name = f"{KEPT}.start", f"{states.name}.last"
    slice_.outputs[0].type = states.type
    slice_.outputs[0].shape = ir.Shape([states.shape[0], "kept", states.shape[2]])
    for node in (start, slice_):
        graph.insert_before(product, node)
    product.replace_input_with(0, slice_.outputs[0])
    made = product.outputs[0]
    while True:  # what comes behind has as many positions
        made.shape = ir.Shape([states.shape[0], "kept", made.shape[2]])
        if made.is_graph_output():
            return
        made = made.consumers()[0].outputs[0]


def _held(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
