"""The one training loop: a transformers.Trainer that trains any objective, tells every term, keeps the best epoch."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import rotate_checkpoints

from distill import processes
from distill.data import Encoded, TokenBatches, collate
from distill.disk import machine_errors
from distill.errors import TrainingError
from distill.recipe import settings
from distill.signals import Signals
from distill.simulation import simulated
from distill.training.continuing import latest, seal
from distill.training.doubts import warn
from distill.training.freezing import freeze
from distill.training.gradients import gradient_shares
from distill.training.progress import Progress
from distill.training.record import Clock, TrainingLog, Watch

log = logging.getLogger(__name__)
_RECORDS = 100  # how many points of the loss curves are kept
_PULLS = 10  # how often the gradients of the terms are held against each other: a backward pass a term each time
_PLAIN_ATTENTION = 256  # tokens
SAVE_EVERY = 600.0  # seconds between checkpoints within an epoch
_STEPS_ASKED = 50  # between two times that several processes ask their leader whether one is due


class Objective(nn.Module):
    """A student with what its loss needs. `forward(batch, signals)` gives the loss and its terms.

    `terms` maps a name to its unweighted value; `weights` holds each term's factor, and the loss is their weighted sum.
    """

    student: nn.Module
    weights: dict[str, float]

    def forward(self, batch: dict[str, Tensor], signals: Signals | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and each term before its weight."""
        raise NotImplementedError


def choose_dtype(asked: str) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it itself: most GPUs, CPUs with AMX or AVX512-BF16."""
    if asked != "auto":
        return getattr(torch, asked)
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = any(getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("amx_tile", "avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


def fit(
    objective: Objective,
    train: Encoded,
    words: settings.Training,
    *,
    validate: Callable[[], float],
    answer: Callable[[dict[str, Tensor]], Signals] | None = None,
    lower: bool = False,
    seed: int = 0,
    watch: Watch | None = None,
) -> TrainingLog:
    """Trains an objective in place and leaves it at its best epoch by `validate`'s score (`lower`: less is better).

    `answer` gives the teacher's signals for a batch. Where the watch has a folder, a training that was cut off goes on
    from its last complete checkpoint. Of several processes each calls this; all end with the same weights. Raises
    TrainingError when a term is no longer a number.
    """
    watch, dtype = watch or Watch(), choose_dtype(words.dtype)
    with contextlib.ExitStack() as stack:
        folder = watch.folder or stack.enter_context(_scratch())
        stack.enter_context(machine_errors(f"{watch.title}: saving"))
        found = processes.once(lambda: latest(folder))
        start, record = found or (None, TrainingLog(watch.title, str(dtype).removeprefix("torch."), lower=lower))
        if start is not None:
            record.sittings += 1
            log.info("%s: goes on from %s", watch.title, start.name)
            if record.waited >= words.patience:  # it had stopped early; only its best epoch is to be loaded
                words = words.model_copy(update={"max_steps": int(start.name.rpartition("-")[2])})
        progress = Progress(watch.title)
        stack.callback(progress.close)
        trainer = _Trainer(
            objective, train, words, record, validate, answer, watch,
            args=_arguments(words, dtype, seed, folder, lower),
            callbacks=[progress, transformers.EarlyStoppingCallback(words.patience)],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        model, rounded = objective.student, simulated if words.simulate == "int8" else contextlib.nullcontext
        freeze(model, words.freeze)
        with _dropout(model, words.dropout), _attention(model, train), rounded(model):
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        objective.eval()
        record.seconds = trainer.clock.seconds
    record.samples_per_second = record.samples / record.seconds
    best = record.best
    record.best_epoch = best["epoch"]
    watch.log = record
    log.info(
        "%s: best epoch %g of %g, validation score %.4f (%.0f texts/s in %s)",
        watch.title, best["epoch"], record.epochs[-1]["epoch"], best["score"], record.samples_per_second, record.dtype,
    )  # fmt: skip
    return record


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for as long as the training lasts, the same for all processes."""
    folder = processes.once(lambda: Path(tempfile.mkdtemp(prefix="distill-training-")))
    try:
        yield folder
    finally:
        if processes.is_first():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _dropout(model: nn.Module, rate: float | None) -> Iterator[None]:
    """Every dropout layer of a model at one rate for as long as the block lasts; None leaves them alone."""
    layers = [module for module in model.modules() if isinstance(module, nn.Dropout)] if rate is not None else []
    own = [layer.p for layer in layers]
    for layer in layers:
        layer.p = rate
    try:
        yield
    finally:
        for layer, before in zip(layers, own, strict=True):
            layer.p = before


@contextlib.contextmanager
def _attention(model: nn.Module, train: Encoded) -> Iterator[None]:
    """Plain attention for short texts on a CPU, for as long as the block lasts.

    There the backward pass of fused attention is the slower one: at 128 tokens a training step took 1.3 to 1.4 times as
    long. Long texts keep fused attention, whose memory does not grow with the square of their length.
    """
    own = model.config._attn_implementation
    if model.device.type != "cpu" or own != "sdpa" or train.sequences.max() > _PLAIN_ATTENTION:
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def _arguments(
    words: settings.Training, dtype: torch.dtype, seed: int, folder: Path, lower: bool
) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=words.epochs,
        max_steps=words.max_steps or -1,
        gradient_accumulation_steps=words.accumulate,
        learning_rate=words.learning_rate,
        lr_scheduler_type=words.schedule if words.schedule != "constant" else "constant_with_warmup",
        warmup_steps=words.warmup,
        weight_decay=words.weight_decay,
        max_grad_norm=words.clip,
        optim="adamw_torch_fused",
        bf16=dtype == torch.bfloat16,
        use_cpu=processes.device().type == "cpu",
        seed=seed,
        logging_strategy="no",
        eval_strategy="epoch",
        save_strategy="epoch",
        restore_callback_states_from_checkpoint=True,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=not lower,
        disable_tqdm=True,
        remove_unused_columns=False,
        report_to=[],
    )


class _RowNumbers(Dataset):
    """Trainer wants a dataset; batches are cut from the encoded split by row number."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> int:
        return row


class _Trainer(transformers.Trainer):
    def __init__(
        self, objective: Objective, train: Encoded, words: settings.Training, record: TrainingLog,
        validate: Callable[[], float], answer: Callable[[dict[str, Tensor]], Signals] | None, watch: Watch,
        **trainer: Any,
    ) -> None:  # fmt: skip
        rows = _RowNumbers(len(train))
        super().__init__(model=objective, train_dataset=rows, eval_dataset=rows, **trainer)  # `evaluate` is our own
        self.train_rows, self.words, self.record = train, words, record
        self.validate, self.answer, self.watch = validate, answer, watch
        self.clock, self.saved = Clock(record.seconds), time.monotonic()
        self.sums: dict[str, float] = defaultdict(float)
        self.summed = 0
        self.pulls: dict[str, float] = {}
        self.warned: set[str] = set()

    def get_train_dataloader(self) -> DataLoader:
        batches = TokenBatches(
            self.train_rows.work, self.words.batch_size, self.words.batch_tokens, seed=self.args.seed
        )
        loader = DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self._collate)
        # Every process draws every batch and takes its share in `_collate`: accelerate would deal out whole batches.
        loader = prepare_data_loader(
            loader, device=self.accelerator.device, put_on_device=True, num_processes=1, process_index=0
        )
        self.batches = batches
        self.epoch_steps = -(-len(loader) // self.words.accumulate)
        return loader

    def _collate(self, rows: list[int]) -> dict[str, Tensor]:
        turn = (self.args.seed, 1 + self.batches.epoch)  # the turn of what is scored is 0
        batch = collate(self.train_rows, processes.share_of(rows), turn)
        return {name: torch.as_tensor(array) for name, array in batch.items()} | {"whole": torch.tensor(len(rows))}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        loss, terms = model(inputs, self.answer(inputs) if self.answer else None)
        self.record.samples += int(inputs["whole"])
        if len(terms) > 1 and self._is_due(_PULLS):
            objective = self.accelerator.unwrap_model(self.model)
            trained = [parameter for parameter in objective.student.parameters() if parameter.requires_grad]
            self.pulls = gradient_shares(terms, objective.weights, trained)
        self._tell(terms, inputs["rows"])
        return loss

    def _is_due(self, times: int) -> bool:
        """Whether what is done so often in a training is to be done in this step, at the last of its batches."""
        step = self.state.global_step + 1
        due = step % max(1, self.state.max_steps // times) == 0 or step == self.state.max_steps
        return due and self.accelerator.sync_gradients

    def _tell(self, terms: dict[str, Tensor], rows: Tensor) -> None:
        """Adds the terms to the running record; stops at the first that is no longer a number."""
        step = self.state.global_step + 1
        weights = self.accelerator.unwrap_model(self.model).weights
        for name, tensor in terms.items():
            value = float(tensor.detach())
            if value != value or value in (float("inf"), float("-inf")):
                raise TrainingError(
                    f"{self.record.step}: the term '{name}' is {value} in step {step}, in the batch of training rows "
                    f"{rows.tolist()[:8]}…; lower learning_rate, or set dtype: float32"
                )
            self.sums[name] += weights[name] * value
        self.summed += 1
        if self._is_due(_RECORDS):
            self._record(step, weights)

    def _record(self, step: int, weights: dict[str, float]) -> None:
        self.sums = dict(zip(self.sums, processes.mean([*self.sums.values()]), strict=True))
        total = sum(self.sums.values()) or 1.0
        shares = {name: value / total for name, value in self.sums.items()}
        terms = {
            name: {
                "value": value / self.summed / weights[name],
                "weight": weights[name],
                "share": shares[name],
                **({"gradient": self.pulls[name]} if self.pulls else {}),
            }
            for name, value in self.sums.items()
        }
        told = {
            "step": step,
            "epoch": round(self.state.epoch or 0.0, 4),
            "learning_rate": self._get_learning_rate(),
            "loss": sum(self.sums.values()) / self.summed,
        }
        self.record.records.append({**told, "terms": terms})
        flat = {f"{name}/{word}": value for name, term in terms.items() for word, value in term.items()}
        pace = {"samples_per_second": self.record.samples / self.clock.seconds, "steps": self.state.max_steps}
        self.watch.tell({**told, **flat, **pace})
        self.sums, self.pulls = defaultdict(float), {}
        self.summed = 0

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        self.model.eval()  # no dropout in what is scored; the next step turns it on again
        metrics = {"eval_score": processes.once(self.validate)}
        scored = {"epoch": round(self.state.epoch or 0.0, 4), "score": metrics["eval_score"]}
        self.record.epochs.append(scored)
        self.watch.tell({"step": self.state.global_step, "epoch": scored["epoch"], "validation_score": scored["score"]})
        if self.summed:
            self._record(self.state.global_step, self.accelerator.unwrap_model(self.model).weights)
        warn(self.record, self.warned)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _maybe_log_save_evaluate(self, *given: Any, **words: Any) -> None:
        """Within a long epoch a checkpoint is due now and then, so that little is lost when the machine dies.

        Not at its last step: who goes on from there takes the epoch for validated.
        """
        step = self.state.global_step
        within = step % self.epoch_steps and step < self.state.max_steps
        asked = processes.number() == 1 or step % _STEPS_ASKED == 0
        if self.watch.folder is not None and within and asked:
            due = processes.once(lambda: time.monotonic() - self.saved >= SAVE_EVERY)
            self.control.should_save = self.control.should_save or due
        super()._maybe_log_save_evaluate(*given, **words)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Older checkpoints go only when the new one is sealed."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.record.seconds = self.clock.seconds
            self.accelerator.wait_for_everyone()  # each process has a file of its own in it
            if processes.is_first():
                seal(folder, self.record)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # on a full disk its part would only be in the way
            raise
        if processes.is_first():
            rotate_checkpoints(self.args.output_dir, 1, self.state.best_model_checkpoint)
        self.saved = time.monotonic()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Weights that are tied are saved under each of their names, which safetensors wants apart in memory."""
        seen: set[int] = set()
        apart: dict[str, torch.Tensor] = {}
        for name, tensor in (self.model.state_dict() if state_dict is None else state_dict).items():
            apart[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
        super()._save(output_dir, apart)
