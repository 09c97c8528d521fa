"""The losses: pure functions of tensors, and the one dict that names them.

Every loss is a mean over what is real: over examples, or over the tokens that `mask` keeps; of nothing it is zero. A
loss of something to itself is zero (cross-entropies to hard labels excepted).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from distill.portions import places_at_once
from distill.tasks import NO_TARGET, Task


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) between softened softmax distributions, times T², mean over examples.

    Logits are (places, classes): rows, or tokens that count. T² keeps the gradient's size when the temperature rises
    (Hinton et al. 2015, section 2: gradients of softened targets scale as 1/T²), as in DistilBERT's code; without it a
    weight would mean something else at each temperature.
    """
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    return _mean(_divergence(log_p, log_q)) * temperature**2


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(student ‖ teacher), softened and scaled as `kl`: a student with too little room keeps to what its teacher
    finds likely, where `kl` makes it cover all of it (Gu et al. 2024, MiniLLM).
    """
    return kl(teacher, student, temperature)


def js(student: Tensor, teacher: Tensor, temperature: float = 1.0, beta: float = 0.5) -> Tensor:
    """Generalised Jensen–Shannon divergence: β KL(teacher ‖ M) + (1 − β) KL(student ‖ M) with the mixture
    M = β teacher + (1 − β) student, softened and scaled as `kl` (Agarwal et al. 2024, equation 1).

    β = 0.5 is the symmetric one; divided by β (1 − β) it tends to `kl` as β goes to 0, to `reverse_kl` as it goes to 1.
    At 0 and 1 themselves, where nothing would be left of it, it is these two, as in that paper's own code.
    """
    if beta in (0, 1):
        return (reverse_kl if beta else kl)(student, teacher, temperature)
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    apart = beta * _divergence(log_p, log_m) + (1 - beta) * _divergence(log_q, log_m)
    return _mean(apart) * temperature**2


def skew_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, skew: float = 0.1) -> Tensor:
    """KL(teacher ‖ λ teacher + (1 − λ) student), softened and scaled as `kl`: what the student finds all but impossible
    costs no more than ln 1/λ (Ko et al. 2024, DistiLLM, equation 4). A `skew` λ of 0 is `kl`; it is below 1.
    """
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    mixed = torch.logaddexp(log_p + math.log(skew), log_q + math.log1p(-skew)) if skew > 0 else log_q
    return _mean(_divergence(log_p, mixed)) * temperature**2


def decoupled_kl(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, *, labels: Tensor, target: float = 1.0,
    others: float = 8.0,
) -> Tensor:  # fmt: skip
    """Decoupled distillation: `target` times KL between what both give the true class and all others together, plus
    `others` times KL between their distributions over the other classes; times T² (Zhao et al. 2022, equation 7).

    Labels are (places,) class indices; places at −100 are left out. Of two classes the second part is always zero.
    """
    real = labels != NO_TARGET
    right = F.one_hot(labels.clamp(min=0), student.shape[-1]).bool()
    log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    pairs = [torch.stack([one[right], _log_rest(one, right)], dim=-1) for one in (log_p, log_q)]
    rest = [one.masked_fill(right, -torch.inf).log_softmax(-1) for one in (log_p, log_q)]
    apart = (rest[0].exp() * (rest[0] - rest[1]).masked_fill(right, 0)).sum(-1)
    each = target * _divergence(*pairs) + others * apart
    return _masked_mean(each, real) * temperature**2


def binary_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """`kl` for many labels: each logit of (batch, labels) is a yes-or-no distribution; mean over all of them."""
    s, t = student.float() / temperature, teacher.float() / temperature
    p = t.sigmoid()
    yes = p * (F.logsigmoid(t) - F.logsigmoid(s))
    no = (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return _mean(yes + no) * temperature**2


def mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over all values, or over those of the tokens that the mask (batch, tokens) keeps."""
    squared = (_real(student, mask).float() - _real(teacher, mask).float()) ** 2
    return _mean(squared) if mask is None else _masked_mean(squared.mean(-1), mask)


def cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 − cosine similarity of (batch, tokens, width) vectors, mean over the tokens that the mask keeps.

    DistilBERT's third loss (Sanh et al. 2019).
    """
    distance = 1 - F.cosine_similarity(_real(student, mask).float(), _real(teacher, mask).float(), dim=-1)
    return _mean(distance) if mask is None else _masked_mean(distance, mask)


def attention(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL(teacher ‖ student) between attention distributions, mean over heads and over the queries that the mask keeps.

    Both are (batch, heads, queries, keys) with rows that sum to one, as a model gives them; head counts must match, or
    the mean over heads is compared where they don't (MiniLM, Wang et al. 2020, equation 6).
    """
    mine, theirs = (_real(one.transpose(1, 2), mask).transpose(1, 2).float() for one in (student, teacher))
    if mine.shape[1] != theirs.shape[1]:
        mine, theirs = mine.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
    tiny = torch.finfo(torch.float32).tiny
    found = (theirs * (theirs.clamp(min=tiny).log() - mine.clamp(min=tiny).log())).sum(-1)  # (batch, heads, queries)
    return _masked_mean(found.mean(1), mask)


def relation(student: Tensor, teacher: Tensor, mask: Tensor, heads: int) -> Tensor:
    """KL(teacher ‖ student) between self-relations: softmax(A Aᵀ / √d) of vectors A, cut into relation heads d wide.

    Vectors are (batch, tokens, width): one layer's queries, keys or values, all heads side by side; their widths may
    differ, and neither need have `heads` heads of its own. Mean over relation heads and over the tokens that the mask
    keeps, which relate to such tokens only (MiniLMv2, Wang et al. 2021, equations 3 to 5).
    """
    mine, theirs = (log_relations(vectors, mask, heads) for vectors in (student, teacher))
    found = (theirs.exp() * (theirs - mine).masked_fill(mask[:, None, None, :] == 0, 0)).sum(-1)
    return _masked_mean(found.mean(1), mask)


def relation_to(student: Tensor, mixture: Tensor, mask: Tensor, heads: int) -> Tensor:
    """`relation` to relations that are there already, such as a mixture of several layers': (batch, heads, tokens,
    tokens), each row a distribution over the tokens that the mask keeps.
    """
    mine = log_relations(student, mask, heads).masked_fill(mask[:, None, None, :] == 0, 0)
    theirs = mixture.float()
    found = (theirs * (theirs.clamp(min=torch.finfo(torch.float32).tiny).log() - mine)).sum(-1)
    return _masked_mean(found.mean(1), mask)


def log_relations(vectors: Tensor, mask: Tensor, heads: int) -> Tensor:
    """The logarithms of how much each token relates to each, (batch, heads, tokens, tokens)."""
    batch, tokens, width = vectors.shape
    split = _real(vectors, mask).float().view(batch, tokens, heads, width // heads).transpose(1, 2)
    with torch.autocast(vectors.device.type, enabled=False):  # it would round the products to bfloat16
        scores = split @ split.transpose(-1, -2) / math.sqrt(width // heads)
    return scores.masked_fill(mask[:, None, None, :] == 0, torch.finfo(torch.float32).min).log_softmax(-1)


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (batch, classes) logits to (batch,) class indices; −100 is left out, and zero where all are."""
    total = F.cross_entropy(student.float(), labels, reduction="sum")
    return total / is_known(labels).sum().clamp(min=1)


def binary_cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of (batch, labels) logits to zeros and ones, mean over all that are known: not NaN."""
    known = is_known(labels)
    targets = labels.float().masked_fill(~known, 0)
    return _masked_mean(F.binary_cross_entropy_with_logits(student.float(), targets, reduction="none"), known)


def squared_error(student: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of (batch, 1) logits to numbers that are known: not NaN."""
    known = is_known(labels)
    return _masked_mean((student.float() - labels.masked_fill(~known, 0)) ** 2, known)


def is_known(labels: Tensor) -> Tensor:
    """Which labels say something: class indices other than −100, flags and numbers other than NaN."""
    return ~labels.isnan() if labels.is_floating_point() else labels != NO_TARGET


def bucketed(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """(places, k + 1): the logits of k classes, and one for all others together, of their whole mass when softened.

    `logits` are (places, classes), `tokens` (places, k) class indices, fewer than all. Softened by the same temperature
    what comes out is the distribution itself, with its tail as one class: every loss here takes it as logits.

    A teacher's k likeliest tokens are kept so, and its student is put into the same buckets. By the chain rule of
    relative entropy KL(p ‖ q) of the whole is that of the buckets plus p(tail) times KL between the two inside of the
    tail, which is all that is left out. So the loss is never above the whole one, zero where the two are equal, and the
    gradient of `kl` is exact: q − p at each kept logit, and q(tail) − p(tail) for the tail in all; inside of the tail
    it follows the student's own shares, where the whole would follow the teacher's. No divergence between
    distributions grows when classes are put together, so this holds, but for the exact gradient, for all of them.

    The other ways move the optimum. To scale the k up to a sum of one takes p / (1 − p(tail)) for p: a student that
    equals its teacher is driven to be surer (Anshumann et al. 2025, Sparse Logit Sampling, on top-k). To spread the
    tail evenly over the other tokens keeps the kept part's gradient, but drives every rare token to the same
    probability. To draw the tail's tokens at random instead (the same paper's way) is right on the average over draws,
    also inside of the tail, and noisy in each; what is kept is drawn once. A mean square of logits has no such form.
    """
    kept = logits.float().gather(-1, tokens)
    others = (logits.float() / temperature).scatter(-1, tokens, -torch.inf)
    return torch.cat([kept, temperature * others.logsumexp(-1, keepdim=True)], dim=-1)


def in_portions(loss: Callable[..., Tensor], student: Tensor, *others: Tensor) -> Tensor:
    """A loss of (places, classes) logits, worked out and derived a few places at a time where there are many numbers.

    `loss` is a mean over places; `others` are its teacher's logits and whatever else has a line a place, and need no
    gradient. Over a vocabulary each softmax is as large as the logits themselves, and there are several on the way to a
    gradient. Here they are no larger than what a processor keeps close, which is two to four times as fast on one core,
    and nothing stays in memory but the gradient (as Liger Kernel has it, Hsu et al. 2024).
    """
    places, classes = student.shape
    size = places_at_once(classes, student.device.type)
    return loss(student, *others) if places <= size else _InPortions.apply(loss, size, student, *others)


class _InPortions(torch.autograd.Function):
    """The mean loss; each portion's gradient is taken with its loss, so that nothing else of it has to be kept."""

    @staticmethod
    def forward(ctx: Any, loss: Callable[..., Tensor], size: int, student: Tensor, *others: Tensor) -> Tensor:
        wanted, total = ctx.needs_input_grad[2], student.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(student) if wanted else None
        for place, portions in enumerate(zip(*(values.split(size) for values in (student, *others)), strict=True)):
            with torch.set_grad_enabled(wanted):
                mine = portions[0].detach().requires_grad_(wanted)
                found = loss(mine, *portions[1:]) * (len(mine) / len(student))
            total += found.detach()
            if wanted:
                gradient[place * size :][: len(mine)] = torch.autograd.grad(found, mine)[0]
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (None, None, gradient * upstream, *(None for _ in ctx.needs_input_grad[3:]))


LOSSES: dict[str, Callable[..., Tensor]] = {
    "kl": kl,
    "reverse_kl": reverse_kl,
    "js": js,
    "skew_kl": skew_kl,
    "decoupled_kl": decoupled_kl,
    "binary_kl": binary_kl,
    "mse": mse,
    "cosine": cosine,
    "attention": attention,
    "relation": relation,
    "relation_to": relation_to,
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "squared_error": squared_error,
}


def to_targets(task: Task, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The loss of a model's logits to what is right, mean over the places that count."""
    loss, scored, targets = LOSSES[task.hard_loss], task.scored(logits, batch), task.targets(batch)
    if task.head_labels:  # few, and some may be unknown
        return loss(scored, targets)
    return in_portions(loss, scored, targets)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) over the last dimension."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _log_rest(logs: Tensor, right: Tensor) -> Tensor:
    """The logarithm of what all classes but the right one get together."""
    return logs.masked_fill(right, -torch.inf).logsumexp(-1)


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())


def _real(vectors: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, tokens, …) with zeros for the tokens that the mask leaves out: what is no number there would stay none
    times zero.
    """
    return (
        vectors if mask is None else vectors.masked_fill((mask == 0).view(*mask.shape, *(1,) * (vectors.ndim - 2)), 0)
    )


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    kept = mask.to(values.dtype)
    return (values * kept).sum() / kept.sum().clamp(min=1)
