"""Data: read from any source, labelled, kept apart, tokenised, batched.

`load` is the way in; what it gives back (`Splits`) is all that the steps ever see of a data set.
"""

from distill.data.batching import Batch, TokenBatches, collate
from distill.data.encoding import Encoded, Ragged, cut_alike, encode
from distill.data.loading import Splits, load
from distill.data.rows import Rows

__all__ = ["Batch", "Encoded", "Ragged", "Rows", "Splits", "TokenBatches", "collate", "cut_alike", "encode", "load"]
