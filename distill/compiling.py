"""`compile: true`: torch.compile for as long as a training lasts, and what it needs on this machine.

The model itself is compiled in place (`nn.Module.compile`), not wrapped: weights keep their names, so that nothing of
it is seen in checkpoints, copies or graphs, and behind the block the model is what it was. TrainingArguments' own
`torch_compile` would wrap student and loss together, leave the teacher as it is, and hold on for the whole process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distill.errors import MachineError

if TYPE_CHECKING:
    from torch import nn

_USUAL = {"darwin": "clang++", "win32": "cl"}
_BACKEND = "inductor"
_RECOMPILED = 64  # times that a function may be, before torch gives up on it: each task has shapes and modes of its own


def lacking() -> str | None:
    """What this machine lacks for `compile`, and what gets it; None where it has all. Never imports torch."""
    compiler = os.environ.get("CXX") or _USUAL.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        where = "that CXX names" if os.environ.get("CXX") else "that torch.compile calls"
        return f"the C++ compiler {where}, {compiler}, is not there; install it (apt install g++), or leave compile out"
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        return f"Python's headers are not in {headers}; install them (apt install python3-dev), or leave compile out"
    return None


def require_compiler(wanted: bool | None) -> None:
    """Raises MachineError where a compiler is wanted and can't work."""
    if wanted and (reason := lacking()):
        raise MachineError(f"compile: {reason}")


@contextlib.contextmanager
def compiled(model: nn.Module, wanted: bool | None) -> Iterator[None]:
    """A model that is compiled when it is first called, for batches of any shape, where that is wanted.

    Raises MachineError where the compiler fails.
    """
    if not wanted:
        yield
        return
    import torch._dynamo
    import torch._functorch.config as functorch

    # The gradients of single terms are taken from a graph that is gone through again.
    with torch._dynamo.config.patch(recompile_limit=_RECOMPILED), functorch.patch(donated_buffer=False):
        model.compile(dynamic=True, backend=_BACKEND)
        try:
            yield
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise MachineError(f"compile: {_first_line(error.inner_exception)}; leave compile out") from error
        finally:
            model._compiled_call_impl = None


def is_compiled(model: nn.Module) -> bool:
    """Whether a model is compiled now."""
    return model._compiled_call_impl is not None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
