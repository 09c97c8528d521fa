"""The token table as a product of two smaller ones: V × H becomes V × E · E × H.

A table of V tokens and H dimensions has V·H weights, its factors have E·(V + H). transformers' configs can't say it
(ELECTRA and ALBERT project too, but only behind a LayerNorm at the table's own width, which is another sum), so the
factors live in a step's folder and in the graph, and are multiplied out in what ships for stock transformers.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill import anatomy
from distill.errors import CheckpointError


class FactorisedEmbedding(nn.Embedding):
    """Looks tokens up in a narrow table, (tokens, rank), and widens what it finds by `projection`, (width, rank)."""

    def __init__(self, tokens: int, rank: int, width: int, padding_idx: int | None = None) -> None:
        super().__init__(tokens, rank, padding_idx=padding_idx)
        self.projection = nn.Linear(rank, width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors (…, width) of token ids (…)."""
        return self.projection(super().forward(ids))


def rank_of(model: PreTrainedModel) -> int | None:
    """The rank of a model's token table; None where it is whole."""
    table = model.get_input_embeddings()
    return table.embedding_dim if isinstance(table, FactorisedEmbedding) else None


def table_of(model: PreTrainedModel) -> Tensor:
    """The whole token table, (tokens, width), multiplied out where it is factorised."""
    table = model.get_input_embeddings()
    whole = table.weight.detach()
    return whole @ table.projection.weight.detach().T if isinstance(table, FactorisedEmbedding) else whole


def factorise(model: PreTrainedModel, rank: int, weights: Tensor | None = None) -> tuple[PreTrainedModel, float]:
    """A new model with a token table of a rank, and the share of the table's weighted energy that it keeps.

    Of all tables of that rank it is the one with the least squared error, in which each token's row counts as much as
    `weights` (tokens,) says; None counts all alike, which is the plain truncated SVD (Eckart and Young 1936). A table
    that is factorised already is brought to a lower rank.

    Raises CheckpointError for a family that isn't known or can't do it, where a head is tied to the table, and for a
    rank that makes nothing smaller.
    """
    table = table_of(model)
    _refuse(model, rank, *table.shape)
    whole = table.double()
    counted = whole.new_ones(len(whole)) if weights is None else weights.to(whole)
    energy = whole.T @ (counted[:, None] * whole)
    # The right singular vectors of the weighted table. Rows that count nothing are brought onto them all the same.
    basis = torch.linalg.eigh(energy).eigenvectors.flip(1)[:, :rank]
    smaller = copy.deepcopy(model)
    narrow = _install(smaller, rank)
    with torch.no_grad():
        narrow.weight.copy_(whole @ basis)
        narrow.projection.weight.copy_(basis)
    total = float(energy.trace())
    return smaller, float((basis.T @ energy @ basis).trace()) / total if total else 1.0


def narrow_table(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    """Gives a model a factorised token table, in place; what the factors then hold is for the caller to fill in."""
    _install(model, rank)
    return model


def multiply_out(model: PreTrainedModel) -> PreTrainedModel:
    """A model with one whole token table, which answers the same; itself where its table is whole already."""
    if rank_of(model) is None:
        return model
    whole, table = copy.deepcopy(model), model.get_input_embeddings()
    plain = nn.Embedding(*table_of(model).shape, padding_idx=table.padding_idx)
    plain.weight = nn.Parameter(table_of(model).clone(), requires_grad=table.weight.requires_grad)
    whole.set_input_embeddings(plain.train(table.training))
    return whole


def _install(model: PreTrainedModel, rank: int) -> FactorisedEmbedding:
    before = model.get_input_embeddings()
    tokens, width = table_of(model).shape
    narrow = FactorisedEmbedding(tokens, rank, width, before.padding_idx)
    narrow.to(before.weight.device, before.weight.dtype).requires_grad_(before.weight.requires_grad)
    model.set_input_embeddings(narrow.train(before.training))
    return narrow


def _refuse(model: PreTrainedModel, rank: int, tokens: int, width: int) -> None:
    facts = model.config.to_dict()
    anatomy.family_of(facts)
    if reason := anatomy.refuse(facts, "embeddings"):
        raise CheckpointError(f"the embeddings can't be factorised: {reason}")
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(table) not in (nn.Embedding, FactorisedEmbedding):
        raise CheckpointError(
            f"the embeddings can't be factorised: a {type(model).__name__} keeps them in a {type(table).__name__}, "
            "which does more than look tokens up"
        )
    if head is not None and getattr(head, "weight", None) is table.weight:
        raise CheckpointError(
            f"the embeddings can't be factorised: the {type(head).__name__} that a {type(model).__name__} ends in is "
            "tied to them, and needs the whole table"
        )
    now = rank_of(model)
    most = anatomy.largest_rank(tokens, width, now)
    if not 1 <= rank <= most:
        of = f"{tokens} × {width}" + (f", of rank {now} already" if now is not None else "")
        raise CheckpointError(
            f"the embeddings can't be factorised to rank {rank}: the table is {of}, so only a rank of 1 to {most} "
            "makes it smaller"
        )
