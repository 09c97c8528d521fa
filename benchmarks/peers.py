"""What others make of the same teacher: ONNX Runtime's dynamic quantization, torch-pruning, a cut student to fine-tune.

Each is done as its own documentation shows, and leaves a folder that is measured like ours.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

from distill.checkpoint import Checkpoint
from distill.disk import atomic_folder
from distill.engines import GRAPHS

if TYPE_CHECKING:
    from distill.tasks import Task

RATIO = 0.5  # torch-pruning's example takes half of everything


def quantized_by_onnxruntime(teacher: Checkpoint, folder: Path) -> Path:
    """torch.onnx.export without options, then `quantize_dynamic(fp32, int8)`, as ONNX Runtime's page on it shows."""
    from onnxruntime.quantization import quantize_dynamic

    model = teacher.model.eval()
    ids = torch.arange(14).reshape(2, 7)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with atomic_folder(folder) as unfinished, _quiet():
        model.config.save_pretrained(unfinished)
        teacher.tokenizer.save_pretrained(unfinished)
        fp32 = unfinished / "plain.onnx"
        torch.onnx.export(
            _Logits(model), tuple(given.values()), fp32, input_names=list(given), output_names=["logits"],
            dynamic_shapes={"ids": free, "mask": free, "types": free}, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
        quantize_dynamic(fp32, unfinished / GRAPHS["onnx-int8"])
        fp32.unlink()
    return folder


class _Logits(torch.nn.Module):
    """A model that answers with its logits alone, for the exporter."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits


def pruned_by_torch_pruning(teacher: Checkpoint, folder: Path) -> Path:
    """Half the heads, half the neurons and half the hidden size by group magnitude, uniformly and in one step.

    The settings are those of torch-pruning's `examples/transformers/prune_hf_bert.py`; the head on top is left
    alone, as the pooler is there. What comes out is a shape that a BertConfig can say.
    """
    try:
        import torch_pruning
    except ImportError:
        sys.exit("torch-pruning isn't installed, and is a peer of this benchmark: pip install torch-pruning==1.6.1")
    model = teacher.copy().model.eval().requires_grad_(True)
    sample = teacher.tokenizer("Hello, my dog is cute", return_tensors="pt")
    attentions = [layer.attention.self for layer in model.bert.encoder.layer]
    heads = {
        linear: attention.num_attention_heads
        for attention in attentions
        for linear in (attention.query, attention.key, attention.value)
    }
    pruner = torch_pruning.pruner.BasePruner(
        model, dict(sample), importance=torch_pruning.importance.MagnitudeImportance(p=2, group_reduction="mean"),
        global_pruning=False, iterative_steps=1, pruning_ratio=RATIO, num_heads=heads, prune_head_dims=False,
        prune_num_heads=True, head_pruning_ratio=RATIO, output_transform=lambda out: out.logits.sum(),
        ignored_layers=[model.classifier],
    )  # fmt: skip
    for group in pruner.step(interactive=True):
        group.prune()
    config = transformers.BertConfig.from_dict({
        **model.config.to_dict(),
        "hidden_size": model.classifier.in_features,
        "num_attention_heads": pruner.num_heads[attentions[0].query],
        "intermediate_size": model.bert.encoder.layer[0].intermediate.dense.out_features,
    })  # fmt: skip
    plain = transformers.BertForSequenceClassification(config)
    plain.load_state_dict(model.state_dict())
    Checkpoint(plain.eval(), teacher.tokenizer).save(folder)
    return folder


def cut_and_not_taught(card: str, task: Task, layers: int, folder: Path) -> Path:
    """Some layers of a card's checkpoint, as it was published, with a new head: what plain fine-tuning starts from."""
    import distill

    distill.cut(distill.load_teacher(card, task, new_head=True), layers=layers).save(folder)
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' advice is kept from the page; what fails still raises."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
