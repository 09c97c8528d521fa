"""This project's own distillation, as a recipe would say it: with hidden states, on logits alone, on frozen embeddings.

Every epoch is validated and the best one kept, as a run does; the teacher's label pass is part of it.
"""

from __future__ import annotations

from typing import Any

from arm import LENGTH, Plan, carry_out

import distill
from distill import checkpoint
from distill.training import Watch

IMITATE: dict[str, dict[str, Any]] = {
    "ours": {"logits": 1.0, "hidden_states": 1.0},
    "ours-logits": {"logits": 1.0},
    "ours-frozen": {"logits": 1.0, "hidden_states": 1.0},
}


def settings(plan: Plan) -> distill.Distill:
    """The step that the plan's arm takes; what isn't said is the product's default."""
    return distill.Distill.model_validate(
        {
            "imitate": IMITATE[plan.arm],
            "temperature": 2,
            "epochs": plan.epochs,
            "patience": plan.epochs,
            "learning_rate": plan.learning_rate,
            "batch_size": plan.batch_size,
            "dropout": 0,
            "freeze": ["embeddings"] if plan.arm == "ours-frozen" else [],
            "max_steps": plan.steps,
        }
    )


def teach(plan: Plan) -> tuple[distill.Checkpoint, Watch]:
    """One training: what came of it, and its record. Data has a test split, which nothing here looks at."""
    splits = {"source": plan.train, "validation": plan.validation, "test": plan.dev}
    words = {name: str(path) for name, path in splits.items()} | {"max_length": LENGTH}
    data = distill.load_data(distill.Data.model_validate(words), seed=plan.seed)
    teacher, student = checkpoint.load(plan.teacher, data.task), checkpoint.load(plan.student, data.task)
    watch = Watch(plan.arm)
    return distill.distill(student, settings(plan), data=data, teacher=teacher, watch=watch), watch


def train(plan: Plan) -> dict[str, Any]:
    """One training, saved."""
    made, watch = teach(plan)
    made.save(plan.weights)
    return {"texts": watch.log.samples // plan.epochs, "dtype": watch.log.dtype, "epochs": watch.log.epochs}


if __name__ == "__main__":
    carry_out(train)
