"""A checkpoint in memory: loaded from a folder, with the head that a task asks for, and saved again."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import anatomy, tasks
from distill.checkpoint import heads
from distill.checkpoint.folder import inspect, read_config, weight_files
from distill.disk import atomic_folder
from distill.errors import CheckpointError, first_line
from distill.tasks import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from distill.data import Encoded, Splits


@dataclass
class Checkpoint:
    """A model and the tokenizer that feeds it. Steps take one and give back a new one."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __post_init__(self) -> None:
        """A config names the class it belongs to, whatever class it was read from."""
        self.model.config.architectures = [type(self.model).__name__]

    @property
    def labels(self) -> list[str]:
        """Names of the head's labels, in the order of its logits; none for a head that tells tokens or places."""
        config = self.model.config.to_dict()
        return tasks.ordered_names(config) if heads.has_labels(config) else []

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def encode(self, data: Splits, split: str) -> Encoded:
        """A split in this checkpoint's own tokens, cut to the positions that it has."""
        from distill.data.decoders import Decoder

        config, generation = self.model.config.to_dict(), getattr(self.model, "generation_config", None)
        told = generation.to_dict() if generation is not None else {}
        decoder = Decoder.of(config, told) if data.task.generates else None
        return data.encode(split, self.tokenizer, anatomy.size(config, "positions"), decoder)

    def copy(self) -> Checkpoint:
        """The same weights in memory of their own."""
        return Checkpoint(copy.deepcopy(self.model), copy.deepcopy(self.tokenizer))

    def save(self, folder: Path | str) -> Path:
        """Writes config, safetensors and tokenizer; the folder appears whole or not at all."""
        from distill import surgery
        from distill.checkpoint.tokenizers import save_tokenizer

        folder = Path(folder)
        with atomic_folder(folder) as unfinished:
            self.model.save_pretrained(unfinished, safe_serialization=True)
            save_tokenizer(self.tokenizer, unfinished)
            surgery.write_record(self.model, unfinished)
            if not any(unfinished.glob("*.safetensors")):  # transformers leaves them to the first of several processes
                raise CheckpointError(f"{folder}: transformers wrote no weights; save it in one process")
        return folder


def load(folder: Path | str, task: Task | None = None, *, new_head: bool = False, seed: int = 0) -> Checkpoint:
    """A checkpoint folder as a model with its tokenizer, in float32 where accelerate places it.

    The task says which head; without one it is the head of the config's architecture. With a task the config's labels
    become the task's; `new_head` starts its head from random weights (what fine-tuning trains), the same ones for the
    same seed. Raises CheckpointError when the weights don't fill the model.
    """
    import torch
    import transformers

    from distill import processes
    from distill.checkpoint.tokenizers import load_tokenizer

    folder = Path(folder)
    inspect(folder)
    config = _config_for(folder, task, new_head)
    known = task.auto_class if task else heads.auto_class_of(config.to_dict())
    auto_class = known or tasks.kind_of(read_config(folder)).auto_class
    try:
        tokenizer = load_tokenizer(folder)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, absent = _fill(folder, config, getattr(transformers, auto_class), new_head)
            if new_head:
                heads.start_head(model)
    except BaseException as error:  # damaged weights and tokenizers raise kinds of their own without a common base
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # what Rust's code throws
            raise
        raise CheckpointError(f"{folder}: transformers can't load it: {first_line(error)}") from error
    padding, rows = tokenizer.pad_token_id, getattr(model.get_input_embeddings(), "num_embeddings", 0)
    if getattr(model.config, "pad_token_id", None) is None and padding is not None and padding < rows:
        model.config.pad_token_id = padding  # a decoder's classifier looks for the last real token
    if model.can_generate() and model.generation_config.decoder_start_token_id is None:  # or texts would begin with bos
        model.generation_config.decoder_start_token_id = getattr(model.config, "decoder_start_token_id", None)
    if new_head:  # the body must be whole; its head is what is trained
        absent -= heads.head_weights(model)
    if absent:
        raise CheckpointError(
            f"{folder}: the weights lack {len(absent)} tensors of a {type(model).__name__}, such as {min(absent)}"
        )
    return Checkpoint(model.to(processes.device()).eval(), tokenizer)


def _fill(folder: Path, config: PretrainedConfig, auto_class: Any, new_head: bool) -> tuple[PreTrainedModel, set[str]]:
    """A model with a folder's weights, in the shape of its record where it has one, and the tensors that it lacks."""
    from safetensors.torch import load_file
    from transformers import GenerationConfig

    from distill import surgery

    shape = surgery.read_record(folder, config.to_dict())
    if shape is None:
        model, report = auto_class.from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False, dtype="float32",
            ignore_mismatched_sizes=new_head, output_loading_info=True,
        )  # fmt: skip
        return model, {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    model = surgery.reshape(auto_class.from_config(config, dtype="float32"), shape)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    expected, fitting = model.state_dict(), {}
    for path in weight_files(folder, "model.safetensors"):
        held = load_file(path)
        fitting |= {name: held[name] for name in held.keys() & expected if held[name].shape == expected[name].shape}
    tied = model.all_tied_weights_keys.items()
    same = {name for name, other in tied if {name, other} <= fitting.keys() and fitting[name].equal(fitting[other])}
    surgery.untie(model, {name: tensor for name, tensor in fitting.items() if name not in same})
    model.load_state_dict(fitting, strict=False)
    held = model.state_dict(keep_vars=True)  # tied weights are one object under several names, of which one is saved
    filled = {id(held[name]) for name in fitting}
    return model, {name for name in expected if id(held[name]) not in filled} - heads.untold(model)


def _config_for(folder: Path, task: Task | None, new_head: bool) -> PretrainedConfig:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a config's own checks raise kinds without a common base
        if "auto_map" in (told := read_config(folder)):
            raise CheckpointError(
                f"{folder}: transformers has no model type '{told['model_type']:.60}' without the checkpoint's own "
                "code (auto_map), which is never run; choose a model type that transformers knows"
            ) from None
        raise CheckpointError(f"{folder}: transformers can't read its config: {first_line(error)}") from error
    if task is not None and task.continues and (reason := anatomy.sees_ahead(config.to_dict())):
        raise CheckpointError(f"{folder}: {reason}")
    if task is not None and not new_head and (misfit := task.misfit(read_config(folder))):
        raise CheckpointError(f"{folder}: its head doesn't fit the data: {misfit}")
    for key, value in (task.head_config if task else {}).items():
        setattr(config, key, value)
    return config
