"""The teacher answers one question: your signals for this batch? A live model and saved signals answer alike."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from distill import anatomy, card, checkpoint, gguf
from distill.checkpoint import Checkpoint
from distill.data import Encoded, Ragged, TokenBatches, collate
from distill.errors import MachineError
from distill.recipe import settings
from distill.signals import Signals, Wanted, read, tensors
from distill.tasks import NO_TARGET, Task

log = logging.getLogger(__name__)
SAVED_AT_MOST = 4 << 30  # bytes of signals that are kept on disk; beyond it the teacher runs in every step
_PASS_TOKENS = 8192
_HIDDEN = "hidden_states"
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


class Saved:
    """Signals of a whole split, computed once and looked up by row.

    Logits of rows lie in memory; those of tokens, hidden states and vectors in mapped files, real tokens only. All but
    the logits are kept in bfloat16. Logits of rows that are asked for alone are given to `keep`, so that the next
    training with the same teacher on the same texts needs no pass.
    """

    def __init__(self, live: Live, encoded: Encoded, scratch: Path, keep: Keep | None = None) -> None:
        self.tokens, self.wanted = encoded.tokens, live.wanted
        self.written = encoded.targets if encoded.decoder_start is not None else encoded.tokens
        self.config = live.model.config.to_dict()
        sample = _sample(live, encoded)
        self.by_token = sample.logits.ndim == 3
        if self.by_token:
            total = (int(self.written.offsets[-1]), sample.logits.shape[-1])
            self.logits = np.lib.format.open_memmap(scratch / "logits.npy", "w+", dtype=np.float32, shape=total)
        else:
            self.logits = np.zeros((len(encoded), *sample.logits.shape[1:]), dtype=np.float32)
        self.states = {
            (kind, layer): np.lib.format.open_memmap(
                scratch / f"{kind}-{layer}.npy", "w+", dtype=np.int16,
                shape=(int(self._text(layer).offsets[-1]), found.shape[-1]),
            )
            for (kind, layer), found in _by_token(sample).items()
        }  # fmt: skip
        if keep is None or self.states or self.by_token:
            self._fill(live, encoded)
        else:
            facts = {"texts": fingerprint(encoded), "dtype": str(live.dtype)}
            self.logits = keep(facts, lambda: self._fill(live, encoded))

    def _text(self, layer: int) -> Ragged:
        """The tokens that a layer has a vector for: of the text that is read, or of the one to write."""
        return self.written if anatomy.is_written(self.config, layer) else self.tokens

    def _real(self, layer: int, batch: dict[str, Tensor]) -> Tensor:
        return _written(batch) if anatomy.is_written(self.config, layer) else batch["attention_mask"].bool()

    def _fill(self, live: Live, encoded: Encoded) -> np.ndarray:
        batches = TokenBatches(encoded.work, batch_size=256, batch_tokens=_PASS_TOKENS)
        with tqdm(total=len(encoded), desc="teacher's signals", unit="text") as bar:
            for rows in batches:
                batch = tensors(collate(encoded, rows), live.model.device)
                found = live.signals(batch)
                logits = found.logits.float()
                if self.by_token:
                    self.logits[self.written.places(rows)] = logits[_written(batch)].numpy(force=True)
                else:
                    self.logits[rows] = logits.numpy(force=True)
                for (kind, layer), states in _by_token(found).items():
                    real, places = self._real(layer, batch), self._text(layer).places(rows)
                    self.states[kind, layer][places] = states[real].bfloat16().view(torch.int16).numpy(force=True)
                bar.update(len(rows))
        return self.logits

    def signals(self, batch: dict[str, Tensor]) -> Signals:
        """The saved signals of a batch's rows; padding is zero."""
        rows, device = batch["rows"].tolist(), batch["input_ids"].device
        if self.by_token:
            kept = torch.from_numpy(self.logits[self.written.places(rows)]).to(device)
            found = Signals(_laid_out(kept, _written(batch)))
        else:
            found = Signals(torch.from_numpy(self.logits[rows]).to(device))
        for (kind, layer), states in self.states.items():
            kept = torch.from_numpy(states[self._text(layer).places(rows)]).view(torch.bfloat16)
            laid = _laid_out(kept.to(device), self._real(layer, batch))
            if kind == _HIDDEN:
                found.hidden_states[layer] = laid
            else:
                found.vectors[kind, layer] = laid
        return found


def _by_token(signals: Signals) -> dict[tuple[str, int], Tensor]:
    """What has a vector a token, by what it is and layer."""
    return {(_HIDDEN, layer): states for layer, states in signals.hidden_states.items()} | signals.vectors


def _written(batch: dict[str, Tensor]) -> Tensor:
    """Where a batch has logits of real tokens, (batch, tokens): those of the text that is read, or written."""
    return batch["labels"] != NO_TARGET if "decoder_input_ids" in batch else batch["attention_mask"].bool()


def _laid_out(values: Tensor, real: Tensor) -> Tensor:
    """Rows of real tokens back in their places of (batch, tokens)."""
    found = torch.zeros((*real.shape, values.shape[-1]), dtype=values.dtype, device=values.device)
    found[real] = values
    return found


def _sample(live: Live, encoded: Encoded) -> Signals:
    """The signals of the shortest row: what shapes they have."""
    return live.signals(tensors(collate(encoded, [int(encoded.lengths.argmin())]), live.model.device))


def fingerprint(encoded: Encoded) -> str:
    """SHA-256 of every token of a split that is read, and of what it was cut into."""
    found = hashlib.sha256()
    for array in (encoded.ids, encoded.offsets, encoded.types):
        found.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def answering(
    teacher: Checkpoint, encoded: Encoded, wanted: Wanted, *, epochs: float, dtype: torch.dtype,
    scratch: Path, live: bool = True, keep: Keep | None = None,
) -> Teacher:  # fmt: skip
    """What answers for a split in the cheaper way, and says so: saved signals where they are asked for again.

    `encoded` is the split in the teacher's own tokens, `wanted` what will be asked for beside the logits. A live
    teacher serves a single epoch, and signals too large to keep, as attentions are; not where `live` is false, because
    the batches that it would be asked about hold another tokenizer's ids. `keep` keeps logits of rows for the next
    training. Raises MachineError when there is no room then.
    """
    source = Live(teacher, wanted, dtype)
    if encoded.masking is not None:
        log.info("the teacher runs in every step: texts are masked anew in each epoch")
        return source
    if wanted.attentions:
        log.info("the teacher runs in every step: attentions grow with the square of a text's length")
        return source
    needed, what = _bytes_of(source, encoded)
    if needed and live and epochs <= 1:
        log.info("the teacher runs in every step: its %s are asked for only once", what)
        return source
    if live and needed > SAVED_AT_MOST:
        log.info("the teacher runs in every step: its %s would take %.1f GB of disk", what, needed / 1e9)
        return source
    if needed and shutil.disk_usage(scratch).free < 2 * needed:
        room = f"{scratch} has no {needed / 1e9:.1f} GB to spare for the teacher's {what}"
        if not live:
            raise MachineError(f"{room}; imitate logits alone behind a trimmed vocabulary, or make room")
        log.warning("the teacher runs in every step: %s", room)
        return source
    log.info("the teacher's signals are computed once for each text (%.0f MB on disk)", needed / 1e6)
    return Saved(source, encoded, scratch, keep)


def _bytes_of(live: Live, encoded: Encoded) -> tuple[int, str]:
    """What signals with a vector a token would take on disk, and what they are."""
    sample, config = _sample(live, encoded), live.model.config.to_dict()
    written = encoded.targets if encoded.decoder_start is not None else encoded.tokens
    needed, names = 0, []
    if sample.logits.ndim == 3:
        needed += int(written.offsets[-1]) * sample.logits.shape[-1] * 4
        names.append("logits")
    for (_, layer), states in _by_token(sample).items():
        text = written if anatomy.is_written(config, layer) else encoded.tokens
        needed += int(text.offsets[-1]) * states.shape[-1] * 2
    names += ["hidden states"] if sample.hidden_states else []
    names += ["queries, keys and values"] if sample.vectors else []
    return needed, " and ".join(names)
