"""Taking parts out of a real module: layers, heads, neurons, hidden dimensions, tokens. Who asked for it, and why, is
not known here.
"""

from distill.surgery.embeddings import FactorisedEmbedding, factorise, multiply_out, rank_of
from distill.surgery.hidden import hidden_axes, keep_hidden, least_hidden
from distill.surgery.layers import keep_layers
from distill.surgery.parts import layers_of, stacks_of
from distill.surgery.shape import RECORD, Shape, head_width, read_record, shape_in_config, shape_of, write_record
from distill.surgery.tokens import keep_tokens
from distill.surgery.units import keep_units, like, pad, reshape, untie

__all__ = [
    "RECORD",
    "FactorisedEmbedding",
    "Shape",
    "factorise",
    "head_width",
    "hidden_axes",
    "keep_hidden",
    "keep_layers",
    "keep_tokens",
    "keep_units",
    "layers_of",
    "least_hidden",
    "like",
    "multiply_out",
    "pad",
    "rank_of",
    "read_record",
    "reshape",
    "shape_in_config",
    "shape_of",
    "stacks_of",
    "untie",
    "write_record",
]
