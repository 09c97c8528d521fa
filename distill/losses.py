"""The losses: pure functions of tensors, and the one dict that names them.

Every loss is a mean over what is real: over examples, or over the tokens that `mask` keeps. A loss of something to
itself is zero (cross-entropies to hard labels excepted).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from distill.tasks import Task


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) between softened softmax distributions, times T², mean over examples.

    Logits are (places, classes): rows, or tokens that count. T² keeps the gradient's size when the temperature rises
    (Hinton et al. 2015, section 2: gradients of softened targets scale as 1/T²), as in DistilBERT's code; without it a
    weight would mean something else at each temperature.
    """
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean() * temperature**2


def binary_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`kl` for many labels: each logit of (batch, labels) is a yes-or-no distribution; mean over all of them."""
    s, t = student.float() / temperature, teacher.float() / temperature
    p = t.sigmoid()
    yes = p * (F.logsigmoid(t) - F.logsigmoid(s))
    no = (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return (yes + no).mean() * temperature**2


def mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over all values, or over those of the tokens that the mask (batch, tokens) keeps."""
    squared = (student.float() - teacher.float()) ** 2
    return squared.mean() if mask is None else _masked_mean(squared.mean(-1), mask)


def cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 − cosine similarity of (batch, tokens, width) vectors, mean over the tokens that the mask keeps.

    DistilBERT's third loss (Sanh et al. 2019).
    """
    distance = 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return distance.mean() if mask is None else _masked_mean(distance, mask)


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (batch, classes) logits to (batch,) class indices; −100 is left out."""
    return F.cross_entropy(student.float(), labels)


def binary_cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of (batch, labels) logits to zeros and ones, mean over all."""
    return F.binary_cross_entropy_with_logits(student.float(), labels.float())


LOSSES: dict[str, Callable[..., Tensor]] = {
    "kl": kl,
    "binary_kl": binary_kl,
    "mse": mse,
    "cosine": cosine,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


def to_targets(task: Task, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The loss of a model's logits to what is right, mean over the places that count."""
    return LOSSES[task.hard_loss](task.scored(logits, batch), task.targets(batch))


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    kept = mask.to(values.dtype)
    return (values * kept).sum() / kept.sum().clamp(min=1)
