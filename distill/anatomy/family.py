"""What a page of anatomy says: paths to modules and keys of a config, and nothing that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Word = Literal["layers", "hidden_size", "positions", "heads", "key_value_heads", "head_width", "neurons"]
Count = Literal["heads", "width", "one"]


@dataclass(frozen=True)
class Attention:
    """Where a layer keeps one attention, as attribute paths from the layer to its modules.

    `query`, `key` and `value` make a row a head and dimension, `output` takes the columns. Where one module makes
    queries, keys and values, one after the other, `fused` names it and the three are None. `counts` are attributes that
    must follow: the path, and whether it counts heads, their width, or had better be one. `biased` says that a table of
    position biases with a column a head, which the stack's layers share, is added to the scores.
    """

    output: str
    query: str | None = None
    key: str | None = None
    value: str | None = None
    fused: str | None = None
    counts: Mapping[str, Count] = field(default_factory=dict)
    biased: bool = False


@dataclass(frozen=True)
class Layer:
    """A layer's attentions in the order in which they are passed, and its feed-forward part.

    `up` are the modules with a row a neuron, a gate among them; where a family's configs differ in which of them a
    layer has, all are named and one at least is there. `fused_up` says that the one module makes two rows a neuron, all
    of what is activated before all of the gate. `down` takes a column a neuron.
    """

    attentions: tuple[Attention, ...]
    up: tuple[str, ...]
    down: str
    fused_up: bool = False


@dataclass(frozen=True)
class Stack:
    """A run of layers: `layers` is the path from the base model (`model.base_model`) to their ModuleList.

    `config` maps our word to the config's key where it is the stack's own; `lists` are keys of a config that hold an
    entry a layer; `by_place` is the key that, where it is true, divides attention scores by the layer's number, counted
    from 1; `biases` is the path from the base model to the shared table of position biases; `not_in_first` are
    modules, by path from a layer, that the first layer has no weights in.
    """

    layers: str
    layer: Layer
    config: Mapping[Word, str] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    by_place: str | None = None
    biases: str | None = None
    not_in_first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """What can be known of a model type without looking at its weights.

    `config` maps our word to the config's key. A head is as wide as the config's `head_width` says where the family has
    such a key, so that any number of heads can be told (with `heads_divide` those that divide the hidden size);
    elsewhere it is the hidden size by the number of heads.
    `absent` maps a key that a config may leave out to the key, and the factor, that then stand for it. `follows` are
    keys that change with the hidden size where they are equal to it.

    `reserved_positions` are positions that no token ever takes, with `padding` all up to the padding token's id, behind
    which RoBERTa counts; `learned_positions` says that each has a row in a table. `shared` is the config's key for how
    many sets of weights the layers share, where they do; `table_width` is its key for the width of the token table,
    where that isn't the hidden size; `scaled` maps a config's key that, where it is true, divides what the head reads
    by the root of the hidden size, to the path from the base model to the norm before it; `starts_from_last` says that
    a decoder that reads a text starts from the text's last token, not from the start token; `refuses` maps what can't
    be done to the reason.
    """

    model_type: str
    kind: Literal["encoder", "decoder", "encoder-decoder"]
    stacks: tuple[Stack, ...]
    config: Mapping[Word, str]
    absent: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    follows: tuple[str, ...] = ()
    heads_divide: bool = False
    reserved_positions: int | Literal["padding"] = 0
    learned_positions: bool = True
    shared: str | None = None
    table_width: str | None = None
    scaled: Mapping[str, str] = field(default_factory=dict)
    starts_from_last: bool = False
    refuses: Mapping[str, str] = field(default_factory=dict)

    def key(self, word: Word, stack: int = 0) -> str | None:
        """The config's key for a word, in one of the stacks; None where there is none."""
        return self.stacks[stack].config.get(word, self.config.get(word))

    def config_keys(self, word: Word | None = None) -> set[str]:
        """The config's keys for a word in any of the stacks, or for all words."""
        maps = (self.config, *(stack.config for stack in self.stacks))
        return {key for one in maps for mine, key in one.items() if word in (None, mine)}
