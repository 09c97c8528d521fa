"""The one training loop: a transformers.Trainer that trains any objective, tells every term, keeps the best epoch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor
from transformers.trainer_callback import PrinterCallback

from distill import processes
from distill.compiling import compiled
from distill.data import Encoded
from distill.disk import machine_errors
from distill.recipe import settings
from distill.signals import Signals
from distill.training.conditions import attention, choose_dtype, dropout, scratch
from distill.training.continuing import latest
from distill.training.freezing import freeze
from distill.training.progress import Progress
from distill.training.record import TrainingLog, Watch
from distill.training.simulation import simulated
from distill.training.trainer import Objective, Trainer

log = logging.getLogger(__name__)


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
        folder = watch.folder or stack.enter_context(scratch())
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
        trainer = Trainer(
            objective, train, words, record, validate, answer, watch,
            args=_arguments(words, dtype, seed, folder, lower),
            callbacks=[progress, transformers.EarlyStoppingCallback(words.patience)],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        model, rounded = objective.student, simulated if words.simulate == "int8" else contextlib.nullcontext
        freeze(model, words.freeze)
        dropped = dropout(model, words.dropout, in_attention=not objective.attends)
        with dropped, attention(model, train), rounded(model), compiled(model, words.compile):
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        objective.eval()
        record.seconds = trainer.clock.seconds
    record.samples_per_second = record.samples / record.seconds
    best = record.best
    record.best_epoch = best["epoch"]
    watch.log = record
    log.info(
        "%s: best epoch %g of %g, validation score %.4f (%.1f texts/s in %s)",
        watch.title, best["epoch"], record.epochs[-1]["epoch"], best["score"], record.samples_per_second, record.dtype,
    )  # fmt: skip
    return record


def _arguments(
    words: settings.Training, dtype: torch.dtype, seed: int, folder: Path, lower: bool
) -> transformers.TrainingArguments:
    made = transformers.TrainingArguments(
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
    made.mixed_precision = "bf16" if made.bf16 else "no"  # the recipe's, whatever accelerate's own settings say
    if made.n_gpu > 1:  # DataParallel deals out what belongs together, and is the slower way
        log.info("one of %d GPUs trains; `accelerate launch` takes all of them", made.n_gpu)
        made._n_gpu = 1
    return made
