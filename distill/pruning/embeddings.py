"""Factorising the token table, so that the tokens that training texts use most lose least."""

from __future__ import annotations

import torch

from distill import surgery
from distill.checkpoint import Checkpoint
from distill.data import Splits
from distill.errors import CheckpointError
from distill.pruning.vocabulary import used as tokens_used


def narrow(checkpoint: Checkpoint, rank: int, data: Splits) -> tuple[Checkpoint, str]:
    """A checkpoint with a token table of a rank, and a sentence on what that keeps; the one given stays as it was.

    A token counts as often as training texts use it, and once more, so that tokens they don't use count too. Raises
    CheckpointError.
    """
    tokens = checkpoint.model.get_input_embeddings().num_embeddings
    used = torch.bincount(
        torch.from_numpy(tokens_used(checkpoint.encode(data, "train")).astype("int64")), minlength=tokens
    )
    try:
        smaller, kept = surgery.factorise(checkpoint.model, rank, used[:tokens] + 1)
    except CheckpointError as error:
        raise CheckpointError(f"prune.embeddings: {error}") from None
    width = surgery.multiply_out(smaller).get_input_embeddings().embedding_dim
    told = f"{tokens} × {width} is {tokens} × {rank} · {rank} × {width} now, and keeps {100 * kept:.2f} % of its energy"
    return Checkpoint(smaller, checkpoint.tokenizer), f"{told} (each token counted as often as training texts use it)"
