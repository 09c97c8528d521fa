"""Taking tokens out of a model's embeddings, and out of the head that predicts them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill import anatomy
from distill.errors import CheckpointError


def keep_tokens(model: PreTrainedModel, ids: Sequence[int]) -> PreTrainedModel:
    """A new model that knows some of a model's tokens alone, numbered anew in the order given.

    Everything with a row a token follows: each table of embeddings, the language-model head, its bias, and BART's
    `final_logits_bias`; what was tied stays tied. The config's ids of special tokens are for the caller to renumber.
    Raises CheckpointError where positions hang on the padding token's id and it would change, and for encoders and
    decoders with vocabularies of their own.
    """
    number = model.get_input_embeddings().num_embeddings
    if list(ids) and not 0 <= min(ids) <= max(ids) < number:
        raise CheckpointError(f"the model embeds tokens 0 to {number - 1}")
    if not ids or len(set(ids)) != len(ids):
        raise CheckpointError("a vocabulary keeps at least one token, and each once")
    if reason := anatomy.refuse(model.config.to_dict(), "vocabulary"):
        raise CheckpointError(reason)
    smaller = copy.deepcopy(model)
    family = anatomy.FAMILIES.get(str(model.config.model_type))
    padding = model.get_input_embeddings().padding_idx
    moved = padding is not None and (padding not in ids or list(ids).index(padding) != padding)
    if moved and family is not None and family.reserved_positions:
        raise CheckpointError("the padding token must keep its id, because positions are counted from it")
    rows = torch.tensor(list(ids))
    done: dict[int, nn.Parameter | Tensor] = {}  # tied weights are one object, and stay one
    for module, name, axis in _tables(smaller, number):
        old = getattr(module, name)
        if id(old) not in done:
            chosen = old.detach().index_select(axis, rows.to(old.device)).clone()
            done[id(old)] = nn.Parameter(chosen, old.requires_grad) if isinstance(old, nn.Parameter) else chosen
        setattr(module, name, done[id(old)])
    for module in smaller.modules():
        if isinstance(module, nn.Embedding) and id(module.weight) in map(id, done.values()):
            module.num_embeddings = len(rows)
            if module.padding_idx is not None:
                module.padding_idx = list(ids).index(module.padding_idx) if module.padding_idx in ids else None
        if isinstance(module, nn.Linear) and id(module.weight) in map(id, done.values()):
            module.out_features = len(rows)
    for key in ("vocab_size", "decoder_vocab_size"):
        if getattr(smaller.config, key, None) is not None:
            setattr(smaller.config, key, len(rows))
    return smaller


def _tables(model: PreTrainedModel, number: int) -> list[tuple[nn.Module, str, int]]:
    """Each parameter and buffer with a row a token: its module, its name there, the axis.

    These are the input embeddings and whatever is tied to them, the output embeddings with their bias, and biases of a
    masked-language-model head that stand beside them.
    """
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    owners = {id(inputs.weight)} | ({id(outputs.weight)} if outputs is not None else set())
    biases = {id(outputs.bias)} if outputs is not None and getattr(outputs, "bias", None) is not None else set()
    found = []
    for path, module in model.named_modules():
        for name, held in [*module._parameters.items(), *module._buffers.items()]:
            if held is None:
                continue
            beside = outputs is not None and name in ("bias", "final_logits_bias") and not _is_in_body(path, model)
            if id(held) in owners or id(held) in biases:
                found.append((module, name, 0))
            elif beside and held.shape[-1] == number and not isinstance(module, nn.Linear | nn.LayerNorm):
                found.append((module, name, held.dim() - 1))
    return found


def _is_in_body(path: str, model: PreTrainedModel) -> bool:
    prefix = model.base_model_prefix
    return path == prefix or path.startswith(f"{prefix}.")
