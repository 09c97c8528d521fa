"""Whether a run is told to W&B, and whether at once: the recipe's word, WANDB_MODE and an API key at hand decide."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["off", "offline", "online", "auto"]  # auto: online, unless wandb's own settings say offline
_FROM_ENVIRONMENT = {"disabled": "off", "offline": "offline", "dryrun": "offline", "online": "online", "run": "online"}
_HOME = "https://api.wandb.ai"


def choose(word: str, environment: Mapping[str, str] = os.environ) -> tuple[Mode, str | None]:
    """The mode for the recipe's word, and a warning where it is not the one asked for.

    WANDB_MODE can make a run quieter than the recipe says, never louder, but for `auto`, which leaves it open.
    """
    asked = _FROM_ENVIRONMENT.get(environment.get("WANDB_MODE", "").lower())
    if int(environment.get("RANK") or 0) > 0 or "off" in (word, asked):  # one process of several tells
        return "off", None
    if "offline" in (word, asked):
        return "offline", None
    if has_key(environment):
        return ("auto" if word == "auto" and asked is None else "online"), None
    if "online" in (word, asked):
        return "offline", "W&B: no API key (WANDB_API_KEY, or `wandb login`), so the run is logged offline"
    return "offline", None


def has_key(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether W&B's API key is at hand: in the environment, or in the netrc file for the W&B server."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL") or _HOME).netloc
    named = environment.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if path.is_file() and netrc.netrc(path).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
    return False
