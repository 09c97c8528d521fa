"""Run as a script: loads one format of a checkpoint folder, answers one batch, prints the process's peak memory in MB.

It imports what a server would import and nothing of this package, so that only interpreter, engine and files count.
"""

import sys
from pathlib import Path

BATCH, TOKENS = 1, 128


def answer_with_torch(folder: str) -> None:
    """One answer of eager torch."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True).eval()
    with torch.inference_mode():
        model(input_ids=torch.ones(BATCH, TOKENS, dtype=torch.int64))


def answer_with_onnxruntime(graph: str) -> None:
    """One answer of ONNX Runtime."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    session.run(None, {given.name: np.ones((BATCH, TOKENS), dtype=np.int64) for given in session.get_inputs()})


def own_peak() -> float:
    """This process's highest resident size in MB (10^6 bytes).

    Linux's own count is asked first: getrusage's there includes the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024) / 1e6


if __name__ == "__main__":
    (answer_with_onnxruntime if sys.argv[1].endswith(".onnx") else answer_with_torch)(sys.argv[1])
    print(f"{own_peak():.1f}")
