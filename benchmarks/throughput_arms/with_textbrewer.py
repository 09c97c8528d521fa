"""TextBrewer as its SST-2 notebook shows: GeneralDistiller, hidden states by `hidden_mse`, its own KD loss.

The layers are those of its `L3_hidden_mse`, halved for a teacher of six, with the mask of its MNLI example, since
batches are padded dynamically here. The notebook validates nothing while it trains.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import torch
import transformers
from arm import CLIP, PAIRS, WARMUP, Plan, Texts, carry_out, model
from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
from torch.utils.data import DataLoader, RandomSampler


def adapt(batch: Any, outputs: Any) -> dict[str, Any]:
    """What the distiller compares."""
    return {"logits": outputs.logits, "hidden": outputs.hidden_states, "inputs_mask": batch["attention_mask"]}


def train(plan: Plan) -> dict[str, Any]:
    """One training."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(plan.student)
    texts = Texts(plan.train, tokenizer, padded=False)
    pad = transformers.DataCollatorWithPadding(tokenizer)
    loader = DataLoader(
        texts, plan.batch_size, sampler=RandomSampler(texts), collate_fn=lambda found: dict(pad(found))
    )  # it takes a batch that is no plain dict for a tuple
    student = model(plan.student, output_hidden_states=True)
    matches = [
        {"layer_T": theirs, "layer_S": mine, "feature": "hidden", "loss": "hidden_mse", "weight": 1}
        for mine, theirs in {0: 0, **PAIRS}.items()
    ]
    distiller = GeneralDistiller(
        train_config=TrainingConfig(output_dir=str(plan.output / "its-own"), device="cpu"),
        distill_config=DistillationConfig(intermediate_matches=matches),
        model_T=model(plan.teacher, output_hidden_states=True),
        model_S=student, adaptor_T=adapt, adaptor_S=adapt,
    )  # fmt: skip
    steps = len(loader) * plan.epochs
    with distiller:
        distiller.train(
            torch.optim.AdamW(student.parameters(), lr=plan.learning_rate), loader, plan.epochs, callback=None,
            scheduler_class=transformers.get_linear_schedule_with_warmup, max_grad_norm=CLIP,
            scheduler_args={"num_warmup_steps": int(WARMUP * steps), "num_training_steps": steps},
        )  # fmt: skip
    student.save_pretrained(plan.weights)
    tokenizer.save_pretrained(plan.weights)
    return {"texts": len(texts), "library": importlib.metadata.version("textbrewer")}


if __name__ == "__main__":
    carry_out(train)
