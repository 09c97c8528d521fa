"""The one place that knows one family of transformers from another. Data first, and no torch at import.

A family is a page of data: where its layers are, and which key of its config says which size. Code elsewhere asks
here by our words (`layers`, `hidden_size`, `positions`) and never by a model's own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from distill.errors import CheckpointError
from distill.library import nearest

Word = Literal["layers", "hidden_size", "positions", "heads", "neurons"]
LARGEST: Mapping[Word, int] = {
    "layers": 1000, "hidden_size": 1_000_000, "positions": 100_000_000, "heads": 10_000, "neurons": 10_000_000,
}  # fmt: skip  # beyond: hostile


@dataclass(frozen=True)
class Layer:
    """Where a layer keeps what can be left out of it, as attribute paths from the layer to its Linear modules.

    `query`, `key` and `value` have a row a head and dimension, `output` has the columns; `up` has a row a neuron,
    `down` the column. `counts` are attributes that must follow: the path, and whether it counts heads or their width.
    """

    query: str
    key: str
    value: str
    output: str
    up: str
    down: str
    counts: Mapping[str, Literal["heads", "width"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """What can be known of a model type without looking at its weights.

    `stack` is the attribute path from the base model (`model.base_model`) to the ModuleList of layers, `layer` what is
    in each; `config` maps our word to the config's key; `reserved_positions` are positions that no token ever takes,
    with `padding` all up to the padding token's id, behind which RoBERTa counts; `shared` is the config's key for how
    many sets of weights the layers share, where they do; `table_width` is its key for the width of the token table,
    where that isn't the hidden size; `refuses` maps what can't be done to the reason.
    """

    model_type: str
    stack: str
    layer: Layer
    config: Mapping[Word, str]
    reserved_positions: int | Literal["padding"] = 0
    shared: str | None = None
    table_width: str | None = None
    refuses: Mapping[str, str] = field(default_factory=dict)


_BERT_KEYS: Mapping[Word, str] = {
    "layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "positions": "max_position_embeddings",
    "heads": "num_attention_heads",
    "neurons": "intermediate_size",
}
_BERT_LAYER = Layer(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    counts={"attention.self.num_attention_heads": "heads", "attention.self.all_head_size": "width"},
)
_MPNET_LAYER = Layer(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    output="attention.attn.o",
    up="intermediate.dense",
    down="output.dense",
)
_DISTILBERT_LAYER = Layer(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    output="attention.out_lin",
    up="ffn.lin1",
    down="ffn.lin2",
    counts={"attention.n_heads": "heads"},
)
_SHARED = "ALBERT's layers share one set of weights, so leaving some of it out is not theirs to choose"

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("bert", "encoder.layer", _BERT_LAYER, _BERT_KEYS),
        Family("roberta", "encoder.layer", _BERT_LAYER, _BERT_KEYS, reserved_positions="padding"),
        Family("xlm-roberta", "encoder.layer", _BERT_LAYER, _BERT_KEYS, reserved_positions="padding"),
        Family("camembert", "encoder.layer", _BERT_LAYER, _BERT_KEYS, reserved_positions="padding"),
        Family(
            "mpnet",
            "encoder.layer",
            _MPNET_LAYER,
            _BERT_KEYS,
            reserved_positions=2,
            refuses={"heads": "MPNet's layers share one table of position biases with a column a head"},
        ),
        Family("electra", "encoder.layer", _BERT_LAYER, _BERT_KEYS, table_width="embedding_size"),
        Family(
            "distilbert",
            "transformer.layer",
            _DISTILBERT_LAYER,
            {
                "layers": "n_layers",
                "hidden_size": "dim",
                "positions": "max_position_embeddings",
                "heads": "n_heads",
                "neurons": "hidden_dim",
            },
        ),
        Family(
            "albert",
            "encoder.albert_layer_groups",
            _BERT_LAYER,
            _BERT_KEYS,
            shared="num_hidden_groups",
            table_width="embedding_size",
            refuses={
                "layers": "ALBERT's layers share one set of weights, so leaving some out makes nothing smaller",
                "heads": _SHARED,
                "neurons": _SHARED,
                "embeddings": "ALBERT's are factorised from the start; its config says their size",
            },
        ),
    )
}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config (as a dict). Raises CheckpointError for a model type that is not on the page."""
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"nothing is known about the layers of model type '{model_type}'{nearest(model_type, list(FAMILIES))} "
            f"(known: {', '.join(FAMILIES)}); a family is added in distill/anatomy.py"
        )
    return FAMILIES[model_type]


def size(config: Mapping[str, Any], word: Word) -> int | None:
    """A config's number of layers, hidden size or positions; None when the family or the key is unknown.

    Raises CheckpointError for what is no number, below 0 or beyond LARGEST.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    value = config.get(family.config[word] if family else _BERT_KEYS[word])
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"the config of this {config.get('model_type')} says {value!r:.60} for its {word}")
    if not 0 <= value <= LARGEST[word]:
        shown = value if abs(value) < 10**18 else "a huge number"
        raise CheckpointError(
            f"the config of this {config.get('model_type')} says {shown} for its {word}; it can be 0 to {LARGEST[word]}"
        )
    if family is None or word != "positions":
        return value
    if family.reserved_positions != "padding":
        return value - family.reserved_positions
    padding = config.get("pad_token_id")
    if padding is not None and (not isinstance(padding, int) or not 0 <= padding < value):
        raise CheckpointError(
            f"the config of this {config.get('model_type')} says {padding!r:.60} for its pad_token_id"
        )
    return value - (1 if padding is None else padding) - 1


def refuse(config: Mapping[str, Any], what: str) -> str | None:
    """Why a family can't do something, or None."""
    family = FAMILIES.get(str(config.get("model_type")))
    return family.refuses.get(what) if family else None


def table_width(config: Mapping[str, Any]) -> int | None:
    """The width of a config's token table; None when the config doesn't say it."""
    family = FAMILIES.get(str(config.get("model_type")))
    own = config.get(family.table_width) if family is not None and family.table_width else None
    return own if isinstance(own, int) and not isinstance(own, bool) else size(config, "hidden_size")


def largest_rank(tokens: int, width: int) -> int:
    """The largest rank E for which a table V × E and a projection E × H have fewer weights than one table V × H."""
    return max(0, tokens * width - 1) // max(1, tokens + width)


def choose_layers(layers: int | list[int], choose: str, of: int) -> list[int]:
    """Which of a teacher's layers to keep, counted from 1 and rising.

    `even` spreads them and always keeps the last one (3 of 6: 2, 4, 6); `first` and `last` keep a run of layers.
    Raises CheckpointError when there are not so many layers, or none is asked for.
    """
    listed = layers if isinstance(layers, list) else [layers]
    if not listed or listed != sorted(set(listed)) or listed[0] < 1:
        raise CheckpointError(f"student.layers: {layers}: keep at least one; a list rises, counted from 1")
    highest = max(layers) if isinstance(layers, list) else layers
    if highest > of:
        asked = f"layer {highest}" if isinstance(layers, list) else f"{layers} layers"
        raise CheckpointError(f"student.layers asks for {asked}, but the teacher has {of} layers")
    if isinstance(layers, list):
        return layers
    match choose:
        case "first":
            return list(range(1, layers + 1))
        case "last":
            return list(range(of - layers + 1, of + 1))
        case _:
            return [round((position + 1) * of / layers) for position in range(layers)]


def layer_map(
    layers: str | list[int] | Mapping[int, int], student_layers: int, teacher_layers: int
) -> list[tuple[int, int]]:
    """Pairs (student layer, teacher layer), counted from 1; 0 is the embeddings' output.

    `even` pairs layer k of S with layer round(k·T/S) of T, DistilBERT's spacing; `last` pairs the last S of T.
    Raises CheckpointError when a list has another length than the student has layers, or a layer isn't there.
    """
    if isinstance(layers, Mapping):
        pairs = sorted((int(mine), int(theirs)) for mine, theirs in layers.items())
    elif isinstance(layers, list):
        if len(layers) != student_layers:
            raise CheckpointError(
                f"imitate.hidden_states.layers lists {len(layers)} teacher layers for a student of {student_layers}"
            )
        pairs = list(enumerate(layers, start=1))
    elif layers == "last":
        shift = teacher_layers - student_layers
        pairs = [(mine, mine + shift) for mine in range(1, student_layers + 1) if mine + shift >= 1]
    else:
        pairs = [(mine, round(mine * teacher_layers / student_layers)) for mine in range(1, student_layers + 1)]
    for mine, theirs in pairs:
        if not (0 <= mine <= student_layers and 0 <= theirs <= teacher_layers):
            raise CheckpointError(
                f"imitate.hidden_states.layers pairs student layer {mine} with teacher layer {theirs}, "
                f"but they have {student_layers} and {teacher_layers} layers"
            )
    if not pairs:
        raise CheckpointError("imitate.hidden_states.layers pairs no layers")
    return pairs
