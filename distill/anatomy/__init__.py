"""The one place that knows one family of transformers from another. Data first, and no torch at import.

A family is a page of data: where its layers are, and which key of its config says which size. Code elsewhere asks
here by our words (`layers`, `hidden_size`, `positions`) and never by a model's own names.
"""

from distill.anatomy.choosing import choose_layers, layer_map
from distill.anatomy.families import FAMILIES
from distill.anatomy.family import Attention, Family, Layer, Stack, Word
from distill.anatomy.sides import SIDES, Layers, Side, by_side, is_counted_by_encoder, kept_layers, layer_counts
from distill.anatomy.sizes import (
    LARGEST,
    family_of,
    freezable,
    head_width,
    heads_a_group,
    hidden_multiple,
    largest_rank,
    refuse,
    size,
    table_width,
    with_layers,
)
from distill.anatomy.states import (
    imitated_pairs,
    is_written,
    layer_name,
    place_of,
    relation_heads,
    require_states,
    state_pairs,
    vector_widths,
)
from distill.anatomy.strangers import PLAIN_MASK, WITHOUT_PAST, cannot_trace, cannot_write, sees_ahead

__all__ = [
    "FAMILIES",
    "LARGEST",
    "PLAIN_MASK",
    "SIDES",
    "WITHOUT_PAST",
    "Attention",
    "Family",
    "Layer",
    "Layers",
    "Side",
    "Stack",
    "Word",
    "by_side",
    "cannot_trace",
    "cannot_write",
    "choose_layers",
    "family_of",
    "freezable",
    "head_width",
    "heads_a_group",
    "hidden_multiple",
    "imitated_pairs",
    "is_counted_by_encoder",
    "is_written",
    "kept_layers",
    "largest_rank",
    "layer_counts",
    "layer_map",
    "layer_name",
    "place_of",
    "refuse",
    "relation_heads",
    "require_states",
    "sees_ahead",
    "size",
    "state_pairs",
    "table_width",
    "vector_widths",
    "with_layers",
]
