"""Rows and columns of one module: a Linear, or GPT-2's Conv1D, which keeps its weight the other way round."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Mixing = nn.Linear | Conv1D


def makes(module: Mixing) -> int:
    """How many outputs a module has."""
    return module.nf if isinstance(module, Conv1D) else module.out_features


def takes(module: Mixing) -> int:
    """How many inputs a module has."""
    return module.nx if isinstance(module, Conv1D) else module.in_features


def weights(module: Mixing) -> Tensor:
    """A module's weight as (outputs, inputs), in the memory of its own."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def keep_outputs(module: Mixing, rows: Tensor) -> None:
    """Leaves a module with some of its outputs, biases included, in place."""
    lies = isinstance(module, Conv1D)
    module.weight = _chosen(module.weight, 1 if lies else 0, rows)
    if module.bias is not None:
        module.bias = _chosen(module.bias, 0, rows)
    setattr(module, "nf" if lies else "out_features", len(rows))


def keep_inputs(module: Mixing, columns: Tensor) -> None:
    """Leaves a module with some of its inputs, in place."""
    lies = isinstance(module, Conv1D)
    module.weight = _chosen(module.weight, 0 if lies else 1, columns)
    setattr(module, "nx" if lies else "in_features", len(columns))


def keep_columns(table: nn.Embedding, columns: Tensor) -> None:
    """Leaves a table with some of its columns, in place."""
    table.weight = _chosen(table.weight, 1, columns)
    table.embedding_dim = len(columns)


def ranges(units: Sequence[int], width: int) -> Tensor:
    """The numbers that some units of a width cover."""
    wide = torch.tensor(list(units), dtype=torch.int64).unsqueeze(1) * width
    return (wide + torch.arange(width)).flatten()


def _chosen(parameter: nn.Parameter, axis: int, numbers: Tensor) -> nn.Parameter:
    chosen = parameter.detach().index_select(axis, numbers.to(parameter.device)).clone()
    return nn.Parameter(chosen, requires_grad=parameter.requires_grad)
