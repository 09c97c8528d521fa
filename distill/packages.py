"""Python packages that carry data or weights: located and read, never imported."""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from pathlib import Path

from distill.errors import DistillError

DISTRIBUTION = "distill-toolkit"


def is_installed(name: str) -> bool:
    """Whether a distribution is installed."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def find_file(name: str, path: str) -> Path:
    """A file or folder that an installed distribution ships, by its path below site-packages.

    Raises DistillError when the distribution isn't installed or ships no such path.
    """
    if not is_installed(name):
        raise DistillError(not_installed(name))
    installed = importlib.metadata.distribution(name)
    found = Path(str(installed.locate_file(path)))
    if ".." in Path(path).parts or Path(path).is_absolute() or not found.exists():
        raise DistillError(f"the package {name} {installed.version} ships no {path}")
    return found


def not_installed(name: str) -> str:
    """That a package is missing, and the command that installs it: by this toolkit's extra when one holds it."""
    extra = _extra_of(name)
    target = f'"{DISTRIBUTION}[{extra}]"' if extra else name
    return f"the package {name} is not installed; install it with: pip install {target}"


def _extra_of(name: str) -> str | None:
    """The extra of this toolkit that asks for a distribution: the smallest one, when several do."""
    requirements = importlib.metadata.requires(DISTRIBUTION) or [] if is_installed(DISTRIBUTION) else []
    pattern = re.compile(r"([A-Za-z0-9._-]+)[^;]*;.*extra == ['\"]([^'\"]+)['\"].*")
    found = [match.groups() for requirement in requirements if (match := pattern.fullmatch(requirement))]
    sizes = Counter(extra for _, extra in found)
    holding = [extra for asked, extra in found if asked.lower().replace("_", "-") == name.lower().replace("_", "-")]
    return min(holding, key=sizes.__getitem__, default=None)
