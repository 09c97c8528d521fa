"""The names of a head's labels, as a config tells them."""

from __future__ import annotations

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
