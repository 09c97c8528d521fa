"""What fewer bits change, on validation rows: the answers, or where a model foretells tokens perplexity and texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.data import Batch, Encoded, TokenBatches, collate
from distill.engines import Engine, answer_all
from distill.recipe.settings import Generation
from distill.tasks import Task
from distill.tasks.language import LanguageModelling

_ROWS, _TOKENS = 32, 1024  # asked at once; each token's logits are as many as the vocabulary
_LARGEST = 100.0  # nats a token by which a loss grows; e to that power is still a number
_PROMPTS, _PROMPT, _LENGTH = 8, 16, 16  # texts, their tokens, and those that are written


def by_loss(task: Task) -> bool:
    """Whether answers are judged by how well tokens are foretold."""
    return task.generates or isinstance(task, LanguageModelling)


def asked(engine: Engine, texts: Encoded, task: Task) -> np.ndarray:
    """What an engine answers to each row; of a text to write nats, tokens, and what else a task keeps of it."""
    if not task.generates:
        return answer_all(engine, texts, task)
    order, parts = [], []
    for rows in TokenBatches(texts.lengths, _ROWS, _TOKENS):
        batch = collate(texts, rows)
        parts.append(task.reduce(engine.answer(batch), batch))
        order += rows
    return np.concatenate(parts)[np.argsort(order)]


def changed(task: Task, found: np.ndarray, expected: np.ndarray, threshold: float) -> float:
    """The share of answers that are others now; where tokens are foretold, the share by which perplexity has grown."""
    if not by_loss(task):
        return 1 - task.agreement(found, expected, threshold)
    grown = (found[:, 0].sum() - expected[:, 0].sum()) / max(1, expected[:, 1].sum())
    return float(np.expm1(np.clip(grown, 0, _LARGEST))) if np.isfinite(grown) else np.inf


def says(task: Task, share: float) -> str:
    """What fewer bits do, by what `changed` found."""
    percent = f"{100 * share:.1f} %"
    return f"raises perplexity by {percent}" if by_loss(task) else f"changes {percent} of the answers"


def moved(task: Task, found: np.ndarray, expected: np.ndarray) -> float:
    """How far answers have moved: the mean square."""
    return float(np.square(_nats(found) - _nats(expected)).mean()) if by_loss(task) else task.moved(found, expected)


def apart(task: Task, found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference between answers; of a text to write between rows' nats by token."""
    return float(np.abs(_nats(found) - _nats(expected)).max()) if task.generates else task.apart(found, expected)


def written(torch: Engine, graph: Engine, texts: Encoded) -> dict[str, Any]:
    """How much of what torch writes after a few rows' beginnings, greedily, a graph writes as well."""
    words = Generation(max_new_tokens=_LENGTH)
    batch = _prompts(texts)
    expected, found = torch.generate(batch, words), graph.generate(batch, words)
    same = [sum(a == b for a, b in zip(one, other, strict=False)) for one, other in zip(expected, found, strict=True)]
    return {
        "prompts": len(expected),
        "same_texts": float(np.mean([one == other for one, other in zip(expected, found, strict=True)])),
        "same_tokens": float(sum(same) / sum(max(len(a), len(b)) for a, b in zip(expected, found, strict=True))),
    }


def _prompts(texts: Encoded) -> Batch:
    batch = collate(texts, list(range(min(_PROMPTS, len(texts)))))
    if "decoder_input_ids" in batch:
        return batch
    return {name: batch[name][:, :_PROMPT] for name in ("input_ids", "attention_mask")}


def _nats(answers: np.ndarray) -> np.ndarray:
    return answers[:, 0] / np.maximum(1, answers[:, 1])
