"""From torch to a clean ONNX graph, with the check that both say the same.

Opset 23 keeps attention as one native node; the mask is made once, before the model, so that no layer rebuilds it.
Hidden states keep their names in the graph
(`hidden_states.3`), and a parity check that fails can say where the two part. What is left is tidied.
"""

from __future__ import annotations

from pathlib import Path

import torch

from distill.bars import bar
from distill.checkpoint import Checkpoint
from distill.checkpoint.tokenizers import save_tokenizer
from distill.data import Encoded, Splits, collate
from distill.disk import atomic_folder
from distill.engines import GRAPHS
from distill.export.parity import check_parity
from distill.export.programs import save, trace
from distill.export.traced import Answering
from distill.export.writing import export_writer
from distill.signals import inputs_for

_PARITY_ROWS, _PARITY_TOKENS, _PARITY_LEAST = 256, 4096, 8  # rows and tokens that are compared
_AT_ONCE = 1024  # tokens of a batch, padding included: each may have as many logits as the vocabulary


def export(checkpoint: Checkpoint, path: Path) -> Path:
    """Writes a checkpoint's graph: int64 inputs (batch, tokens), both of any size, and `logits`: (batch, labels) of a
    text, (batch, tokens, classes) of its tokens, or for question answering (batch, tokens, 2), starts and ends.

    What writes text takes and gives its past besides, and an encoder-decoder's is two files, `pair(path)`. Raises
    MachineError when torch can't export the model.
    """
    model = checkpoint.model.eval()
    if model.can_generate():
        return export_writer(model, path)
    sample = torch.arange(14, device=model.device).reshape(2, 7) % model.config.vocab_size
    shown = torch.ones_like(sample)
    shown[1, 5:] = 0
    given = inputs_for(
        model, {"input_ids": sample, "attention_mask": shown, "token_type_ids": torch.zeros_like(sample)}
    )
    answering = Answering(model, list(given))
    with torch.inference_mode():
        answering(*given.values())
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = trace(answering, given, ["logits", *answering.states], {"inputs": tuple(free for _ in given)})
    graph = program.model.graph
    while len(graph.outputs) > 1:  # `del` would leave them marked as outputs
        graph.outputs.pop()
    save(program, path)
    return path


def as_graph(checkpoint: Checkpoint, *, data: Splits, folder: Path) -> Path:
    """Writes a folder with a checkpoint's fp32 graph only: what it answers on ONNX Runtime without compression.

    Raises MachineError when the graph doesn't say what torch says.
    """
    with atomic_folder(Path(folder)) as unfinished:
        write_graph(checkpoint, unfinished, checkpoint.encode(data, "validation"))
    return Path(folder)


def write_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """What an engine reads beside a checkpoint's graph: its config and, of what writes, the generation's."""
    checkpoint.model.config.save_pretrained(folder)
    if checkpoint.model.can_generate():
        checkpoint.model.generation_config.save_pretrained(folder)


def write_graph(checkpoint: Checkpoint, folder: Path, held: Encoded) -> Path:
    """A checkpoint's fp32 graph with the config and tokenizer that an engine needs beside it, parity checked."""
    write_settings(checkpoint, folder)
    save_tokenizer(checkpoint.tokenizer, folder)
    path = export(checkpoint, folder / GRAPHS["onnx-fp32"])
    held = held.first(_PARITY_ROWS, _PARITY_TOKENS, _PARITY_LEAST)
    size = max(2, _AT_ONCE // int(held.lengths.max()))
    rows = [list(range(start, min(start + size, len(held)))) for start in range(0, len(held), size)]
    check_parity(checkpoint, path, (collate(held, some) for some in bar(rows, title="parity", unit="batch")))
    return path
