"""Every loss against numbers worked out without torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distill import losses
from distill.losses import LOSSES

SOFT = ("kl", "reverse_kl", "js", "skew_kl", "binary_kl")
STATES = ("mse", "cosine")
RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 5, 4))
MINE, THEIRS = RNG.normal(size=(2, 3, 6, 8))
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def by_numpy(name: str, student: np.ndarray, teacher: np.ndarray, t: float = 1.0) -> float:
    """The loss from its textbook formula, in float64."""
    if name == "kl":
        p, q = softmax(teacher / t), softmax(student / t)
        return t**2 * float(np.mean(np.sum(p * np.log(p / q), -1)))
    if name == "reverse_kl":
        p, q = softmax(teacher / t), softmax(student / t)
        return t**2 * float(np.mean(np.sum(q * np.log(q / p), -1)))
    if name in ("js", "skew_kl"):
        p, q, share = softmax(teacher / t), softmax(student / t), 0.5 if name == "js" else 0.1
        m = share * p + (1 - share) * q
        each = np.sum(p * np.log(p / m), -1)
        if name == "js":
            each = share * each + (1 - share) * np.sum(q * np.log(q / m), -1)
        return t**2 * float(np.mean(each))
    if name == "binary_kl":
        p, q = sigmoid(teacher / t), sigmoid(student / t)
        return t**2 * float(np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))))
    if name == "mse":
        return float(np.mean((student - teacher) ** 2))
    product = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    return float(np.mean(1 - np.sum(student * teacher, -1) / product))


def tensor(array: object) -> torch.Tensor:
    return torch.tensor(array)


def test_kl_is_the_number_worked_out_by_hand():
    # T = 2 turns the teacher's logits (2 ln 3, 0) into (ln 3, 0), so p = (3/4, 1/4); the student's are q = (1/2, 1/2).
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.304099 - 0.173287 = 0.130812, and times T² = 4: 0.523248.
    student, teacher = tensor([[0.0, 0.0]]), tensor([[2 * math.log(3), 0.0]])
    assert losses.kl(student, teacher, temperature=2.0).item() == pytest.approx(0.523248, abs=1e-6)


def test_binary_kl_is_the_number_worked_out_by_hand():
    # T = 2: sigmoid(2 ln 3 / 2) = 3/4 against 1/2 is 0.130812 as above; the second label agrees, so it adds nothing.
    # Mean over both labels 0.065406, and times T² = 4: 0.261624.
    student, teacher = tensor([[0.0, 1.0]]), tensor([[2 * math.log(3), 1.0]])
    assert losses.binary_kl(student, teacher, temperature=2.0).item() == pytest.approx(0.261624, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("name", SOFT)
def test_softened_losses_follow_their_formula(name, temperature):
    found = LOSSES[name](tensor(STUDENT), tensor(TEACHER), temperature).item()
    assert found == pytest.approx(by_numpy(name, STUDENT, TEACHER, temperature), rel=1e-4)  # of float32


@pytest.mark.parametrize("name", STATES)
def test_losses_of_states_follow_their_formula_with_and_without_a_mask(name):
    assert LOSSES[name](tensor(MINE), tensor(THEIRS)).item() == pytest.approx(by_numpy(name, MINE, THEIRS), rel=1e-5)
    kept = MASK.astype(bool)
    found = LOSSES[name](tensor(MINE), tensor(THEIRS), tensor(MASK)).item()
    assert found == pytest.approx(by_numpy(name, MINE[kept], THEIRS[kept]), rel=1e-5)


def test_cosine_of_opposite_orthogonal_and_equal_directions():
    one = tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    other = tensor([[[-3.0, 0.0], [0.0, 5.0], [7.0, 0.0]]])
    assert losses.cosine(one, other).item() == pytest.approx((2 + 1 + 0) / 3)


@pytest.mark.parametrize("name", STATES)
def test_padding_never_changes_the_value_nor_gets_a_gradient(name):
    found = []
    for padding in (0.0, 1e4, math.nan):
        mine, theirs = tensor(MINE).float(), tensor(THEIRS).float()
        mine[tensor(MASK) == 0], theirs[tensor(MASK) == 0] = padding, -padding
        mine.requires_grad_()
        loss = LOSSES[name](mine, theirs, tensor(MASK))
        loss.backward()
        assert not mine.grad[tensor(MASK) == 0].any()
        found.append(loss.item())
    longer = [torch.nn.functional.pad(tensor(x).float(), (0, 0, 0, 5), value=9.0) for x in (MINE, THEIRS)]
    found.append(LOSSES[name](*longer, torch.nn.functional.pad(tensor(MASK), (0, 5))).item())
    assert found == pytest.approx([found[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("name", STATES)
def test_a_mask_that_keeps_nothing_gives_zero_and_not_nan(name):
    assert LOSSES[name](tensor(MINE), tensor(THEIRS), tensor(np.zeros_like(MASK))).item() == 0


def relations_by_numpy(vectors: np.ndarray, heads: int, kept: int) -> np.ndarray:
    """softmax(A Aᵀ / √d) of one text's first tokens, head by head."""
    parts = np.split(vectors[:kept], heads, axis=-1)
    return np.stack([softmax(part @ part.T / math.sqrt(part.shape[-1])) for part in parts])


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("width", [8, 16])
def test_relations_follow_their_formula_whatever_the_widths_and_head_counts(heads, width):
    mine, theirs = MINE, RNG.normal(size=(3, 6, width))
    found, each = losses.relation(tensor(mine), tensor(theirs), tensor(MASK), heads).item(), []
    for row, kept in enumerate(MASK.sum(-1)):
        p, q = relations_by_numpy(theirs[row], heads, kept), relations_by_numpy(mine[row], heads, kept)
        each += np.sum(p * np.log(p / q), -1).mean(0).tolist()  # over heads, one figure a token
    assert found == pytest.approx(np.mean(each), rel=1e-5)


def test_relations_see_no_padding_and_are_zero_to_themselves():
    found = []
    for padding in (0.0, 1e3, math.nan):
        mine = tensor(MINE).float()
        mine[tensor(MASK) == 0] = padding
        mine.requires_grad_()
        loss = losses.relation(mine, tensor(THEIRS), tensor(MASK), 2)
        loss.backward()
        assert not mine.grad[tensor(MASK) == 0].any() and torch.isfinite(mine.grad).all()
        found.append(loss.item())
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)
    assert losses.relation(tensor(MINE), tensor(MINE), tensor(MASK), 4).item() == pytest.approx(0, abs=1e-6)


def test_relations_are_products_of_float32_under_autocast_too():
    exact = losses.relation(tensor(MINE), tensor(THEIRS), tensor(MASK), 2).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert losses.relation(tensor(MINE), tensor(THEIRS), tensor(MASK), 2).item() == exact


@pytest.mark.parametrize("heads", [2, 3])
def test_attentions_follow_their_formula_and_head_counts_may_differ(heads):
    mine, theirs = softmax(RNG.normal(size=(3, 2, 6, 6))), softmax(RNG.normal(size=(3, heads, 6, 6)))
    found = losses.attention(tensor(mine), tensor(theirs), tensor(MASK)).item()
    if heads != 2:
        mine, theirs = mine.mean(1, keepdims=True), theirs.mean(1, keepdims=True)
    each = np.sum(theirs * np.log(theirs / mine), -1).mean(1)
    assert found == pytest.approx(each[MASK.astype(bool)].mean(), rel=1e-5)
    assert losses.attention(tensor(mine), tensor(mine), tensor(MASK)).item() == pytest.approx(0, abs=1e-7)


def test_attention_to_what_is_masked_costs_nothing_and_stays_finite():
    alone = tensor([[[[1.0, 0.0], [1.0, 0.0]]]]).requires_grad_()
    loss = losses.attention(alone, tensor([[[[1.0, 0.0], [1.0, 0.0]]]]), tensor([[1, 0]]))
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(alone.grad).all()


def test_cross_entropy_leaves_out_minus_100():
    # -log softmax of the true class: of (0, 0) it is ln 2; of (ln 3, 0) with class 0 it is ln(4/3).
    logits = tensor([[0.0, 0.0], [5.0, -5.0], [math.log(3), 0.0]])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert losses.cross_entropy(logits, tensor([1, -100, 0])).item() == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_is_the_mean_over_examples_and_labels():
    # sigmoid(0) = 1/2 costs ln 2 either way; sigmoid(ln 3) = 3/4 costs ln(4/3) when given and ln 4 when not.
    logits = tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    expected = (2 * math.log(2) + math.log(4 / 3) + math.log(4)) / 4
    assert losses.binary_cross_entropy(logits, tensor([[0, 1], [1, 0]])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", [*SOFT, *STATES])
def test_a_loss_of_something_to_itself_is_zero(name):
    assert LOSSES[name](tensor(MINE), tensor(MINE)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", [*SOFT, *STATES])
def test_a_loss_of_different_things_is_positive(name):
    assert LOSSES[name](tensor(STUDENT), tensor(TEACHER)).item() > 0.01


@pytest.mark.parametrize(("beta", "end"), [(0, "kl"), (1, "reverse_kl")])
def test_js_is_one_of_the_two_at_its_ends(beta, end):
    found = losses.js(tensor(STUDENT), tensor(TEACHER), 2.0, beta=beta)
    assert torch.equal(found, LOSSES[end](tensor(STUDENT), tensor(TEACHER), 2.0))


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "js", "skew_kl", "binary_kl", "mse", "cosine"])
def test_of_no_places_a_loss_is_zero_and_so_is_its_gradient(name):
    nothing = torch.zeros(0, 5, requires_grad=True)
    found = LOSSES[name](nothing, torch.zeros(0, 5))
    found.backward()
    assert found.item() == 0 and nothing.grad.shape == (0, 5)


@pytest.mark.parametrize(("beta", "limit"), [(1e-4, "kl"), (1 - 1e-4, "reverse_kl")])
def test_js_runs_from_kl_to_reverse_kl(beta, limit):
    found = losses.js(tensor(STUDENT), tensor(TEACHER), 2.0, beta=beta).item() / (beta * (1 - beta))
    assert found == pytest.approx(by_numpy(limit, STUDENT, TEACHER, 2.0), rel=2e-2)


def test_js_is_symmetric_and_never_above_ln_2():
    one, other = tensor(STUDENT), tensor(TEACHER)
    assert losses.js(one, other).item() == pytest.approx(losses.js(other, one).item(), rel=1e-6)
    far = losses.js(tensor([[50.0, -50.0]]), tensor([[-50.0, 50.0]])).item()
    assert far == pytest.approx(math.log(2), rel=1e-6)


def test_skew_kl_without_skew_is_kl_and_with_it_never_above_minus_ln_of_it():
    none = losses.skew_kl(tensor(STUDENT), tensor(TEACHER), 2.0, skew=0.0)
    assert none.item() == pytest.approx(by_numpy("kl", STUDENT, TEACHER, 2.0), rel=1e-6)
    assert losses.skew_kl(tensor([[60.0, -60.0]]), tensor([[-60.0, 60.0]])).item() == pytest.approx(-math.log(0.1))


def decoupled_by_numpy(student: np.ndarray, teacher: np.ndarray, labels: list[int], t: float, a: float, b: float):
    """Equation 7 of Zhao et al. 2022, row by row."""
    found = []
    for s, p, label in zip(softmax(student / t), softmax(teacher / t), labels, strict=True):
        others = [i for i in range(len(s)) if i != label]
        pair = p[label] * math.log(p[label] / s[label]) + (1 - p[label]) * math.log((1 - p[label]) / (1 - s[label]))
        mine, theirs = s[others] / s[others].sum(), p[others] / p[others].sum()
        found.append(t**2 * (a * pair + b * float(np.sum(theirs * np.log(theirs / mine)))))
    return float(np.mean(found))


@pytest.mark.parametrize(("temperature", "target", "others"), [(1.0, 1.0, 8.0), (4.0, 0.5, 2.0), (2.0, 0.0, 1.0)])
def test_decoupled_kl_follows_its_formula_and_leaves_out_minus_100(temperature, target, others):
    labels = [0, 3, 1, 2, 0]
    words = {"target": target, "others": others}
    found = losses.decoupled_kl(tensor(STUDENT), tensor(TEACHER), temperature, labels=tensor(labels), **words)
    expected = decoupled_by_numpy(STUDENT, TEACHER, labels, temperature, target, others)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    some = losses.decoupled_kl(
        tensor(STUDENT), tensor(TEACHER), temperature, labels=tensor([0, -100, 1, 2, -100]), **words
    )
    kept = [0, 2, 3]
    expected = decoupled_by_numpy(STUDENT[kept], TEACHER[kept], [0, 1, 2], temperature, target, others)
    assert some.item() == pytest.approx(expected, rel=1e-5)


def test_decoupled_kl_weighted_by_the_teachers_own_share_is_kl():
    # Equation 5 of the paper: KL = TCKD + (1 − p of the true class) NCKD.
    student, teacher, label = STUDENT[:1], TEACHER[:1], 2
    share = 1 - softmax(teacher)[0, label]
    found = losses.decoupled_kl(tensor(student), tensor(teacher), labels=tensor([label]), target=1.0, others=share)
    assert found.item() == pytest.approx(by_numpy("kl", student, teacher), rel=1e-5)


def test_decoupled_kl_of_something_to_itself_is_zero_and_its_gradient_is_finite():
    labels, student = tensor([0, 1, 2, 3, 0]), tensor(STUDENT).float().requires_grad_()
    loss = losses.decoupled_kl(student, tensor(STUDENT).float(), 2.0, labels=labels)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and torch.isfinite(student.grad).all()
    far = losses.decoupled_kl(student * 1e3, tensor(TEACHER).float() * 1e3, labels=labels)
    assert torch.isfinite(far)


@pytest.mark.parametrize("temperature", [50.0, 100.0])
def test_at_a_high_temperature_the_gradient_of_kl_is_that_of_matching_logits(temperature):
    # Hinton et al. 2015, equation 4: (student - teacher) / classes for logits of zero mean, whatever the temperature.
    student, teacher = (tensor(x - x.mean(-1, keepdims=True)) for x in (STUDENT, TEACHER))
    student.requires_grad_()
    losses.kl(student, teacher, temperature).backward()
    expected = (student - teacher).detach() / student.shape[1] / student.shape[0]
    assert torch.allclose(student.grad, expected, rtol=0.1, atol=2e-3)


def test_at_a_high_temperature_the_gradient_of_binary_kl_is_that_of_matching_logits():
    student = tensor(STUDENT).requires_grad_()
    losses.binary_kl(student, tensor(TEACHER), 100.0).backward()
    expected = (STUDENT - TEACHER) / 4 / STUDENT.size  # sigmoid's slope at 0 is 1/4
    assert torch.allclose(student.grad, tensor(expected), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_is_computed_in_float32(name):
    student = tensor(STUDENT).bfloat16()
    other = {
        "cross_entropy": tensor([0, 1, 2, 3, -100]),
        "binary_cross_entropy": tensor((TEACHER > 0).astype(float)),
    }.get(name, tensor(TEACHER).bfloat16())
    words = {"labels": tensor([0, 1, 2, 3, -100])} if name == "decoupled_kl" else {}
    if name in ("attention", "relation", "relation_to"):
        shapes = [(3, 2, 6, 6) if name == "attention" else (3, 6, 8), (3, 6, 8) if name == "relation" else (3, 2, 6, 6)]
        student, other = (tensor(softmax(RNG.normal(size=shape))).bfloat16() for shape in shapes)
        words = {"mask": tensor(MASK)} | ({"heads": 2} if name != "attention" else {})
    found = LOSSES[name](student, other, **words)
    exact = LOSSES[name](student.float(), other.float() if other.dtype == torch.bfloat16 else other, **words)
    assert found.dtype == torch.float32
    assert found.item() == exact.item()


def test_relations_that_are_there_already_are_those_of_vectors():
    mine, theirs, mask = tensor(MINE).requires_grad_(), tensor(THEIRS), tensor(MASK)
    mixture = losses.log_relations(theirs, mask, 4).exp()
    found = losses.relation_to(mine, mixture, mask, 4)
    assert found.item() == pytest.approx(losses.relation(mine, theirs, mask, 4).item(), rel=1e-5)
    assert losses.relation_to(theirs, mixture, mask, 4).item() == pytest.approx(0, abs=1e-6)
    found.backward()
    assert torch.isfinite(mine.grad).all()


@pytest.mark.parametrize("name", SOFT)
def test_extreme_logits_stay_finite(name):
    student = tensor([[1e4, -1e4], [-300.0, 300.0]]).requires_grad_()
    loss = LOSSES[name](student, tensor([[-1e4, 1e4], [300.0, -300.0]]), 1.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
