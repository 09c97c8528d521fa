"""Run as a script: loads one format of a checkpoint folder, answers one batch, prints the process's peak memory in MB.

What writes reads a prompt and writes one token. It imports what a server would import, and nothing of this package
where the files do without it, so that only interpreter, engine and files count.
"""

import json
import sys
from pathlib import Path

BATCH, TOKENS = 1, 128


def tokens_for(folder: Path) -> int:
    """TOKENS, or what a model with fewer positions takes (RoBERTa and its kin keep two to themselves)."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    positions = config.get("max_position_embeddings") or config.get("n_positions") or TOKENS + 2
    return min(TOKENS, positions - 2)


def answer_with_torch(folder: Path) -> None:
    """One answer of eager torch."""
    import torch
    import transformers

    if (folder / "shape.json").is_file():  # of a shape that only this package loads
        from distill.checkpoint import load

        model = load(folder).model
    else:
        (kind,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
        model = getattr(transformers, kind).from_pretrained(folder, use_safetensors=True, dtype="float32").eval()
    given, end = torch.ones(BATCH, tokens_for(folder), dtype=torch.int64), model.config.eos_token_id
    if model.config.is_encoder_decoder and isinstance(end, int):  # its classifiers answer where a text ends
        given = given.where(given != end, 0)
        given[:, -1] = end
    with torch.inference_mode():
        if model.can_generate():
            one = {"max_new_tokens": 1, "min_new_tokens": 0, "min_length": 0, "num_beams": 1, "do_sample": False}
            if model.config.is_encoder_decoder:  # transformers would count the layers of the wrong side for some
                from transformers import DynamicCache, EncoderDecoderCache

                one["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
            model.generate(input_ids=given, attention_mask=torch.ones_like(given), **one)
        else:
            model(input_ids=given)


def answer_with_onnxruntime(graph: Path) -> None:
    """One answer of ONNX Runtime."""
    import numpy as np
    import onnxruntime

    if not graph.is_file():  # an encoder-decoder's two, which this package runs
        from distill.engines import open_graph
        from distill.recipe.settings import Generation

        given = np.ones((BATCH, tokens_for(graph.parent)), dtype=np.int64)
        open_graph(graph).generate({"input_ids": given, "attention_mask": given}, Generation(max_new_tokens=1))
        return
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # as all graphs here are opened
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    batch = np.ones((BATCH, tokens_for(graph.parent)), dtype=np.int64)
    feed = {given.name: batch for given in session.get_inputs()}
    for given in session.get_inputs():
        if given.name.startswith("past_key_values."):  # of a decoder, which has read nothing yet
            feed[given.name] = np.zeros((BATCH, given.shape[1], 0, given.shape[3]), dtype=np.float32)
    if any(given.name == "num_logits_to_keep" for given in session.get_overridable_initializers()):
        feed["num_logits_to_keep"] = np.ones(1, dtype=np.int64)  # what comes next is asked of the last token alone
    session.run(None, feed)


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
    served = Path(sys.argv[1])
    (answer_with_onnxruntime if served.suffix == ".onnx" else answer_with_torch)(served)
    print(f"{own_peak():.1f}")
