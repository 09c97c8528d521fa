"""Graphs that write: a decoder's one, or an encoder-decoder's two, with the past as inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distill import anatomy
from distill.engines import pair
from distill.errors import MachineError
from distill.export.cached import PAST, PRESENT, Decoding, DecodingBehind, Encoding, held, names
from distill.export.last_positions import only_last
from distill.export.programs import save, trace

_BATCH, _TOKENS, _PAST = 2, 3, 5


def export_writer(model: PreTrainedModel, path: Path) -> Path:
    """Writes a decoder's graph, or an encoder-decoder's two beside a path that names both, see `engines.pair`.

    Raises MachineError when torch can't export the model, or it keeps no past that a graph could take.
    """
    if reason := anatomy.cannot_write(model.config.to_dict()):
        raise _no_graph(model, reason)
    if model.config.is_encoder_decoder:
        encoder, decoder = pair(path)
        _encoder(model, encoder)
        _decoder_behind(model, decoder)
    else:
        _decoder(model, path)
    return path


def _decoder(model: PreTrainedModel, path: Path) -> None:
    ids = _ids(model, _TOKENS)
    with torch.no_grad():  # what inference mode makes can't be traced
        output = model(input_ids=_ids(model, _PAST), use_cache=True)
    past = _past(_held(model, getattr(output, "past_key_values", None)))
    layers = len(past) // 2
    given = {"input_ids": ids, "attention_mask": _ones(model, _PAST + _TOKENS)}
    given |= dict(zip(names(PAST, layers), past, strict=True))
    program = trace(Decoding(model), given, ["logits", *names(PRESENT, layers)], _free(given))
    only_last(program.model.graph)
    save(program, path)


def _encoder(model: PreTrainedModel, path: Path) -> None:
    given = {"input_ids": _ids(model, _TOKENS), "attention_mask": _ones(model, _TOKENS)}
    with torch.no_grad():  # what inference mode makes can't be traced
        layers = len(Encoding(model)(*given.values())) // 2
    save(trace(Encoding(model), given, names(PRESENT, layers, ".encoder"), _free(given)), path)


def _decoder_behind(model: PreTrainedModel, path: Path) -> None:
    source = {"input_ids": _ids(model, _TOKENS + 1), "attention_mask": _ones(model, _TOKENS + 1)}
    with torch.no_grad():  # what inference mode makes can't be traced
        output = model(**source, decoder_input_ids=_ids(model, _PAST), use_cache=True)
    cache = getattr(output, "past_key_values", None)
    own, cross = (_held(model, getattr(cache, f"{kind}_attention_cache", None)) for kind in ("self", "cross"))
    layers = len(own) // 2
    given = {"input_ids": _ids(model, _TOKENS), "encoder_attention_mask": source["attention_mask"]}
    given |= dict(zip(names(PAST, layers, ".decoder"), own, strict=True))
    given |= dict(zip(names(PAST, layers, ".encoder"), cross, strict=True))
    outputs = ["logits", *names(PRESENT, layers, ".decoder")]
    save(trace(DecodingBehind(model), given, outputs, _free(given)), path)


def _held(model: PreTrainedModel, cache: Any) -> list[Tensor]:
    """Key and value of each layer. Raises MachineError for a model that keeps something else, or nothing."""
    layers = getattr(cache, "layers", None) or []
    if not layers or not all(isinstance(getattr(layer, "keys", None), Tensor) for layer in layers):
        raise _no_graph(model, anatomy.WITHOUT_PAST)
    return list(held(cache))


def _no_graph(model: PreTrainedModel, reason: str) -> MachineError:
    who = model.config.model_type
    return MachineError(f"no graph of a {who} that writes can be made: {reason}; leave `quantize` out")


def _past(states: Iterable[Tensor]) -> list[Tensor]:
    """A past of so many heads and such width; a cache itself may have forgotten what is outside of a window."""
    return [state.new_zeros((_BATCH, state.shape[1], _PAST, state.shape[3])) for state in states]


def _ids(model: PreTrainedModel, tokens: int) -> Tensor:
    return torch.arange(_BATCH * tokens, device=model.device).reshape(_BATCH, tokens) % model.config.vocab_size


def _ones(model: PreTrainedModel, tokens: int) -> Tensor:
    return torch.ones((_BATCH, tokens), dtype=torch.int64, device=model.device)


def _free(given: dict[str, Tensor]) -> dict[str, tuple[dict[int, object], ...]]:
    """Sizes that may change: batch and tokens of what is (batch, tokens) or (batch, heads, tokens, width)."""
    free = torch.export.Dim.DYNAMIC
    return {"inputs": tuple({0: free, 1: free} if value.ndim == 2 else {0: free, 2: free} for value in given.values())}
