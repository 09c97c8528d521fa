"""The Trainer behind every training: batches by tokens, every term told, checkpoints that are sealed."""

from __future__ import annotations

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers.trainer import OPTIMIZER_NAME
from transformers.trainer_utils import rotate_checkpoints

from distill import processes
from distill.data import Encoded, TokenBatches, collate
from distill.errors import TrainingError
from distill.recipe import settings
from distill.signals import Signals
from distill.training.continuing import seal
from distill.training.doubts import warn
from distill.training.gradients import gradient_shares
from distill.training.rates import Rate, set_apart
from distill.training.record import Clock, TrainingLog, Watch

_RECORDS = 100  # how many points of the loss curves are kept
_PULLS = 10  # how often the gradients of the terms are held against each other: a backward pass a term each time
_APART = 20  # steps that lie between two of those at least; the last step has one anyway
SAVE_EVERY = 600.0  # seconds between checkpoints within an epoch
_STEPS_ASKED = 50  # between two times that several processes ask their leader whether one is due


class Objective(nn.Module):
    """A student with what its loss needs. `forward(batch, signals)` gives the loss and its terms.

    `terms` maps a name to its unweighted value; `weights` holds each term's factor, and the loss is their weighted sum.
    `attends` says that one of them takes attention weights, which then go through no dropout.
    """

    student: nn.Module
    weights: dict[str, float]
    attends: bool = False

    def forward(self, batch: dict[str, Tensor], signals: Signals | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and each term before its weight."""
        raise NotImplementedError

    def rates(self) -> Sequence[Rate]:
        """What is trained at a learning rate of its own."""
        return ()


class _RowNumbers(Dataset):
    """Trainer wants a dataset; batches are cut from the encoded split by row number."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> int:
        return row


class Trainer(transformers.Trainer):
    """Trains an objective on the rows of an encoded split; `fit` is the way in."""

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
        self.sums: dict[str, float] = defaultdict(float, record.since.get("sums", {}))
        self.summed: int = record.since.get("summed", 0)
        self.pulls: dict[str, float] = record.since.get("pulls", {})
        self.warned: set[str] = set(record.since.get("warned", ()))

    def get_train_dataloader(self) -> DataLoader:
        """Batches by tokens, the same ones in every process."""
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

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, with what has a learning rate of its own in groups of its own."""
        if self.optimizer is None:
            super().create_optimizer(model)
            set_apart(self.optimizer, self.accelerator.unwrap_model(self.model).rates())
        return self.optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        """The objective's loss; its terms are told."""
        signals = self.answer(inputs) if self.answer else None
        loss, terms = model(inputs, signals)
        if not loss.requires_grad:
            raise TrainingError(
                f"{self.record.step}: nothing that is trained changes the loss ({', '.join(terms)}); `freeze` less, or "
                "imitate what lies behind the frozen parts"
            )
        self.record.samples += int(inputs["whole"])
        if len(terms) > 1 and self._is_due(_PULLS, _APART):
            objective = self.accelerator.unwrap_model(self.model)
            trained = [parameter for parameter in objective.student.parameters() if parameter.requires_grad]
            self.pulls = gradient_shares(terms, objective.weights, trained)
        self._tell(terms, inputs["rows"], signals)
        return loss

    def _is_due(self, times: int, apart: int = 1) -> bool:
        """Whether what is done so often in a training, and no more often than each `apart` steps, is to be done in this
        step, at the last of its batches.
        """
        step = self.state.global_step + 1
        due = step % max(apart, self.state.max_steps // times) == 0 or step == self.state.max_steps
        return due and self.accelerator.sync_gradients

    def _tell(self, terms: dict[str, Tensor], rows: Tensor, signals: Signals | None) -> None:
        """Adds the terms to the running record; stops at the first that is no longer a number."""
        step = self.state.global_step + 1
        weights = self.accelerator.unwrap_model(self.model).weights
        for name, tensor in terms.items():
            value = float(tensor.detach())
            if not math.isfinite(value):
                theirs = (
                    signals is not None and signals.logits is not None and not bool(signals.logits.isfinite().all())
                )
                way = "the teacher's own logits are no numbers there" if theirs else "lower learning_rate"
                if self.accelerator.mixed_precision != "no":
                    way += ", or set dtype: float32"
                raise TrainingError(
                    f"{self.record.step}: the term '{name}' is {value} in step {step}, in the batch of training rows "
                    f"{rows.tolist()[:8]}…; {way}"
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
                **({"gradient": self.pulls[name]} if name in self.pulls else {}),
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

    def _run_epoch(self, *given: Any, **words: Any) -> None:
        """An epoch; nothing of one in the middle of which the training had ended, when it is gone on with: Trainer
        looks for the end behind a step.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*given, **words)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The validation score."""
        self.model.eval()  # no dropout in what is scored; the next step turns it on again
        metrics = {"eval_score": processes.once(self.validate)}
        if not math.isfinite(metrics["eval_score"]):
            raise TrainingError(
                f"{self.record.step}: the validation score behind step {self.state.global_step} is "
                f"{metrics['eval_score']}; lower learning_rate, or set dtype: float32"
            )
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

    @property
    def _goes_on(self) -> bool:
        """Whether any step may follow from a checkpoint that is made now: else the weights are all that it needs."""
        last = self.control.should_training_stop or self.state.global_step >= self.state.max_steps
        return self._is_sharded or (self.watch.folder is not None and not last)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Raises TrainingError for the end of a training from which this one would go on."""
        further = checkpoint is not None and self.state.global_step < self.state.max_steps
        if further and not self._is_sharded and not (Path(checkpoint) / OPTIMIZER_NAME).is_file():
            raise TrainingError(
                f"{self.record.step}: {checkpoint} is the end of a shorter training, which no step can follow; take "
                "another folder for this one"
            )
        super()._load_optimizer_and_scheduler(checkpoint)

    @property
    def _is_sharded(self) -> bool:
        """Whether weights are spread over processes in ways that Trainer looks after itself."""
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Gradients within the limit are left alone on a CPU, where torch goes over all of them to multiply by 1."""
        if self._is_sharded or self.accelerator.device.type != "cpu":
            return super()._clip_grad_norm(model)
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
        if not torch.isfinite(norm):
            raise TrainingError(
                f"{self.record.step}: the gradient of step {self.state.global_step + 1} is {float(norm)}; lower "
                "learning_rate, or set dtype: float32"
            )
        if norm > self.args.max_grad_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.args.max_grad_norm, norm)
        return norm

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Older checkpoints go only when the new one is sealed."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.args.save_only_model = not self._goes_on
        try:
            super()._save_checkpoint(model, trial)
            self.record.seconds, self.record.since = self.clock.seconds, self._since()
            self.accelerator.wait_for_everyone()  # each process has a file of its own in it
            if processes.is_first() and self.watch.folder is not None:
                seal(folder, self.record)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # on a full disk its part would only be in the way
            raise
        if processes.is_first():
            rotate_checkpoints(self.args.output_dir, 1, self.state.best_model_checkpoint)
        self.saved = time.monotonic()

    def _since(self) -> dict[str, Any]:
        """What was summed since the last record, over all processes, and what was warned of: for who goes on."""
        self.sums.update(zip(self.sums, processes.mean([*self.sums.values()]), strict=True) if self.sums else ())
        return {"sums": dict(self.sums), "summed": self.summed, "pulls": self.pulls, "warned": sorted(self.warned)}

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Weights that are tied are saved under each of their names, which safetensors wants apart in memory."""
        seen: set[int] = set()
        apart: dict[str, torch.Tensor] = {}
        for name, tensor in (self.model.state_dict() if state_dict is None else state_dict).items():
            apart[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
            seen.add(tensor.data_ptr())
        super()._save(output_dir, apart)
