"""Python packages that carry data or weights: located and read, never imported."""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from distill.errors import DistillError
from distill.library import leads_out

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

    Raises DistillError when the distribution isn't installed or ships no such path: another distribution's files, a
    path out of site-packages, and a link that leads out of it are none of its own.
    """
    if not is_installed(name):
        raise DistillError(not_installed(name))
    installed = importlib.metadata.distribution(name)
    found = Path(str(installed.locate_file(path)))
    plain = not Path(path).is_absolute() and ".." not in Path(path).parts
    if not plain or not found.exists() or not _ships(installed, path):
        raise DistillError(f"the package {name} {installed.version} ships no {path}")
    if leads_out(found, Path(str(installed.locate_file("")))):
        raise DistillError(f"the package {name} {installed.version}: {path} is a link that leads out of the package")
    return found


def _ships(installed: importlib.metadata.Distribution, path: str) -> bool:
    """Whether a path is in the distribution's own list of files, where it has one."""
    listed, wanted = installed.files, PurePosixPath(path)
    return listed is None or any(
        wanted == PurePosixPath(file) or wanted in PurePosixPath(file).parents for file in listed
    )


def not_installed(name: str, *, alone: bool = False) -> str:
    """That a package is missing, and the command that installs it: by this toolkit's extra when one holds it; `alone`
    without the packages that it depends on.
    """
    extra = _extra_of(name)
    target = f'"{DISTRIBUTION}[{extra}]"' if extra else f"--no-deps {name}" if alone else name
    return f"the package {name} is not installed; install it with: pip install {target}"


def _extra_of(name: str) -> str | None:
    """The extra of this toolkit that asks for a distribution: the smallest one, when several do."""
    requirements = importlib.metadata.requires(DISTRIBUTION) or [] if is_installed(DISTRIBUTION) else []
    pattern = re.compile(r"([A-Za-z0-9._-]+)[^;]*;.*extra == ['\"]([^'\"]+)['\"].*")
    found = [match.groups() for requirement in requirements if (match := pattern.fullmatch(requirement))]
    sizes = Counter(extra for _, extra in found)
    holding = [extra for asked, extra in found if asked.lower().replace("_", "-") == name.lower().replace("_", "-")]
    return min(holding, key=sizes.__getitem__, default=None)
