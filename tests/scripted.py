"""An engine whose answers are written down beforehand."""

from __future__ import annotations

import numpy as np


class Scripted:
    """An engine that answers row by row from a table, by batch size; in its batches it meets the rows in order."""

    name, format = "scripted", "onnx-int8"

    def __init__(self, by_size: dict[int, np.ndarray], batch_dependent: bool = True) -> None:
        self.by_size, self.batch_dependent = by_size, batch_dependent
        self.shapes: list[tuple[int, int]] = []

    def answer(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        self.shapes.append(batch["input_ids"].shape)
        table = self.by_size[1 if len(batch["input_ids"]) == 1 else 32]
        return table[batch["rows"]] if "rows" in batch else np.zeros((len(batch["input_ids"]), 3), np.float32)


def one_hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[classes]
