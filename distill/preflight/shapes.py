"""Layers, pruning, ranks and lengths held against the shapes of teacher and student."""

from __future__ import annotations

from typing import Any

from distill import anatomy, checkpoint, safety
from distill import student as students
from distill.errors import CheckpointError
from distill.preflight.plan import Plan
from distill.recipe import settings
from distill.tasks import TASKS

_LOST = ("heads", "neurons", "layers", "vocabulary", "embeddings")  # as settings and anatomy alike call them


def check_layers(plan: Plan) -> None:
    """Layers that the teacher has and can be cut to."""
    student, config = plan.recipe.student, plan.teacher_config
    if student.layers is None or config is None:
        return
    anatomy.family_of(config)
    if reason := anatomy.refuse(config, "layers"):
        raise CheckpointError(f"student.layers: {reason}")
    anatomy.with_layers(config, anatomy.kept_layers(config, student.layers, student.choose))


def check_pruning(plan: Plan) -> None:
    """What the student's family can't lose, and shares and layers that would leave too little."""
    task = TASKS[plan.recipe.task]
    for position, (step, config) in enumerate(zip(plan.recipe.steps, _student_configs(plan), strict=True)):
        if step.prune is None or config is None:
            continue
        anatomy.family_of(config)
        where = f"steps.{position}.prune"
        refused = {what: anatomy.refuse(config, what) for what in _LOST}
        for what, reason in {**refused, "hidden_size": anatomy.refuse(config, "hidden")}.items():
            if getattr(step.prune, what) is not None and reason:
                raise CheckpointError(f"{where}.{what}: {reason}")
        if step.prune.to is not None and refused["heads"] and refused["neurons"]:
            raise CheckpointError(f"{where}.to: {refused['neurons']}")
        _check_something_left(config, step.prune, where)
        if step.prune.embeddings is not None and not task.head_labels and _is_tied(config):
            raise CheckpointError(
                f"{where}.embeddings: the head of a {task.name} is tied to the embeddings (tie_word_embeddings), and "
                "needs the whole table; trim the `vocabulary` instead"
            )
        if step.prune.layers is not None and anatomy.size(config, "layers") is not None:
            _layers_left(config, step.prune.layers, where)


def _is_tied(config: dict[str, Any]) -> bool:
    """Whether a head over the vocabulary is tied to the embeddings, which many configs leave to transformers."""
    if "tie_word_embeddings" in config:
        return bool(config["tie_word_embeddings"])
    from transformers import AutoConfig

    return AutoConfig.for_model(config["model_type"]).tie_word_embeddings


def _layers_left(config: dict[str, Any], going: int | dict[str, int], where: str) -> list[int] | None:
    """How many layers each stack keeps after a step; None where the step itself decides on which side they go."""
    left = anatomy.layer_counts(config)
    try:
        asked = anatomy.by_side(config, going) if isinstance(going, dict) or len(left) == 1 else {}
    except CheckpointError as error:
        raise CheckpointError(f"{where}.layers: {error}") from None
    if not asked and going > sum(left) - len(left):
        raise CheckpointError(
            f"{where}.layers: {going} of {' and '.join(map(str, left))} layers can't go; keep at least one on each side"
        )
    for place, number in asked.items():
        if number >= left[place]:
            raise CheckpointError(f"{where}.layers: {number} of {left[place]} layers can't go; keep at least one")
    return [there - asked.get(place, 0) for place, there in enumerate(left)] if asked else None


def check_graphs(plan: Plan) -> None:
    """Families that can become graphs, where a graph is made or timed: a teacher's is the baseline of its student's."""
    student, teacher = student_config(plan) or {}, plan.teacher_config or {}
    writes = TASKS[plan.recipe.task].writes
    for position, step in enumerate(plan.recipe.steps):
        timed = step.prune is not None and step.prune.to is not None and step.prune.to.word == "latency"
        for who, config in (("student", student), ("teacher", teacher)):
            reason = anatomy.refuse(config, "graph") or anatomy.cannot_trace(config)
            reason = reason or (anatomy.cannot_write(config) if writes else None)
            if reason and (step.quantize is not None or (timed and who == "student")):
                where = f"steps.{position}.quantize" if not timed else f"steps.{position}.prune.to.latency"
                raise CheckpointError(f"{where}: the {who} is a {config['model_type']}; {reason}")


def _check_something_left(config: dict[str, Any], words: settings.Prune, where: str) -> None:
    """A layer keeps a head and a block of neurons: a share that leaves less than that can't be meant."""
    if words.heads is not None or words.to is not None:
        try:
            group = anatomy.heads_a_group(config)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {error}") from None
    for what, least in (("heads", 1), ("neurons", words.multiple_of)):
        share, there = getattr(words, what), anatomy.size(config, what)
        if share is None or there is None:
            continue
        least = min(least, there) if what == "neurons" else group  # heads go by group
        if there * (1 - share) < least / 2:
            raise CheckpointError(
                f"{where}.{what}: {share:g} of {there} {what} a layer leaves nothing, but each layer keeps {least} at "
                f"least; take out {1 - least / there:.3g} at most, or whole `layers`"
            )
    hidden = anatomy.size(config, "hidden_size")
    if words.hidden_size is None or hidden is None:
        return
    multiple = anatomy.hidden_multiple(config)
    if hidden * (1 - words.hidden_size) < multiple / 2:
        raise CheckpointError(
            f"{where}.hidden_size: {words.hidden_size:g} of {hidden} dimensions leaves nothing, but {multiple} stay at "
            f"least; take out {1 - multiple / hidden:.3g} at most"
        )


def check_ranks(plan: Plan) -> None:
    """Embeddings factorised to a rank that makes nothing smaller, as far as can be told before tokens are counted."""
    config = student_config(plan) or {}
    tokens, width, now = config.get("vocab_size"), anatomy.table_width(config), None
    for position, step in enumerate(plan.recipe.steps):
        if step.prune is None or not isinstance(tokens, int) or width is None:
            continue
        if step.prune.vocabulary is not None and isinstance(step.prune.vocabulary.keep, int):
            tokens = min(tokens, step.prune.vocabulary.keep)
        rank, most = step.prune.embeddings, anatomy.largest_rank(tokens, width, now)
        if rank is None:
            continue
        if rank > most:
            already = f", of rank {now} already," if now is not None else ""
            raise CheckpointError(
                f"steps.{position}.prune.embeddings: a rank of {rank} makes a table of {tokens} × {width}{already} no "
                f"smaller; at most {most} does"
            )
        now = rank


def check_imitated_layers(plan: Plan) -> None:
    """Layer maps that fit both sides, and vectors that can be cut into as many relation heads."""
    config, narrowed = plan.teacher_config, False
    for place, (step, student) in enumerate(zip(plan.recipe.steps, _student_configs(plan), strict=True)):
        if step.prune is not None:
            narrowed |= any(getattr(step.prune, word) is not None for word in ("heads", "hidden_size", "to"))
        if step.distill is None or student is None or config is None:
            continue
        for term, words in step.distill.imitate.by_layer.items():
            where, both = f"steps.{place}.distill.imitate.{term}", [_with_sides(plan, one) for one in (student, config)]
            try:
                for facts in both:
                    anatomy.require_states(facts, term)
                silent = [facts.get("model_type") for facts in both if anatomy.size(facts, "layers") is None]
                if not anatomy.FAMILIES.keys() & silent:  # of which it is told that they can't be cut
                    pairs = anatomy.imitated_pairs(term, words.layers, words.side, *both)
                    _note_learned(plan, where, words, pairs, config)
                    if isinstance(words, settings.RelationsTerm) and not narrowed:
                        _check_relations(words, pairs, *both)
            except CheckpointError as error:
                inside = "." if str(error).startswith(("imitate.", "imitate:")) else ": "
                raise CheckpointError(f"steps.{place}.distill{inside}{error}") from None
            _note_projections(plan, where, words, student, config)


def _with_sides(plan: Plan, config: dict[str, Any]) -> dict[str, Any]:
    """A config that says whether its model is an encoder-decoder, which some leave to transformers."""
    return {"is_encoder_decoder": TASKS[plan.recipe.task].families == ("encoder-decoder",), **config}


def _check_relations(
    words: settings.RelationsTerm, pairs: list[tuple[int, int]], student: dict[str, Any], teacher: dict[str, Any]
) -> None:
    sizes = [anatomy.size(facts, word) for facts in (student, teacher) for word in ("heads", "hidden_size")]
    if None in sizes:
        return
    mine, theirs = zip(*pairs, strict=True)
    widths = anatomy.vector_widths(student, mine, words.of) | anatomy.vector_widths(teacher, theirs, words.of)
    anatomy.relation_heads(words.heads, teacher, widths)


def _note_learned(
    plan: Plan, where: str, words: settings.HiddenStatesTerm | settings.AttentionsTerm | settings.RelationsTerm,
    pairs: list[tuple[int, int]], teacher: dict[str, Any],
) -> None:  # fmt: skip
    """What a learned map costs: every layer that it may mix has to be asked for."""
    width = anatomy.size(teacher, "hidden_size")
    if words.layers != "learned" or width is None:
        return
    vectors = len(words.of) if isinstance(words, settings.RelationsTerm) else 1
    layers = len({theirs for _, theirs in pairs})
    kept = f"about {2 * vectors * width * layers:,} bytes a token, where its signals are kept"
    if isinstance(words, settings.AttentionsTerm):
        kept = "attentions of all of them are in memory at once"
    plan.notes.append(f"{where}.layers: learned takes {layers} layers of the teacher, not one a student layer: {kept}")


def _note_projections(
    plan: Plan, where: str, words: settings.Settings, student: dict[str, Any], teacher: dict[str, Any]
) -> None:
    widths = {anatomy.size(facts, "hidden_size") for facts in (student, teacher)}
    if getattr(words, "projection_learning_rate", None) is not None and len(widths) == 1 and None not in widths:
        plan.notes.append(
            f"{where}.projection_learning_rate does nothing here: both are {widths.pop()} wide: nothing is projected"
        )


def check_length(plan: Plan) -> None:
    """No more tokens than there are positions."""
    recipe = plan.recipe
    teachers = [("teacher" if len(plan.teachers) == 1 else one.where, one.config) for one in plan.teachers]
    for who, config in (*teachers, ("student", student_config(plan))):
        positions = anatomy.size(config, "positions") if config else None
        asked = {"timing.tokens": recipe.timing.tokens}
        if TASKS[recipe.task].generates:
            asked["data.target_length"] = recipe.data.target_length
            asked["generation.max_new_tokens"] = (recipe.generation or settings.Generation()).max_new_tokens
        elif TASKS[recipe.task].continues and recipe.generation is not None:
            asked["generation.max_new_tokens, and one to go on from"] = recipe.generation.max_new_tokens + 1
        if who == "student":
            targets = [(place, step.prune.to) for place, step in enumerate(recipe.steps) if step.prune is not None]
            asked |= {f"steps.{place}.prune.to.tokens": to.tokens for place, to in targets if to is not None}
        else:  # a student with fewer positions sees texts cut to its own
            asked["data.max_length"] = recipe.data.max_length
        for setting, tokens in asked.items():
            if positions is not None and tokens is not None and tokens > positions:
                raise CheckpointError(f"{setting}: {tokens} tokens, but the {who} has {positions} positions")


def check_student_config(plan: Plan) -> None:
    """Sizes of a student from a config that no model can have, or that its tokenizer, the teacher's, doesn't fit."""
    if plan.recipe.student.config is None:
        return
    config = student_config(plan)
    family = anatomy.FAMILIES.get(str(config.get("model_type")))
    for stack in range(len(family.stacks)) if family is not None else ():
        told = [anatomy.size(config, "hidden_size"), anatomy.size(config, "heads", stack)]
        if family.key("head_width", stack) is None and None not in told:
            try:
                anatomy.head_width(config, stack)
            except CheckpointError as error:
                raise CheckpointError(f"student.config: {error}") from None
    known = checkpoint.count_tokens(plan.teacher_folder) if plan.teacher_folder else None
    rows = config.get("vocab_size")
    if known is not None and isinstance(rows, int) and rows < known:
        raise CheckpointError(
            f"student.config.vocab_size: {rows}, but the student reads with the teacher's tokenizer, which has {known} "
            "tokens; leave it out, and `prune: {vocabulary: …}` if it is to be smaller"
        )
    if not any(problem.startswith("student.config") for problem in plan.problems):
        told = plan.teacher_config or {}
        shared = (
            {"vocab_size": told["vocab_size"], "pad_token_id": told.get("pad_token_id")} if "vocab_size" in told else {}
        )
        students.check_config(config, TASKS[plan.recipe.task].auto_class, shared)


def _student_configs(plan: Plan) -> list[dict[str, Any] | None]:
    """The student's config as each step finds it: without the layers that earlier steps took."""
    config, found = student_config(plan), []
    for step in plan.recipe.steps:
        found.append(config)
        if config is not None and step.prune is not None and step.prune.layers is not None:
            config = _without_layers(config, step.prune.layers)
    return found


def _without_layers(config: dict[str, Any], going: int | dict[str, int]) -> dict[str, Any]:
    """A config with so many layers less; it says no number of them where the step decides on which side they go."""
    family = anatomy.FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return config
    try:
        left = _layers_left(config, going, "prune")
    except CheckpointError:  # which the check of the pruning tells
        left = None
    keys = {family.key("layers", place): number for place, number in enumerate(left or ())}
    return {**config, **(keys or dict.fromkeys(family.config_keys("layers")))}


def student_config(plan: Plan) -> dict[str, Any] | None:
    """The student's config before any step; None where it can't be told."""
    choice = plan.recipe.student
    if choice.config is not None:
        words = {"vocab_size": (plan.teacher_config or {}).get("vocab_size"), **choice.config}
        safety.check_buildable(words, "student.config")
        return choice.config
    if plan.student_folder is not None:
        return checkpoint.read_config(plan.student_folder)
    if choice.layers is None or plan.teacher_config is None:
        return None
    family = anatomy.family_of(plan.teacher_config)
    if len(family.stacks) == 1 and not isinstance(choice.layers, dict):  # also where the teacher has fewer
        kept = len(choice.layers) if isinstance(choice.layers, list) else choice.layers
        return {**plan.teacher_config, family.key("layers"): kept}
    try:
        kept = anatomy.kept_layers(plan.teacher_config, choice.layers, choice.choose)
        return anatomy.with_layers(plan.teacher_config, kept)
    except CheckpointError:  # which the check of the layers tells
        return None
