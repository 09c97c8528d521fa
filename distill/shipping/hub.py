"""To the Hugging Face Hub, or, without a token, the list of what would go there."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from distill.errors import CheckpointError, MachineError
from distill.recipe.settings import Ship
from distill.shipping import manifest as manifests

log = logging.getLogger(__name__)
_OURS = ["transformers/*", "onnx/*"]


def push(folder: Path, words: Ship) -> str | None:
    """Pushes a shipped folder to `words.hub` and gives back its address; None, and the list, without a token.

    In the repository's own `transformers/` and `onnx/` what an earlier push left is removed, so that it holds what the
    manifest names. Raises MachineError when the Hub can't be reached or refuses; the folder stays as it is.
    """
    from huggingface_hub import HfApi, get_token

    if words.hub is None:
        return None
    files = [*manifests.read(folder).files, manifests.NAME]
    if absent := sorted(set(files) - set(manifests.files_in(folder))):  # which refuses links too
        raise CheckpointError(f"{folder}: {absent[0]} is not there, so it is not pushed; ship it again")
    sizes = {name: (folder / name).stat().st_size for name in files}
    token = get_token()
    if token is None:
        _tell(folder, words, sizes)
        return None
    log.info("pushing %d files (%.1f MB) to %s", len(files), sum(sizes.values()) / 1e6, words.hub)
    try:
        api = HfApi(token=token)
        made = api.create_repo(words.hub, private=words.private, exist_ok=True)
        api.upload_folder(
            repo_id=words.hub, folder_path=folder, commit_message="Shipped by distill", allow_patterns=files,
            delete_patterns=_OURS,
        )  # fmt: skip
    except Exception as error:  # HTTP, network and file errors of three libraries without a common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300].replace(token, "…")
        raise MachineError(
            f"pushing to {words.hub} failed ({type(error).__name__}: {reason}); the folder is whole: {folder}"
        ) from error
    return str(made)


def _tell(folder: Path, words: Ship, sizes: dict[str, int]) -> None:
    log.info(
        "no Hugging Face token is at hand, so nothing was pushed; to https://huggingface.co/%s would go", words.hub
    )
    kind = "private" if words.private else "public"
    log.info("(%d files, %.1f MB; a new repository is %s):", len(sizes), sum(sizes.values()) / 1e6, kind)
    for name, size in sorted(sizes.items()):
        log.info("  %-36s %12s bytes", name, f"{size:,}")
    log.info("log in with: hf auth login   (or set HF_TOKEN), then run the recipe again, or push by hand:")
    log.info("  hf upload %s %s .", words.hub, shlex.quote(str(folder)))
