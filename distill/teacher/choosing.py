"""A live teacher or saved signals answer for a split: what is asked, what is cheaper, what there is room for."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from distill import processes
from distill.checkpoint import Checkpoint
from distill.data import Encoded
from distill.disk import write_text
from distill.errors import CheckpointError, MachineError
from distill.signals import Wanted
from distill.tasks.task import OTHER_IDS
from distill.teacher.labelling import Pass, labeller
from distill.teacher.live import Live, Teacher
from distill.teacher.renumbering import Numbers
from distill.teacher.saved import Keep, Layout, Saved, facts_of
from distill.teacher.worth import Asked, Choice, choose

log = logging.getLogger(__name__)
SAVED_AT_MOST = 4 << 30  # bytes of signals that are kept on disk; beyond it the teacher runs in every step

_ROOM = 1.1  # times what signals take: else the disk would be full to the brim
_PASS = "pass.json"  # how signals were computed


def answering(
    teacher: Checkpoint, encoded: Encoded, wanted: Wanted, *, epochs: float, dtype: torch.dtype,
    scratch: Path, live: bool = True, keep: Keep | None = None, asked: Asked | None = None, off: bool = False,
    label_pass: Pass | None = None, who: str = "the teacher", numbers: Numbers | None = None,
) -> Teacher:  # fmt: skip
    """What answers for a split in the cheaper way, and says so: saved signals where they are asked for again.

    `encoded` is the split in the teacher's own tokens, or in those of a student who has other `numbers` for them;
    `wanted` is what will be asked for beside the logits. A live
    teacher serves a single epoch, and signals too large to keep, as attentions are; not where `live` is false, because
    the batches that it would be asked about hold another tokenizer's ids. `keep` keeps what is saved for the next
    training; `scratch` is where it lies during this one. `asked` says how logits over a vocabulary are kept, `off`
    that nothing is, `label_pass` which engine computes what is; of several teachers `who` says which one this is.
    Raises MachineError when there is no room then, CheckpointError.
    """
    source = Live(teacher, wanted, dtype, numbers)
    if reason := _never_kept(encoded, wanted, off=off):
        if off and not live:
            raise CheckpointError(f"signals: off: {OTHER_IDS}")
        log.info("%s runs in every step: %s", who, reason)
        return source
    labels, choice = source.at(torch.float32) if label_pass else source, Choice()
    if asked is not None:
        choice = processes.once(lambda: choose(asked, labels, encoded, epochs=epochs, live=live, at_most=SAVED_AT_MOST))
        for line in choice.lines:
            log.info("%s", line)
    if choice.form == "live":
        return source
    layout = Layout(labels, encoded, choice.likeliest)
    if choice.form is None and (reason := _live_instead(layout, live=live, epochs=epochs)):
        unused = "; signals.engine, which computes what is kept, has no use then" if label_pass else ""
        log.info("%s runs in every step: %s%s", who, reason, unused)
        return source
    try:
        return _saved(labels, encoded, layout, scratch / "signals", keep or _make, choice, label_pass, who)
    except _NoRoomError as full:
        room = f"{full} has no {layout.bytes / 1e6:,.0f} MB to spare for {who}'s {layout.told}"
        if not live or choice.binds:
            way = "say signals: off" if live else "imitate logits alone behind a trimmed vocabulary"
            raise MachineError(f"{room}; {way}, or make room") from None
        log.warning("%s runs in every step: %s", who, room)
        return source


class _NoRoomError(Exception):
    """The folder that signals would be written to has too little room for them."""


def _never_kept(encoded: Encoded, wanted: Wanted, *, off: bool) -> str | None:
    """Why nothing is kept, whatever it takes; None where it may be."""
    if encoded.masking is not None:
        return "texts are masked anew in each epoch"
    if wanted.attentions:
        return "attentions grow with the square of a text's length"
    return "nothing is kept, as the recipe says" if off else None


def _live_instead(layout: Layout, *, live: bool, epochs: float) -> str | None:
    """Why a teacher had better run in every step, where nobody has said what is kept; None where it hadn't."""
    needed, what = layout.bytes, layout.told
    if live and epochs < 1:
        return "the training ends before all texts were read"
    if needed and live and epochs <= 1:
        return f"its {what} are asked for only once"
    if live and needed > SAVED_AT_MOST:
        hint = "; `signals: auto` may keep the likeliest tokens' alone" if layout.over_vocabulary else ""
        return f"its {what} would take {needed / 1e9:.1f} GB of disk{hint}"
    return None


def _saved(
    source: Live, encoded: Encoded, layout: Layout, folder: Path, keep: Keep, choice: Choice, label_pass: Pass | None,
    who: str,
) -> Saved:  # fmt: skip
    """Signals that are computed once, or were before; says what they take. Raises _NoRoomError where they would have to
    be written and can't.
    """
    needed, facts = layout.bytes, facts_of(source, encoded, choice.likeliest)
    facts |= {} if layout.places is None else {"inputs": len(layout.encoded)}
    told = f"{needed / 1e6:.0f} MB on disk, {layout.bytes_a_token:.0f} bytes a token" if needed else "logits alone"
    told += f"; whole logits would take {4 * choice.likeliest.classes:,} a token" if choice.likeliest else ""
    again = len(encoded) - len(layout.encoded)
    told += f"; {again:,} of {len(encoded):,} texts are equal to another in its tokens" if again else ""
    log.info("%s's signals are computed once for each text (%s)", who, told)

    def write(into: Path) -> None:
        if layout.bytes and shutil.disk_usage(into.parent).free < _ROOM * layout.bytes:
            raise _NoRoomError(into.parent)
        if label_pass is None:
            layout.write(source, into)
            return
        with labeller(source, encoded, label_pass, folder.parent) as (fast, measured):
            layout.write(fast, into)
        write_text(into / _PASS, json.dumps(measured))

    if label_pass is not None:
        facts |= {"label_pass": label_pass.facts}
    if full := processes.once(lambda: _refused(keep, facts, write, folder)):  # told to all: none may wait for another
        raise _NoRoomError(full)
    found = layout.read(folder)
    found.told = {"bytes": needed, "bytes_a_token": layout.bytes_a_token, **choice.told}
    if label_pass is not None:
        found.told["label_pass"] = json.loads((folder / _PASS).read_text(encoding="utf-8"))
        log.info("%s's signals were computed by %s", who, found.told["label_pass"]["engine"])
    return found


def _refused(keep: Keep, facts: Mapping[str, Any], write: Callable[[Path], None], folder: Path) -> Path | None:
    """Lets signals be kept; where there is no room for them it is told where."""
    try:
        keep(facts, write, folder)
    except _NoRoomError as full:
        return full.args[0]
    return None


def _make(_: Mapping[str, Any], write: Callable[[Path], None], folder: Path) -> None:
    """Keeps nothing."""
    folder.mkdir()
    write(folder)
