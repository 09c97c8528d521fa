"""Taking parts out of a real module. Who asked for it, and why, is not known here."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

from transformers import PreTrainedModel

from distill import anatomy
from distill.errors import CheckpointError


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model with some of a model's layers, counted from 1; everything else is copied as it is.

    The weights are the original's values in memory of their own. Raises CheckpointError for a family that isn't known
    or can't do it.
    """
    facts = model.config.to_dict()
    family = anatomy.family_of(facts)
    if reason := anatomy.refuse(facts, "layers"):
        raise CheckpointError(f"layers can't be left out: {reason}")
    config = copy.deepcopy(model.config)
    setattr(config, family.config["layers"], len(layers))
    smaller = type(model)(config)
    stack = re.compile(rf"^{re.escape(f'{model.base_model_prefix}.{family.stack}')}\.(\d+)\.")
    new_place = {old - 1: new for new, old in enumerate(layers)}
    weights = {}
    for name, tensor in model.state_dict().items():
        found = stack.match(name)
        if found is None:
            weights[name] = tensor
        elif int(found[1]) in new_place:
            start, end = found.span(1)
            weights[f"{name[:start]}{new_place[int(found[1])]}{name[end:]}"] = tensor
    smaller.load_state_dict(weights)
    return smaller.to(model.device, model.dtype).eval()
