"""The names of a head's labels, as a config tells them, and whether they are the data's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.errors import DistillError


def ordered_names(config: dict[str, Any]) -> list[str]:
    """A config's label names in the order of the logits; LABEL_0 and LABEL_1 when it has none, as transformers has it.

    Raises DistillError for names that are not numbered 0, 1, 2, …
    """
    names = config.get("id2label")
    if not names:
        return ["LABEL_0", "LABEL_1"]
    numbers = [str(i) for i in range(len(names))]
    if not isinstance(names, dict) or {str(key) for key in names} != set(numbers):
        raise DistillError("config.json: id2label must map 0, 1, 2, … to the names of the labels")
    by_number = {str(key): str(name) for key, name in names.items()}
    return [by_number[number] for number in numbers]


def label_config(labels: Sequence[str]) -> dict[str, Any]:
    """What a config says of a head with a logit a label."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: position for position, label in enumerate(labels)},
    }


def label_misfit(config: dict[str, Any], labels: Sequence[str], *, named: bool = True) -> str | None:
    """Why the head that a config describes can't serve these labels, in this order; None when it can.

    A head that names no labels (LABEL_0, …) serves any of the right number, and one of any names where labels aren't
    `named`.
    """
    names = ordered_names(config)
    if len(names) != len(labels):
        return f"it has {len(names)} labels, the data {len(labels)} ({', '.join(labels[:8])})"
    if named and any(name != f"LABEL_{i}" for i, name in enumerate(names)) and list(labels) != names:
        return f"its labels are {', '.join(names[:8])}, the data's {', '.join(labels[:8])}"
    return None
