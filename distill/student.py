"""Who learns: some of the teacher's layers, a smaller checkpoint of its own, or a config from random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill import anatomy, checkpoint, safety
from distill.checkpoint import Checkpoint
from distill.errors import CheckpointError
from distill.library import nearest
from distill.recipe import settings
from distill.tasks import Task

if TYPE_CHECKING:
    from distill.data import Splits

Choose = Literal["even", "first", "last", "importance"]
_ENDS = ("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_eos_token_id")


def cut(
    teacher: Checkpoint, layers: anatomy.Layers, choose: Choose = "even", *, data: Splits | None = None
) -> Checkpoint:
    """A student made of some of its teacher's layers (counted from 1), embeddings and head included.

    Of an encoder-decoder they are named by side, as {"encoder": 6, "decoder": 3}; a side that isn't stays whole. To
    choose by `importance` takes data, of which training texts are used. Raises CheckpointError when the teacher has no
    such layers or its family can't be cut.
    """
    from distill.influence import least
    from distill.surgery import keep_layers

    facts = teacher.model.config.to_dict()
    anatomy.family_of(facts)
    if reason := anatomy.refuse(facts, "layers"):
        raise CheckpointError(f"student.layers: {reason}")
    if choose == "importance" and data is None:
        raise CheckpointError("student.choose: importance is measured on training texts; give `data`")
    kept = anatomy.kept_layers(facts, layers, choose, lambda going: least(teacher, going, data))
    return Checkpoint(keep_layers(teacher.model, kept), teacher.tokenizer)


def make(
    choice: settings.Student,
    teacher: Checkpoint,
    task: Task,
    *,
    seed: int,
    folder: Path | None = None,
    data: Splits | None = None,
) -> Checkpoint:
    """The student that a recipe describes; `folder` is where its own checkpoint was found, `data` what layers are
    chosen on.

    Raises CheckpointError.
    """
    if choice.layers is not None:
        return cut(teacher, choice.layers, choice.choose, data=data)
    if choice.config is not None:
        return from_config(choice.config, teacher, task, seed=seed)
    config = checkpoint.read_config(folder)
    has_head = any(task.serves(name) for name in config.get("architectures") or [])
    return checkpoint.load(folder, task, new_head=not has_head or task.misfit(config) is not None, seed=seed)


def from_config(config: dict[str, Any], teacher: Checkpoint, task: Task, *, seed: int) -> Checkpoint:
    """A student of random weights with the teacher's tokenizer; sizes that the config doesn't say are transformers'.

    Raises CheckpointError for a model type or a key that transformers doesn't know.
    """
    import transformers

    from distill import processes

    facts = read_student_config(config, teacher, task)
    safety.check_buildable(facts.to_dict(), "student.config")
    transformers.set_seed(seed)
    try:
        model = getattr(transformers, task.auto_class).from_config(facts)
    except Exception as error:  # each model type has kinds of its own
        raise CheckpointError(f"student.config: transformers can't build it: {_in_a_line(error)}") from error
    return Checkpoint(model.to(processes.device()).eval(), teacher.tokenizer)


def from_random(pupil: Checkpoint, *, seed: int) -> Checkpoint:
    """A student of the same shape whose weights, head and embeddings included, are as transformers starts them."""
    import torch
    from accelerate import PartialState

    from distill import surgery

    facts = pupil.model.config.to_dict()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = surgery.like(pupil.model, pupil.model.config)
    if str(facts["model_type"]) in anatomy.FAMILIES and not anatomy.refuse(facts, "neurons"):
        model = surgery.reshape(model, surgery.shape_of(pupil.model))  # what no config says
    return Checkpoint(model.to(PartialState().device).eval(), pupil.tokenizer)


def check_config(config: dict[str, Any], auto_class: str, shared: dict[str, int]) -> None:
    """Raises CheckpointError for a student's config with keys that its type doesn't have, or of which transformers
    can't build a model: it is built without memory for its weights. `shared` is what it takes from its teacher.
    """
    import torch
    import transformers

    standard = _standard(config)
    given = {key: value for key, value in config.items() if key != "model_type"}
    try:
        facts = type(standard)(**{**shared, **given})
        safety.check_buildable(facts.to_dict(), "student.config")
        with torch.device("meta"):
            getattr(transformers, auto_class).from_config(facts)
    except CheckpointError:
        raise
    except Exception as error:  # each model type, and the check of its config's values, has kinds of its own
        raise CheckpointError(f"student.config: transformers can't build it: {_in_a_line(error)}") from error


def _in_a_line(error: Exception) -> str:
    """What transformers says of a config; its checks of values begin with the name of the field, and a line break."""
    return " ".join(str(error).split()) or type(error).__name__


def _standard(config: dict[str, Any]) -> Any:
    """A type's config as transformers has it. Raises CheckpointError for a type, or a key of it, that isn't known."""
    import transformers

    safety.check_config(config, "student.config")
    try:
        standard = transformers.AutoConfig.for_model(config["model_type"])
    except (KeyError, ValueError):
        hint = nearest(config["model_type"], list(transformers.CONFIG_MAPPING.keys()))
        raise CheckpointError(
            f"student.config: transformers knows no model type '{config['model_type']}'{hint}"
        ) from None
    known = [key for key in (*standard.to_dict(), *standard.attribute_map) if not key.startswith("_")]
    for key in config:
        if key not in known:
            hint = nearest(key, known)
            raise CheckpointError(f"student.config.{key}: a {config['model_type']} has no such key{hint}")
    return standard


def read_student_config(config: dict[str, Any], teacher: Checkpoint, task: Task) -> Any:
    """The transformers config of a student from random weights. Raises CheckpointError for what isn't known."""
    import transformers

    standard = _standard(config)
    given = {key: value for key, value in config.items() if key != "model_type"}
    shared = {"vocab_size": teacher.model.config.vocab_size, "pad_token_id": teacher.tokenizer.pad_token_id}
    if task.generates or task.writes:  # its texts begin and end as the teacher's do
        shared |= {key: value for key in _ENDS if (value := getattr(teacher.model.config, key, None)) is not None}
    elif standard.is_encoder_decoder:  # what it reads begins with padding, and ends as the tokenizer ends it
        ends = (teacher.tokenizer.eos_token_id, teacher.tokenizer.sep_token_id)
        shared |= {"decoder_start_token_id": teacher.tokenizer.pad_token_id}
        shared |= {"eos_token_id": next((number for number in ends if number is not None), standard.eos_token_id)}
    try:
        return transformers.AutoConfig.for_model(config["model_type"], **{**shared, **given, **task.head_config})
    except Exception as error:  # the check of a config's values has kinds of its own
        raise CheckpointError(f"student.config: {_in_a_line(error)}") from error
