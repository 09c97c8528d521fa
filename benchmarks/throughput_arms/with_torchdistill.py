"""torchdistill as its `text_classification.py` and its configuration for SST-2 show: KDLoss, padded dynamically.

The dict is that configuration, batch size and learning rate aside. As in the example, every epoch is validated and the
best one kept; signals are not cached, as there. It goes without accelerate, which is optional to it: it asks for a
`use_fp16` that accelerate no longer has.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import torch
import transformers
from arm import Plan, Texts, carry_out, model

try:
    import torchvision  # noqa: F401 - torchdistill imports it; whether it can be is found out here
except RuntimeError:  # PyPI's is built for CUDA: beside a torch without it, its operators can't be loaded
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    OPERATORS = torch.library.Library("torchvision", "DEF")  # what its import asks for, on boxes in images
    for name in ("nms", "qnms"):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchdistill.core.distillation import get_distillation_box
from torchdistill.core.interfaces.forward_proc import register_forward_proc_func
from torchdistill.datasets.registry import register_collate_func
from torchdistill.optim.registry import get_optimizer, register_optimizer, register_scheduler

register_scheduler(transformers.get_linear_schedule_with_warmup)


@register_forward_proc_func
def forward_batch_as_kwargs(model: Any, sample_batch: Any, targets: Any = None, supp_dict: Any = None) -> Any:
    """How the example calls a model."""
    return model(**sample_batch)


@register_optimizer
def optimizer_no_decay(model: Any, optimizer_key: str, weight_decay: float, **words: Any) -> Any:
    """The example's optimizer: nothing is decayed in its configuration."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return get_optimizer([{"params": parameters, "weight_decay": weight_decay}], optimizer_key, **words)


def configuration(plan: Plan, steps: int) -> dict[str, Any]:
    """`configs/sample/glue/sst2/kd`, as a dict."""

    def loader(split: str, sampler: type) -> dict[str, Any]:
        return {
            "dataset_id": split, "sampler": {"class_or_func": sampler, "kwargs": None}, "requires_supp": False,
            "collate_fn": "DataCollatorWithPadding", "cache_output": None,
            "kwargs": {"batch_size": plan.batch_size, "num_workers": 0, "drop_last": False},
        }  # fmt: skip

    def side(trained: bool) -> dict[str, Any]:
        return {
            "forward_proc": "forward_batch_as_kwargs", "adaptations": None, "sequential": [], "wrapper": None,
            "requires_grad": trained, "frozen_modules": [], "forward_hook": {"input": [], "output": ["classifier"]},
        }  # fmt: skip

    logits = {"module_path": "classifier", "module_io": "output"}
    words = {f"{who}_{word}": value for who in ("student", "teacher") for word, value in logits.items()}
    loss = {"key": "KDLoss", "kwargs": {**words, "temperature": 3.0, "alpha": 0.9, "reduction": "batchmean"}}
    optimizer = {"optimizer_key": "AdamW", "lr": plan.learning_rate, "weight_decay": 0.0}
    return {
        "log_freq": 500, "num_epochs": plan.epochs,
        "train_data_loader": loader("train", torch.utils.data.RandomSampler),
        "val_data_loader": loader("validation", torch.utils.data.SequentialSampler),
        "teacher": side(trained=False), "student": side(trained=True),
        "optimizer": {
            "key": "optimizer_no_decay", "kwargs": optimizer, "filters_params": False, "max_grad_norm": 1.0,
            "grad_accum_step": 1,
        },
        "scheduler": {
            "key": "get_linear_schedule_with_warmup", "scheduling_step": 1,
            "kwargs": {"num_warmup_steps": 0, "num_training_steps": steps},
        },
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}}},
    }  # fmt: skip


@torch.inference_mode()
def accuracy(student: Any, loader: Any) -> float:
    """The example's validation."""
    student.eval()
    right = total = 0
    for batch in loader:
        labels = batch.pop("labels")
        right += int((student(**batch).logits.argmax(-1) == labels).sum())
        total += len(labels)
    return right / total


def train(plan: Plan) -> dict[str, Any]:
    """One training."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(plan.student)
    register_collate_func(transformers.DataCollatorWithPadding(tokenizer))
    texts = {split: Texts(getattr(plan, split), tokenizer, padded=False) for split in ("train", "validation")}
    steps = -(-len(texts["train"]) // plan.batch_size) * plan.epochs
    teacher, student = model(plan.teacher), model(plan.student)
    box = get_distillation_box(teacher, student, texts, configuration(plan, steps), torch.device("cpu"), None, False, 1)
    best = -1.0
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        for batch in box.train_data_loader:
            box.post_forward_process(loss=box.forward_process(batch, targets=None, supp_dict=None))
        found = accuracy(student, box.val_data_loader)
        if found > best:
            best = found
            student.save_pretrained(plan.weights)
        box.post_epoch_process()
    tokenizer.save_pretrained(plan.weights)
    return {"texts": len(texts["train"]), "library": importlib.metadata.version("torchdistill")}


if __name__ == "__main__":
    carry_out(train)
