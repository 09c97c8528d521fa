"""What an encoder-decoder's config says of the texts that its decoder writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distill.data.encoding import Encoded
from distill.errors import CheckpointError


@dataclass(frozen=True)
class Decoder:
    """The token that a decoder starts from, and those that end a text."""

    start: int
    ends: tuple[int, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Decoder | None:
        """From a config as a dict; None for a model without a decoder of its own. Raises CheckpointError."""
        if not config.get("is_encoder_decoder"):
            return None
        start, ends = config.get("decoder_start_token_id"), config.get("eos_token_id")
        if start is None:
            raise CheckpointError(
                f"the config of this {config.get('model_type')} names no decoder_start_token_id, so that its decoder "
                "has nothing to start from; set it (BART starts from its end token, T5 from its pad token)"
            )
        return cls(int(start), tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,))

    def begin(self, encoded: Encoded) -> Encoded:
        """Texts to write, for this decoder. Raises CheckpointError where they don't end as its own do."""
        last = encoded.targets.values[encoded.targets.offsets[1:] - 1]
        odd = last[~np.isin(last, self.ends)]
        if len(odd):
            raise CheckpointError(
                f"the tokenizer ends texts with the token {odd[0]}, but the model's config has "
                f"{', '.join(map(str, self.ends)) or 'nothing'} for eos_token_id, so that what it writes would never "
                "end; give both the same end token"
            )
        return replace(encoded, decoder_start=self.start)
