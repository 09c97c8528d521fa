"""Taking parts out of a real module: layers, heads, neurons, tokens. Who asked for it, and why, is not known here."""

from distill.surgery.embeddings import FactorisedEmbedding, factorise, multiply_out, rank_of
from distill.surgery.units import (
    RECORD,
    Shape,
    head_width,
    keep_layers,
    keep_tokens,
    keep_units,
    layers_of,
    pad,
    read_record,
    reshape,
    shape_in_config,
    shape_of,
    write_record,
)

__all__ = [
    "RECORD",
    "FactorisedEmbedding",
    "Shape",
    "factorise",
    "head_width",
    "keep_layers",
    "keep_tokens",
    "keep_units",
    "layers_of",
    "multiply_out",
    "pad",
    "rank_of",
    "read_record",
    "reshape",
    "shape_in_config",
    "shape_of",
    "write_record",
]
