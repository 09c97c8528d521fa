"""The step `quantize`: from torch to ONNX, and to fewer bits, with its parity check."""

from distill.quantization.quantizing import measure_parity, quantize, read_parity

__all__ = ["measure_parity", "quantize", "read_parity"]
