"""A plain transformers.Trainer: the teacher runs in every step, in float32, padded to 128 tokens or dynamically.

The loss is ours, so that the loop alone differs: KL at temperature 2 between the logits, and the cosine distance of
hidden states on real tokens, without dropout. It is never validated, which is to its advantage.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from arm import CLIP, DECAY, LENGTH, PAIRS, WARMUP, Plan, Texts, carry_out, model
from torch.nn import functional

TEMPERATURE = 2.0


class Distilling(transformers.Trainer):
    """A Trainer with a teacher."""

    def __init__(self, *given: Any, teacher: torch.nn.Module, **words: Any) -> None:
        super().__init__(*given, **words)
        self.teacher = teacher.eval()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Logits and hidden states against those of the teacher, which runs in eval mode on the same batch."""
        inputs = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        mine = model(**inputs, output_hidden_states=True)
        with torch.no_grad():
            theirs = self.teacher(**inputs, output_hidden_states=True)
        real = inputs["attention_mask"].bool()
        soft = functional.kl_div(
            functional.log_softmax(mine.logits / TEMPERATURE, -1),
            functional.log_softmax(theirs.logits / TEMPERATURE, -1),
            log_target=True,
            reduction="batchmean",
        )
        apart = [
            1 - functional.cosine_similarity(mine.hidden_states[one][real], theirs.hidden_states[other][real], dim=-1)
            for one, other in PAIRS.items()
        ]
        return TEMPERATURE**2 * soft + torch.stack([layer.mean() for layer in apart]).mean()


def train(plan: Plan) -> dict[str, Any]:
    """One training."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(plan.student)
    padded = plan.arm == "trainer-padded"
    texts = Texts(plan.train, tokenizer, padded=padded)
    trainer = Distilling(
        model(plan.student, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        transformers.TrainingArguments(
            output_dir=str(plan.output), num_train_epochs=plan.epochs, per_device_train_batch_size=plan.batch_size,
            learning_rate=plan.learning_rate, warmup_steps=WARMUP, weight_decay=DECAY, max_grad_norm=CLIP, use_cpu=True,
            seed=plan.seed, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
        ),
        train_dataset=texts,
        data_collator=None if padded else transformers.DataCollatorWithPadding(tokenizer),
        teacher=model(plan.teacher),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(plan.weights))
    tokenizer.save_pretrained(plan.weights)
    return {"texts": len(texts), "padded_to": LENGTH if padded else "the longest of a batch"}


if __name__ == "__main__":
    carry_out(train)
