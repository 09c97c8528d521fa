"""Models as a graph sees them: flat inputs, and positions and masks made of them before the layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill import anatomy
from distill.export.attention import masks, positions
from distill.signals import accepts, answers_at_end, logits_at_end, logits_of, shifted

_STATES = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")


class Traced(nn.Module):
    """What becomes a graph."""

    model: PreTrainedModel


class Answering(Traced):
    """A model that answers whole texts: logits first and then every hidden state, by the names in `states`."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names
        self.states: list[str] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Logits, then hidden states, of the inputs in the order of their names."""
        given = dict(zip(self.names, inputs, strict=True))
        made = _prepared(self.model, given)
        with _body_given(self.model, made):
            output = _run(self.model, {**given, **made})
        states = {
            f"{name}.{layer}": state
            for name in _STATES
            for layer, state in enumerate(getattr(output, name, None) or ())
        }
        self.states = list(states)
        return (_logits(self.model, given, output), *states.values())


def _prepared(model: PreTrainedModel, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """Masks of a family that is known, and positions of every text of its own: ONNX Runtime's rotary embedding takes
    none that texts have in common.
    """
    family = anatomy.FAMILIES.get(model.config.model_type)
    seen, tokens = given["attention_mask"], given["input_ids"].shape[1]
    if family is None:
        rotary = any(name.endswith("rotary_emb") for name, _ in model.named_modules())
        return {"position_ids": _in_order(seen)} if rotary and accepts(model, "position_ids") else {}
    made: dict[str, Any] = {"attention_mask": masks(model, seen, tokens, causal=family.kind == "decoder")}
    if family.kind == "encoder-decoder" and accepts(model, "decoder_attention_mask"):
        made["decoder_input_ids"] = shifted(model, given["input_ids"])
        made["decoder_attention_mask"] = masks(model, torch.ones_like(seen), tokens, causal=True)
    if family.kind == "decoder":
        made["position_ids"] = positions(seen, tokens)
    elif not family.learned_positions and accepts(model, "position_ids"):
        made["position_ids"] = _in_order(seen)
    return made


def _in_order(seen: Tensor) -> Tensor:
    """Positions (batch, tokens) that count every token, each text's own."""
    return torch.arange(seen.shape[1], device=seen.device).expand(seen.shape[0], -1)


@contextlib.contextmanager
def _body_given(model: PreTrainedModel, made: dict[str, Any]) -> Iterator[None]:
    """An encoder's body gets the mask that was made for its layers, and its head the texts' own: some take a mean over
    the tokens that are there. The mask goes out of what was `made`.
    """
    family = anatomy.FAMILIES.get(model.config.model_type)
    if family is None or family.kind != "encoder" or model.base_model is model:
        yield
        return
    mask = made.pop("attention_mask")
    hook = model.base_model.register_forward_pre_hook(
        lambda _, args, words: (args, {**words, "attention_mask": mask}), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()


def _run(model: PreTrainedModel, given: Mapping[str, Any]) -> Any:
    """What a model says, or its body where the head is put on in `_logits`."""
    words = {"use_cache": False} if accepts(model, "use_cache") else {}
    return (model.base_model if answers_at_end(model) else model)(**given, **words, output_hidden_states=True)


def _logits(model: PreTrainedModel, given: Mapping[str, Tensor], output: Any) -> Tensor:
    if answers_at_end(model):
        return logits_at_end(model, given["input_ids"], output[0])
    return logits_of(output)
