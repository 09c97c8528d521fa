"""What a model has behind its body: the class that a config's architecture is, and the weights that a new head starts.

transformers is asked, in its own tables, so that any of its families is found. They are read off its source, because
importing them would import torch, which `distill check` does without.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# transformers' table of each class, in the order in which an architecture is looked up.
AUTO_CLASSES: Mapping[str, str] = {
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForMaskedLM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
}
_TYPES, _MODELS = "CONFIG_MAPPING_NAMES", "MODEL_MAPPING_NAMES"
_LABELLED = ("ForSequenceClassification", "ForTokenClassification")


def auto_class_of(config: Mapping[str, Any]) -> str | None:
    """The transformers class whose models are of a config's architecture; None for a body, or when it names none."""
    architectures = config.get("architectures") or []
    for auto_class, table in AUTO_CLASSES.items():
        known = tables().get(table, {}).get(str(config.get("model_type")))
        if any(name in architectures for name in (known if isinstance(known, tuple) else (known,))):
            return auto_class
    return None


def has_class(model_type: str, auto_class: str) -> bool:
    """Whether transformers has a class for models of a type, under a name of AUTO_CLASSES, or may have."""
    known, types = tables().get(AUTO_CLASSES[auto_class]), tables().get(_TYPES, {})
    if known is None or model_type not in types:
        return True
    return any(name in known for name, config in types.items() if config == types[model_type])


def model_types() -> set[str]:
    """Every model type that transformers knows; none where its tables can't be read."""
    return {name for table in (_TYPES, _MODELS) for name in tables().get(table, ())}


@functools.cache
def tables() -> Mapping[str, Mapping[str, str | tuple[str, ...]]]:
    """What transformers' own tables of names say, by the tables' names."""
    found: dict[str, dict[str, str | tuple[str, ...]]] = {}
    wanted = {_TYPES, _MODELS, *AUTO_CLASSES.values()}
    spec = importlib.util.find_spec("transformers")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for file in ("auto_mappings.py", "configuration_auto.py", "modeling_auto.py"):
            path = Path(folder, "models", "auto", file)
            for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else ():
                match node:
                    case ast.Assign([ast.Name(name)], ast.Call(args=[ast.List() | ast.Dict() as told])) if (
                        name in wanted
                    ):
                        found[name] = dict(ast.literal_eval(told))
                    case ast.Expr(ast.Call(ast.Attribute(ast.Name(name), "update"), [ast.Dict() as told])) if (
                        name in found
                    ):
                        found[name].update(ast.literal_eval(told))
    return found


def has_labels(config: Mapping[str, Any]) -> bool:
    """Whether a config's head gives a number a label, as far as its architecture tells."""
    names = config.get("architectures") or []
    return not names or any(name.endswith(_LABELLED) for name in names)


def head_weights(model: PreTrainedModel) -> set[str]:
    """The names of the weights behind a model's body: tied ones are the body's, and so are not among them.

    T5 and its like hold body and head side by side; their head is what gives the output embeddings. A pooler, which
    most checkpoints lack, is its head's.
    """
    weights = model.state_dict(keep_vars=True)
    if model.base_model is not model:
        inside = {id(tensor) for tensor in model.base_model.state_dict(keep_vars=True).values()}
        found = {name for name, tensor in weights.items() if id(tensor) not in inside}
        return found | {name for name in weights if ".pooler." in f".{name}"}
    head = model.get_output_embeddings()
    own = {id(tensor) for tensor in head.state_dict(keep_vars=True).values()} if head is not None else set()
    own -= {id(model.get_input_embeddings().weight)}
    return {name for name, tensor in weights.items() if id(tensor) in own}


def start_head(model: PreTrainedModel) -> None:
    """Random weights for everything behind the body, also where the checkpoint held a head of the same shape."""
    fresh, mine = type(model)(model.config).state_dict(), head_weights(model)
    pooled = {name for name in mine if ".pooler." in f".{name}"}  # which is kept where a checkpoint has one
    model.load_state_dict({name: fresh[name] for name in mine - pooled}, strict=False)


def untold(model: PreTrainedModel) -> set[str]:
    """Weights that transformers computes anew instead of saving them, such as Marian's positions."""
    classes = (type(model)._keys_to_ignore_on_save, type(model)._keys_to_ignore_on_load_missing)
    return {name for keys in classes for name in keys or ()}
