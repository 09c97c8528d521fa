"""From torch to a clean ONNX graph, with the check that both say the same."""

from distill.export.exporting import as_graph, export, write_graph, write_settings
from distill.export.parity import TOLERANCE, check_parity, first_difference
from distill.export.programs import OPSET

__all__ = [
    "OPSET",
    "TOLERANCE",
    "as_graph",
    "check_parity",
    "export",
    "first_difference",
    "write_graph",
    "write_settings",
]
