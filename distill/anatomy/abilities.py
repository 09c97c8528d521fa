"""What each family can do, as a table in Markdown, made from its page: `python -m distill.anatomy.abilities`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from distill.anatomy.families import FAMILIES
from distill.anatomy.family import Family

BEGIN, END = "<!-- made by `python -m distill.anatomy.abilities` -->", "<!-- end of what is made -->"


def _layers(family: Family) -> str:
    return "yes, by side" if len(family.stacks) > 1 else "yes"


def _heads(family: Family) -> str:
    if any(attention.biased for stack in family.stacks for attention in stack.layer.attentions):
        return "the same in each self-attention of a side" if len(family.stacks) > 1 else "the same in all layers"
    return "by key-value group" if family.key("key_value_heads") else "yes"


def _hidden(family: Family) -> str:
    if family.key("head_width") is None:
        return "in steps of a head's width"
    return "in steps of the number of heads" if family.heads_divide else "yes"


def _yes(_: Family) -> str:
    return "yes"


# A column: what is refused by this word, its title, and what it says where it isn't.
_COLUMNS: Mapping[str, tuple[str, Callable[[Family], str]]] = {
    "layers": ("cut layers", _layers),
    "heads": ("heads", _heads),
    "neurons": ("neurons", _yes),
    "hidden": ("hidden size", _hidden),
    "vocabulary": ("vocabulary", _yes),
    "embeddings": ("factorised embeddings", lambda _: "where the head isn't tied to them"),
    "hidden_states": ("imitate hidden states", _yes),
    "graph": ("quantize, ONNX", _yes),
}


def table() -> str:
    """A row a family and a column a step; what is refused has a number, and its reason stands below."""
    reasons: list[str] = []
    titles = [title for title, _ in _COLUMNS.values()]
    lines = ["| " + " | ".join(["family", "kind", *titles]) + " |", "| --- " * (len(titles) + 2) + "|"]
    for rows in _alike().values():
        family = rows[0]
        cells = [", ".join(f"`{row.model_type}`" for row in rows), family.kind]
        for what, (_, told) in _COLUMNS.items():
            reason = family.refuses.get(what)
            if reason is None:
                cells.append(told(family))
                continue
            reasons += [reason] if reason not in reasons else []
            cells.append(f"no ({reasons.index(reason) + 1})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{number}. {reason}." for number, reason in enumerate(reasons, start=1))]) + "\n"


def _alike() -> dict[tuple[object, ...], list[Family]]:
    """The families of which the table says the same, together."""
    found: dict[tuple[object, ...], list[Family]] = {}
    for family in FAMILIES.values():
        says = (family.kind, *((family.refuses.get(what) or told(family)) for what, (_, told) in _COLUMNS.items()))
        found.setdefault(says, []).append(family)
    return found


if __name__ == "__main__":
    print(table(), end="")
