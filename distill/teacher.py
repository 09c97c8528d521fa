"""The teacher answers one question: your signals for this batch? A live model and saved signals answer alike."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from distill import anatomy, card, checkpoint
from distill.checkpoint import Checkpoint
from distill.data import Encoded, TokenBatches, collate
from distill.errors import MachineError
from distill.recipe import settings
from distill.signals import Signals, read, tensors
from distill.tasks import TextClassification

log = logging.getLogger(__name__)
SAVED_AT_MOST = 4 << 30  # bytes of hidden states that are kept on disk; beyond it the teacher runs in every step
_PASS_TOKENS = 8192
# Who keeps logits: takes what they depend on and how they are made, gives them back, (rows, labels), made or kept.
Keep = Callable[[Mapping[str, Any], Callable[[], np.ndarray]], np.ndarray]


class Teacher(Protocol):
    """What answers: a live model or saved signals."""

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """The teacher's signals for a batch of the split that it was made for."""
        ...


def find(choice: settings.Teacher) -> tuple[Path, card.Card | None]:
    """The folder of the teacher that a recipe names, and its card if it has one. Raises DistillError."""
    if choice.card is None:
        return checkpoint.locate(choice.checkpoint, choice.revision), None
    found = card.load_card(choice.card)
    return card.locate(found, choice.card), found


def load(name: str, task: TextClassification | None = None, *, new_head: bool = False) -> Checkpoint:
    """A teacher by card name, folder or Hub id; with a task and `new_head`, made ready to be fine-tuned on it.

    Raises CheckpointError, RecipeError.
    """
    from distill.library import names

    is_card = name in names("teachers") or name.endswith((".yaml", ".yml"))
    folder, _ = find(settings.Teacher(card=name) if is_card else settings.Teacher(checkpoint=name))
    return checkpoint.load(folder, task, new_head=new_head)


class Live:
    """A model that runs, without gradients, on every batch it is asked about."""

    def __init__(self, teacher: Checkpoint, layers: Sequence[int], dtype: torch.dtype) -> None:
        self.model, self.layers, self.dtype = teacher.model.eval(), layers, dtype

    @torch.no_grad()
    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """Logits and hidden states, as the model gives them."""
        device = self.model.device
        moved = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            return read(self.model, moved, self.layers)


class Saved:
    """Signals of a whole split, computed once and looked up by row: logits in memory, hidden states in a mapped file.

    Hidden states are kept in bfloat16, real tokens only. Logits that are asked for alone are given to `keep`, so that
    the next training with the same teacher on the same texts needs no pass.
    """

    def __init__(self, live: Live, encoded: Encoded, scratch: Path, keep: Keep | None = None) -> None:
        self.offsets, self.layers = encoded.offsets, live.layers
        self.logits = torch.zeros(len(encoded), live.model.config.num_labels)
        shape = (int(encoded.offsets[-1]), live.model.config.hidden_size) if live.layers else (0, 0)
        self.hidden = {
            layer: np.lib.format.open_memmap(scratch / f"hidden-{layer}.npy", "w+", dtype=np.int16, shape=shape)
            for layer in live.layers
        }
        if keep is None or live.layers:
            self._fill(live, encoded)
        else:
            facts = {"texts": _hash(encoded), "dtype": str(live.dtype)}
            self.logits = torch.from_numpy(keep(facts, lambda: self._fill(live, encoded).numpy()))

    def _fill(self, live: Live, encoded: Encoded) -> Tensor:
        batches = TokenBatches(encoded.lengths, batch_size=256, batch_tokens=_PASS_TOKENS)
        bar = tqdm(total=len(encoded), desc="teacher's signals", unit="text")
        for rows in batches:
            batch = tensors(collate(encoded, rows), live.model.device)
            found = live.signals(batch)
            self.logits[rows] = found.logits.float().to(self.logits.device)
            real = batch["attention_mask"].bool()
            flat = self._flat(rows)
            for layer, states in found.hidden_states.items():
                self.hidden[layer][flat] = states[real].bfloat16().view(torch.int16).numpy(force=True)
            bar.update(len(rows))
        bar.close()
        return self.logits

    def _flat(self, rows: Sequence[int]) -> np.ndarray:
        return np.concatenate([np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows])

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """The saved signals of a batch's rows; padding is zero."""
        rows = batch["rows"].tolist()
        device, real = batch["input_ids"].device, batch["attention_mask"].bool()
        states = {}
        for layer in self.layers:
            kept = torch.from_numpy(self.hidden[layer][self._flat(rows)]).view(torch.bfloat16).to(device)
            states[layer] = torch.zeros((*real.shape, kept.shape[-1]), dtype=torch.bfloat16, device=device)
            states[layer][real] = kept
        return Signals(self.logits[rows].to(device), states)


def _hash(encoded: Encoded) -> str:
    """Of every token of a split, and of what it was cut into."""
    found = hashlib.sha256()
    for array in (encoded.ids, encoded.offsets, encoded.types):
        found.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def answering(
    teacher: Checkpoint, encoded: Encoded, layers: Sequence[int], *, epochs: float, dtype: torch.dtype,
    scratch: Path, live: bool = True, keep: Keep | None = None,
) -> Teacher:  # fmt: skip
    """What answers for a split in the cheaper way, and says so: saved signals where they are asked for again.

    `encoded` is the split in the teacher's own tokens, `layers` the hidden states that will be asked for. A live
    teacher serves a single epoch, and hidden states too large to keep; not where `live` is false, because the batches
    that it would be asked about hold another tokenizer's ids. `keep` keeps logits for the next training. Raises
    MachineError when there is no room then.
    """
    source = Live(teacher, layers, dtype)
    width = anatomy.size(teacher.model.config.to_dict(), "hidden_size") or teacher.model.config.hidden_size
    needed = int(encoded.offsets[-1]) * width * 2 * len(layers)
    if layers and live and epochs <= 1:
        log.info("the teacher runs in every step: its hidden states are asked for only once")
        return source
    if live and needed > SAVED_AT_MOST:
        log.info("the teacher runs in every step: its hidden states would take %.1f GB of disk", needed / 1e9)
        return source
    if layers and shutil.disk_usage(scratch).free < 2 * needed:
        room = f"{scratch} has no {needed / 1e9:.1f} GB to spare for the teacher's hidden states"
        if not live:
            raise MachineError(f"{room}; imitate logits alone behind a trimmed vocabulary, or make room")
        log.warning("the teacher runs in every step: %s", room)
        return source
    log.info("the teacher's signals are computed once for each text (%.0f MB on disk)", needed / 1e6)
    return Saved(source, encoded, scratch, keep)
