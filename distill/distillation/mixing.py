"""Learned layer maps: each layer of a student follows a mixture of its teacher's layers, whose weights are trained."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill import anatomy

log = logging.getLogger(__name__)
_START = 0.5  # how much of the weight begins on the layer that is named
_TOLD = 0.1  # weights below this are left to the report

Shares = dict[int, dict[int, float]]  # by the student's layer: how much of each of the teacher's is in what it follows


class LayerMap(nn.Module):
    """For each of a student's layers, softmax weights over the teacher's layers of the same side.

    The weights are positive and sum to one (a scalar mix, Peters et al. 2018, without its scale), so that the target
    can't be scaled away. Half of the weight begins on the layer that `start` names, the rest is spread over all. In
    ALP-KD (Passban et al. 2021) weights hang on the text; here one set serves all texts, and can be read.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], start: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        by_student: dict[int, list[int]] = defaultdict(list)
        for mine, theirs in pairs:
            by_student[mine].append(theirs)
        self.mixed: dict[tuple[int, ...], list[int]] = defaultdict(list)  # a stack's layers, and who follows them
        for mine, theirs in by_student.items():
            self.mixed[tuple(theirs)].append(mine)
        named = dict(start)
        self.logits = nn.ParameterList(
            nn.Parameter(torch.stack([_beginning(theirs, named.get(mine)) for mine in followers]))
            for theirs, followers in self.mixed.items()
        )

    def forward(self, layers: Mapping[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Each of the student's layers with the mixture that it follows, in float32; `layers` are the teacher's, or
        anything that can be averaged.
        """
        for (theirs, followers), logits in zip(self.mixed.items(), self.logits, strict=True):
            stacked = torch.stack([layers[layer].float() for layer in theirs])
            with torch.autocast(stacked.device.type, enabled=False):  # it would round the mixtures to bfloat16
                mixtures = logits.softmax(-1) @ stacked.flatten(1)
            yield from zip(followers, mixtures.view(-1, *stacked.shape[1:]), strict=True)

    @torch.no_grad()
    def shares(self) -> Shares:
        """The weights, by the student's layer and the teacher's."""
        return {
            mine: dict(zip(theirs, row, strict=True))
            for (theirs, followers), logits in zip(self.mixed.items(), self.logits, strict=True)
            for mine, row in zip(followers, logits.double().softmax(-1).tolist(), strict=True)
        }

    def partner(self, layer: int) -> int:
        """One of the student's layers that follow a layer of the teacher's: it works on the same text."""
        return next(followers[0] for theirs, followers in self.mixed.items() if layer in theirs)


def _beginning(theirs: Sequence[int], named: int | None) -> Tensor:
    lead = math.log1p(len(theirs) * _START / (1 - _START))
    return torch.tensor([lead if layer == named else 0.0 for layer in theirs])


def told(
    maps: Mapping[str, LayerMap], student: Mapping[str, Any], teacher: Mapping[str, Any], title: str
) -> dict[str, dict[str, dict[str, float]]]:
    """The weights that were found, by term, student's layer and teacher's, as people count them; they are logged, and
    where all of a student's layers follow the same one, that is warned of.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for term, chosen in maps.items():
        shares = chosen.shares()
        found[term] = {
            anatomy.layer_name(student, mine): {anatomy.layer_name(teacher, one): share for one, share in row.items()}
            for mine, row in shares.items()
        }
        for mine, row in found[term].items():
            most = sorted(row.items(), key=lambda one: -one[1])
            seen = [f"{layer} ({share:.2f})" for layer, share in most if share >= _TOLD] or [f"all ({most[0][1]:.2f})"]
            log.info("%s: %s: layer %s followed the teacher's %s", title, term, mine, ", ".join(seen))
        for followers in chosen.mixed.values():
            first = {max(shares[mine], key=shares[mine].__getitem__) for mine in followers}
            if len(followers) > 1 and len(first) == 1:
                log.warning(
                    "%s: %s: each of the student's layers follows the teacher's layer %s most, the one that is easiest "
                    "to follow: the map says little; lower map_learning_rate, or name the layers",
                    title, term, anatomy.layer_name(teacher, first.pop()),
                )  # fmt: skip
    return found
