"""Products with a weight in the one form that the rest looks for: a MatMul of a weight that is named by its module."""

from __future__ import annotations

import ast

import numpy as np
import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes the modules that a node comes from


def name_weights(graph: ir.Graph) -> None:
    """Weights that the exporter turned, and numbered, are called by the module that they are of."""
    for node in graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or not weight.is_initializer() or not str(weight.name).startswith("val_"):
            continue
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        name = f"{scopes[-2]}.weight" if len(scopes) > 1 else ""
        if name and name not in graph.initializers:
            weight.name = name


def unfold(graph: ir.Graph) -> None:
    """A Gemm over the tokens of all texts in one row, as GPT-2's are, becomes a MatMul by text, and its bias an Add."""
    for gemm in list(graph):
        if gemm.op_type == "Gemm":
            _unfold(gemm)


def _unfold(gemm: ir.Node) -> None:
    flat, back = gemm.inputs[0].producer(), list(gemm.outputs[0].consumers())
    words = gemm.attributes
    plain = words.get_float("alpha", 1.0) == 1.0 == words.get_float("beta", 1.0) and not (
        words.get_int("transA", 0) or words.get_int("transB", 0)
    )
    if not plain or flat is None or flat.op_type != "Reshape" or len(gemm.inputs) != 3 or len(back) != 1:
        return
    whole, last = flat.inputs[0], back[0].outputs[0]
    if back[0].op_type != "Reshape" or whole.shape is None or last.shape is None or len(last.shape) != 3:
        return
    if len(whole.shape) == 4:  # heads yet to be joined
        whole = _joined(gemm, whole)
    elif len(whole.shape) != 3:
        return
    product = _add(gemm, "MatMul", [whole, gemm.inputs[1]], f"{last.name}.product", last)
    total = _add(gemm, "Add", [product, gemm.inputs[2]], f"{last.name}.unfolded", last)
    last.replace_all_uses_with(total, replace_graph_outputs=True)
    name = last.name
    last.name, total.name = f"{name}.before", name


def _joined(at: ir.Node, heads: ir.Value) -> ir.Value:
    graph, name = at.graph, "join_heads"
    if name not in graph.initializers:
        tensor = ir.tensor(np.array([0, 0, -1], np.int64), name=name)
        graph.register_initializer(
            ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    made = _add(at, "Reshape", [heads, graph.initializers[name]], f"{heads.name}.joined", heads)
    made.shape = ir.Shape([heads.shape[0], heads.shape[1], heads.shape[2] * heads.shape[3]])
    return made


def _add(at: ir.Node, kind: str, inputs: list[ir.Value], name: str, like: ir.Value) -> ir.Value:
    node = ir.node(kind, inputs)
    made = node.outputs[0]
    made.name, made.type, made.shape = name, like.type, like.shape
    at.graph.insert_before(at, node)
    return made
