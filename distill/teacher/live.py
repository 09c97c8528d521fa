"""A teacher that runs: found by card, folder, Hub id or GGUF file, and asked batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from distill import card, checkpoint, gguf
from distill.checkpoint import Checkpoint
from distill.data.encoding import padding_of
from distill.recipe import settings
from distill.signals import Signals, Wanted, read
from distill.tasks import Task
from distill.tasks.task import NO_TARGET
from distill.teacher.renumbering import Numbers


class Teacher(Protocol):
    """What answers: a live model or saved signals."""

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """The teacher's signals for a batch of the split that it was made for."""
        ...


def find(choice: settings.Teacher | settings.Member) -> tuple[Path, card.Card | None]:
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
    """A model that runs, without gradients, on every batch it is asked about; `numbers` are those that a student asks
    by, where they are not its own.
    """

    def __init__(self, teacher: Checkpoint, wanted: Wanted, dtype: torch.dtype, numbers: Numbers | None = None) -> None:
        self.teacher, self.model, self.wanted, self.dtype = teacher, teacher.model.eval(), wanted, dtype
        self.numbers = numbers

    def at(self, dtype: torch.dtype) -> Live:
        """The same in another precision."""
        return Live(self.teacher, self.wanted, dtype, self.numbers)

    def _padded(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A student's batch with this model's own padding: its embeddings may lack the student's, and a decoder's
        classifier looks for it.
        """
        there = {"input_ids": batch["attention_mask"] != 0}
        if "decoder_input_ids" in batch:  # behind the start each is the label before
            before = nn.functional.pad(batch["labels"][:, :-1], (1, 0))
            there["decoder_input_ids"] = before != NO_TARGET
        return batch | {
            name: batch[name].masked_fill(~real, padding_of(self.teacher.tokenizer)) for name, real in there.items()
        }

    @torch.no_grad()
    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """Logits and what else is wanted, as the model gives them."""
        device = self.model.device
        moved = {name: tensor.to(device) for name, tensor in batch.items()}
        moved = self.numbers.asked(moved) if self.numbers else self._padded(moved)
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            found = read(self.model, moved, self.wanted)
        return self.numbers.said(found) if self.numbers else found
