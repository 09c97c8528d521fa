"""The teacher answers one question: your signals for this batch? A live model and saved signals answer alike."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from distill import card, checkpoint, gguf, processes
from distill.checkpoint import Checkpoint
from distill.data import Encoded
from distill.errors import MachineError
from distill.recipe import settings
from distill.saved_signals import Keep, Layout, facts_of
from distill.signals import Signals, Wanted, read
from distill.tasks import Task

log = logging.getLogger(__name__)
SAVED_AT_MOST = 4 << 30  # bytes of signals that are kept on disk; beyond it the teacher runs in every step


class Teacher(Protocol):
    """What answers: a live model or saved signals."""

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """The teacher's signals for a batch of the split that it was made for."""
        ...


def find(choice: settings.Teacher) -> tuple[Path, card.Card | None]:
    """The folder of the teacher that a recipe names, and its card if it has one. Raises DistillError."""
    if choice.card is None:
        return gguf.locate(choice.checkpoint, choice.revision), None
    found = card.load_card(choice.card)
    return card.locate(found, choice.card), found


def load(name: str, task: Task | None = None, *, new_head: bool = False) -> Checkpoint:
    """A teacher by card name, folder, Hub id or GGUF file; with a task and `new_head`, ready to be fine-tuned on it.

    Raises CheckpointError, RecipeError.
    """
    from distill.library import names

    is_card = name in names("teachers") or name.endswith((".yaml", ".yml"))
    folder, _ = find(settings.Teacher(card=name) if is_card else settings.Teacher(checkpoint=name))
    return checkpoint.load(folder, task, new_head=new_head)


class Live:
    """A model that runs, without gradients, on every batch it is asked about."""

    def __init__(self, teacher: Checkpoint, wanted: Wanted, dtype: torch.dtype) -> None:
        self.model, self.wanted, self.dtype = teacher.model.eval(), wanted, dtype

    @torch.no_grad()
    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """Logits and what else is wanted, as the model gives them."""
        device = self.model.device
        moved = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            return read(self.model, moved, self.wanted)


def answering(
    teacher: Checkpoint, encoded: Encoded, wanted: Wanted, *, epochs: float, dtype: torch.dtype,
    scratch: Path, live: bool = True, keep: Keep | None = None,
) -> Teacher:  # fmt: skip
    """What answers for a split in the cheaper way, and says so: saved signals where they are asked for again.

    `encoded` is the split in the teacher's own tokens, `wanted` what will be asked for beside the logits. A live
    teacher serves a single epoch, and signals too large to keep, as attentions are; not where `live` is false, because
    the batches that it would be asked about hold another tokenizer's ids. `keep` keeps what is saved for the next
    training; `scratch` is where it lies during this one. Raises MachineError when there is no room then.
    """
    source = Live(teacher, wanted, dtype)
    if encoded.masking is not None:
        log.info("the teacher runs in every step: texts are masked anew in each epoch")
        return source
    if wanted.attentions:
        log.info("the teacher runs in every step: attentions grow with the square of a text's length")
        return source
    layout = Layout(source, encoded)
    needed, what = layout.bytes, layout.told
    if needed and live and epochs <= 1:
        log.info("the teacher runs in every step: its %s are asked for only once", what)
        return source
    if live and needed > SAVED_AT_MOST:
        log.info("the teacher runs in every step: its %s would take %.1f GB of disk", what, needed / 1e9)
        return source
    folder, facts = scratch / "signals", facts_of(source, encoded)
    if processes.once(lambda: needed and shutil.disk_usage(scratch).free < 2 * needed):
        room = f"{scratch} has no {needed / 1e9:.1f} GB to spare for the teacher's {what}"
        if not live:
            raise MachineError(f"{room}; imitate logits alone behind a trimmed vocabulary, or make room")
        log.warning("the teacher runs in every step: %s", room)
        return source
    told = f"{needed / 1e6:.0f} MB on disk, {layout.bytes_a_token:.0f} bytes a token" if needed else "logits alone"
    log.info("the teacher's signals are computed once for each text (%s)", told)
    processes.once(lambda: (keep or _make)(facts, lambda into: layout.write(source, encoded, into), folder))
    return layout.read(folder)


def _make(_: Mapping[str, Any], write: Callable[[Path], None], folder: Path) -> None:
    """Keeps nothing."""
    folder.mkdir()
    write(folder)
