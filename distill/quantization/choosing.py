"""Which products bear few bits: sensitive ones are left in more, by what changes on validation texts."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from distill.bars import bar
from distill.data import Encoded
from distill.engines import GRAPHS, files_of, open_graph, pair
from distill.quantization.judging import asked, moved, says
from distill.quantization.lowering import Plan, Precision, lower
from distill.tasks import Task

log = logging.getLogger(__name__)
_RANKED_ON, _RANKED_TOKENS, _RANKED_LEAST = 64, 2048, 8  # validation texts and tokens on which products are compared
_SINGLY = 48  # products that are tried one by one; more of them in groups first
_SHARE = 4  # of the groups, the most sensitive so manyth part is taken apart
_MORE: dict[Precision, Precision] = {"static": "token", "token4": "token", "token": "fp32"}


@dataclass(frozen=True)
class Choice:
    """A plan, what it changes on validation texts (as `judging.changed` has it), and which products it keeps in more
    bits than asked.
    """

    plan: Plan
    changed: float
    kept: tuple[str, ...]


def choose(
    fp32: Path, plan: Plan, held: Encoded, task: Task, changed: Callable[[np.ndarray, np.ndarray], float],
    most: float,
) -> Choice:  # fmt: skip
    """The plan with as few products in more bits as need be so that validation answers change by so much at most.

    `changed(answers, fp32 answers)` is how much. Products are ranked by how far answers move when each
    alone is rounded; then the most sensitive 1, 2, 4, … go one rung up: from static ranges or 4 bits to 8 bits by
    token, from there to fp32, a quarter of them at the most. When nothing helps, the plan that changes least is taken.
    What the rounded embedding tables change by themselves no product can mend: where that is too much already, it is
    said, and the products may change as much beside it.
    """
    with tempfile.TemporaryDirectory(prefix="distill-int8-") as scratch:
        expected, apart = asked(open_graph(fp32), held, task), _weights_apart(fp32, Path(scratch))

        def answers(tried: Plan, texts: Encoded) -> np.ndarray:
            path = apart.with_name(GRAPHS["onnx-int8"])
            lower(apart, path, tried, borrow=True)
            return asked(open_graph(path), texts, task)

        def judged(tried: Plan, kept: Sequence[str]) -> Choice:
            return Choice(tried, changed(answers(tried, held), expected), tuple(kept))

        best = judged(plan, ())
        if best.changed <= most:
            return best
        log.info("so few bits everywhere: that %s; looking for the sensitive layers", says(task, best.changed))
        tables = judged(_tables_alone(plan), ()).changed
        if tables > most:
            log.warning(
                "rounding the embedding tables alone, to %d bits, %s, which more bits elsewhere can't mend%s",
                plan.table_bits, says(task, tables),
                "; `embeddings: int8` does less harm" if plan.table_bits < 8 else "",
            )  # fmt: skip
            most += tables
            if best.changed <= most:
                return best
        some = _some(held)
        of_some = asked(open_graph(fp32), some, task)
        ranked = _ranked(plan, lambda tried: moved(task, answers(tried, some), of_some))
        for tried, kept in bar(_rungs(plan, ranked), title="layers in more bits", unit="plan"):
            found = judged(tried, kept)
            best = found if found.changed < best.changed else best
            if best.changed <= most:
                break
        return best


def _weights_apart(fp32: Path, folder: Path) -> Path:
    """The graph in a folder, with its weights in files of their own: what stays as it is there is written once, and not
    again with every plan. What lies beside a graph that writes, and tells it how, comes along.
    """
    for told in fp32.parent.glob("*.json"):
        shutil.copy(told, folder)
    graph = folder / GRAPHS["onnx-fp32"]
    sources = files_of(fp32)
    for source, made in zip(sources, pair(graph) if len(sources) == 2 else [graph], strict=True):
        ir.save(ir.load(source), made, external_data=f"{made.name}.weights")
    return graph


def _tables_alone(plan: Plan) -> Plan:
    """The tables rounded, and no product; a table that is a product's weight too stays as it was."""
    return Plan(dict.fromkeys(plan.products, "fp32"), plan.ranges, plan.table_bits, plan.group)


def _some(held: Encoded) -> Encoded:
    """So many texts, drawn anyhow, that ranking takes minutes for a model of any size."""
    held = held.take(np.random.default_rng(0).permutation(len(held)))  # rows may be in the order of their classes
    return held.first(_RANKED_ON, _RANKED_TOKENS, _RANKED_LEAST)


def _ranked(plan: Plan, moved_by: Callable[[Plan], float]) -> list[str]:
    """Products, the most sensitive first.

    Many are rounded by groups of neighbours first, as many groups as a group has products, and only the products of
    the most sensitive groups one by one; the others share what their group moved.
    """
    names = list(plan.products)
    groups = [[name] for name in names]
    if len(names) > _SINGLY:
        size = round(len(names) ** 0.5)
        groups = [names[start : start + size] for start in range(0, len(names), size)]
    far: dict[str, float] = {}
    with bar(title="sensitive layers", leave=True, total=len(groups), unit="try") as shown:

        def move(together: Sequence[str]) -> float:
            tried = {other: plan.products[other] if other in together else "fp32" for other in names}
            shown.update()
            return moved_by(Plan(tried, plan.ranges, plan.table_bits, plan.group))

        by_group = [(move(group), group) for group in groups]
        by_group.sort(key=lambda pair: -pair[0])
        apart = -(-len(groups) // _SHARE) if len(names) > _SINGLY else 0
        shown.total += sum(len(group) for _, group in by_group[:apart])
        shown.refresh()
        for place, (moved, group) in enumerate(by_group):
            far |= {name: move([name]) if place < apart else moved / len(group) for name in group}
    return sorted(names, key=lambda name: -far[name])


def _rungs(plan: Plan, ranked: Sequence[str]) -> list[tuple[Plan, Sequence[str]]]:
    """Plans that spend more and more: all that may by token at last, then a quarter in fp32."""
    found, products = [], dict(plan.products)
    for upper, most in (("token", len(ranked)), ("fp32", len(ranked) // 4)):
        mine = [name for name in ranked if _MORE.get(products[name]) == upper][:most]
        for number in sorted({min(2**power, len(mine)) for power in range(len(mine).bit_length() + 1)} - {0}):
            products |= dict.fromkeys(mine[:number], upper)
            kept = [name for name in ranked if products[name] != plan.products[name]]
            found.append((Plan(dict(products), plan.ranges, plan.table_bits, plan.group), kept))
    return found
