"""What an encoder-decoder's configs say of the texts that its decoder writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distill.data.encoding import Encoded
from distill.errors import CheckpointError


@dataclass(frozen=True)
class Decoder:
    """The token that a decoder starts from, those that end a text, and those of them at which it stops writing."""

    start: int
    ends: tuple[int, ...]
    stops: tuple[int, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any], generation: Mapping[str, Any]) -> Decoder | None:
        """From a config and a generation config (empty where there is none) as dicts; None for a model without a
        decoder of its own. Raises CheckpointError.
        """
        if not config.get("is_encoder_decoder"):
            return None
        start, ends = config.get("decoder_start_token_id"), _ids(config.get("eos_token_id"))
        if start is None:
            raise CheckpointError(
                f"the config of this {config.get('model_type')} names no decoder_start_token_id, so that its decoder "
                "has nothing to start from; set it (BART starts from its end token, T5 from its pad token)"
            )
        return cls(int(start), ends, _ids(generation.get("eos_token_id")) if generation else ends)

    def begin(self, encoded: Encoded) -> Encoded:
        """Texts to write, for this decoder. Raises CheckpointError where they don't end as its own do."""
        last = encoded.targets.values[encoded.targets.offsets[1:] - 1]
        for file, ends in (("config", self.ends), ("generation config", self.stops)):
            odd = last[~np.isin(last, ends)]
            if len(odd):
                raise CheckpointError(
                    f"the tokenizer ends texts with the token {odd[0]}, but the model's {file} has "
                    f"{', '.join(map(str, ends)) or 'nothing'} for eos_token_id, so that what it writes would never "
                    "end; give both the same end token"
                )
        return replace(encoded, decoder_start=self.start)


def _ids(told: int | list[int] | tuple[int, ...] | None) -> tuple[int, ...]:
    return () if told is None else tuple(told) if isinstance(told, list | tuple) else (told,)
