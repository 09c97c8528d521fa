"""What a training shows while it goes on."""

from __future__ import annotations

from typing import Any

import transformers

from distill.bars import bar


class Progress(transformers.TrainerCallback):
    """One bar a training, with the loss and the validation score behind it."""

    def __init__(self, title: str) -> None:
        self.title, self.bar, self.score = title, None, None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begins the bar."""
        self.bar = bar(title=self.title, leave=True, total=state.max_steps, unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step further."""
        self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Shows the score."""
        self.bar.set_postfix_str(f"validation score {metrics['eval_score']:.4f}")

    def close(self) -> None:
        """Ends the bar's line, also where the training failed."""
        if self.bar is not None:
            self.bar.close()
