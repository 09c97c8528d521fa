"""What a training saves itself: optimizer states that no step can follow, passes over gradients, frozen tables, memory
that goes back to the system only to be asked for again.
"""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from tiny_models import tiny
from torch import nn

from distill import Finetune
from distill.distillation import finetune
from distill.errors import TrainingError
from distill.training import Watch
from distill.training.freezing import freeze
from distill.training.trainer import Trainer

EXACT = {"learning_rate": 1e-3, "dtype": "float32", "dropout": 0.0, "patience": 9}


@pytest.fixture
def saved(monkeypatch) -> list[set[str]]:
    """The files of each checkpoint as soon as it is there."""
    found: list[set[str]] = []
    before = Trainer._save_checkpoint

    def save(self, *given) -> None:
        before(self, *given)
        folder = f"{self.args.output_dir}/checkpoint-{self.state.global_step}"
        from pathlib import Path

        found.append({path.name for path in Path(folder).iterdir()})

    monkeypatch.setattr(Trainer, "_save_checkpoint", save)
    return found


def test_the_optimizer_is_saved_where_a_step_can_follow_and_nowhere_else(bert, data, saved, tmp_path):
    finetune(bert, Finetune(**EXACT, epochs=2), data=data)
    assert len(saved) == 2 and not any({"optimizer.pt", "complete.json"} & files for files in saved)
    saved.clear()
    finetune(bert, Finetune(**EXACT, epochs=2), data=data, watch=Watch(folder=tmp_path))
    assert ["optimizer.pt" in files for files in saved] == [True, False], "no step follows the last epoch"
    assert all("complete.json" in files for files in saved)


def test_nothing_but_the_weights_of_a_training_that_stops_early(bert, data, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "evaluate", _falling(Trainer.evaluate))
    watch = Watch(folder=tmp_path)
    finetune(bert, Finetune(**EXACT | {"patience": 1}, epochs=5), data=data, watch=watch)
    assert len(watch.log.epochs) == 2 and ["optimizer.pt" in files for files in saved] == [True, False]


def _falling(before):
    def evaluate(self, *given, **words):
        self.validate = lambda: -float(self.state.global_step)
        return before(self, *given, **words)

    return evaluate


def test_a_longer_training_does_not_begin_at_the_end_of_a_shorter_one(bert, data, tmp_path, monkeypatch):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("transformers.Trainer._load_best_model", die)
        finetune(bert, Finetune(**EXACT, epochs=1), data=data, watch=Watch(folder=tmp_path))
    with pytest.raises(TrainingError, match="is the end of a shorter training"):
        finetune(bert, Finetune(**EXACT, epochs=3), data=data, watch=Watch(folder=tmp_path))


@pytest.mark.parametrize("clip", [1e-2, 1.0, 1e3])
def test_clipping_gives_the_very_gradients_that_torch_gives(bert, data, clip, monkeypatch):
    """Below the limit and above it, bit for bit."""
    words = Finetune(**EXACT, epochs=1, clip=clip)
    made = finetune(bert, words, data=data)
    monkeypatch.delattr(Trainer, "_clip_grad_norm")
    plain = finetune(bert, words, data=data)
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), plain.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "head", "own"),
    [("bert", "MaskedLM", "bert.embeddings."), ("gpt2", "CausalLM", "transformer.w"), ("llama", "CausalLM", None),
     ("bart", "Seq2SeqLM", None), ("t5", "Seq2SeqLM", None), ("t5-gated", "Seq2SeqLM", None)],
)  # fmt: skip
def test_frozen_embeddings_stay_in_every_family_with_what_is_tied_to_them(name, head, own):
    model = tiny(name, head)
    freeze(model, ["embeddings"])
    frozen = {key for key, weight in model.named_parameters() if not weight.requires_grad}
    table, out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert not table.requires_grad and out.requires_grad == (out is not table)
    assert out.requires_grad == (not model.config.tie_word_embeddings)
    inside = {key for key, _ in model.named_parameters() if ".layer." in key or ".block." in key or ".layers." in key}
    assert not inside & frozen
    assert own is None or all(key.startswith(own) for key in frozen)
    before = {key: weight.clone() for key, weight in model.named_parameters()}
    ids = {"input_ids": torch.arange(3, 13)[None], "labels": torch.arange(3, 13)[None]}
    model(**ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    moved = {key for key, weight in model.named_parameters() if not torch.equal(weight, before[key])}
    assert moved and not moved & frozen
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    assert len(tables & {id(weight) for key, weight in model.named_parameters() if key in frozen}) >= 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library is told what to keep")
def test_large_blocks_are_used_again_while_a_training_lasts():
    """In a process of its own: the C library keeps blocks of this size for a main thread alone."""
    script = (
        "import resource, torch\n"
        "from distill.training import blocks_kept\n"
        "def faults(times=4):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(times): torch.zeros(20 << 20)\n"  # 80 MB, gone at once
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "with blocks_kept():\n"
        "    faults(2), print(faults())\n"
        "print(faults())\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    kept, given_back = map(int, told.split())
    assert kept < given_back / 2
