"""What holds while a training lasts: the number format, memory, dropout, attention, a folder to work in."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from distill import processes
from distill.data import Encoded

_PLAIN_ATTENTION = 256  # tokens
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
_KEPT, _MAPPED = (1 << 31) - 1, 32 << 20  # bytes: the most that can be said, and what glibc goes up to by itself


def choose_dtype(asked: str) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it itself: most GPUs, CPUs with AMX or AVX512-BF16."""
    if asked != "auto":
        return getattr(torch, asked)
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = any(getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("amx_tile", "avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for as long as the training lasts, the same for all processes."""
    folder = processes.once(lambda: Path(tempfile.mkdtemp(prefix="distill-training-")))
    try:
        yield folder
    finally:
        if processes.is_first():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def blocks_kept() -> Iterator[None]:
    """Large blocks of memory that are freed are there for the next that are asked for, for as long as this lasts.

    The GNU C library gives those over 32 MB back to the system at once, which clears each new one page by page: most of
    the time that the gradient of an embedding table took went there. Afterwards what is free is given back. Other C
    libraries are left as they are, and so are the blocks of other threads than the main one.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _KEPT)
    libc.mallopt(_TRIM_THRESHOLD, _KEPT)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _MAPPED)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _MAPPED)
        libc.malloc_trim(0)


@contextlib.contextmanager
def dropout(model: nn.Module, rate: float | None, *, in_attention: bool = True) -> Iterator[None]:
    """Every dropout of a model at one rate for as long as the block lasts; None leaves them alone.

    Whole layers are never dropped (`layerdrop`): a layer that was left out has no hidden states to learn from.
    Not `in_attention`, there is none in its attention: the weights that a model gives away have been through it, and a
    distribution with some of its places at zero can't be held against a teacher's.
    """
    own = [(module, name, getattr(module, name), attends) for module, name, attends in _dropouts(model)]
    for module, name, before, attends in own:
        asked = before if rate is None else rate
        setattr(module, name, 0.0 if name == "layerdrop" or (attends and not in_attention) else asked)
    try:
        yield
    finally:
        for module, name, before, _ in own:
            setattr(module, name, before)


def _dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str, bool]]:
    """Where the rates stand, and which of them in an attention: in layers of their own, and in modules that drop by a
    function, under names such as attention_dropout.
    """
    for module in model.modules():
        attends = "Attention" in type(module).__name__
        for child in module.children():
            if isinstance(child, nn.Dropout):
                yield child, "p", attends
        for name, value in vars(module).items():
            if name.endswith(("dropout", "layerdrop")) and isinstance(value, int | float):
                yield module, name, attends


@contextlib.contextmanager
def attention(model: nn.Module, train: Encoded) -> Iterator[None]:
    """Plain attention for short texts on a CPU, for as long as the block lasts.

    There the backward pass of fused attention is the slower one: at 128 tokens a training step took 1.3 to 1.4 times as
    long. Long texts keep fused attention, whose memory does not grow with the square of their length.
    """
    own = model.config._attn_implementation
    if model.device.type != "cpu" or own != "sdpa" or train.sequences.max() > _PLAIN_ATTENTION:
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(own)
