"""What stands above the card's text, for the Hub: licence, base model, tags and the model-index."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.recipe.settings import Recipe
from distill.shipping import claims
from distill.shipping.model_card.formats import fewest_bits
from distill.shipping.model_card.origin import derived_from, licence_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_DIGITS = 6
# What the Hub calls tasks, where it calls them otherwise; it has no word for text to text.
_HUB_TASKS = {
    "masked-language-modelling": "fill-mask", "causal-language-modelling": "text-generation", "text-to-text": None,
}  # fmt: skip
# What the Hub calls the licences that it knows; any other is `other` with its name.
_LICENCES = {
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "gpl-2.0", "gpl-3.0", "gpl", "lgpl", "lgpl-2.1", "lgpl-3.0", "agpl-3.0",
    "mpl-2.0", "isc", "unlicense", "wtfpl", "zlib", "artistic-2.0", "openrail", "bigscience-openrail-m",
    "creativeml-openrail-m", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "etalab-2.0",
    "odbl", "unknown",
}  # fmt: skip


def front_matter(title: str, recipe: Recipe, report: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The YAML that the Hub reads."""
    from huggingface_hub import ModelCardData

    named = licence_of(recipe, report)
    known = named.lower() if named and named.lower() in _LICENCES else None
    data = ModelCardData(
        license=known or ("other" if named else None),
        license_name=None if known or not named else re.sub(r"[^a-z0-9.-]+", "-", named.lower()).strip("-"),
        base_model=derived_from(report),
        datasets=[source.hub for source in recipe.data.sources if source.hub] or None,
        library_name="transformers" if "transformers" in facts["formats"] else "onnx",
        pipeline_tag=_HUB_TASKS.get(recipe.task, recipe.task),
        tags=["distill-toolkit", *_how(recipe), *_graph_tags(facts)],
        model_name=title,
        eval_results=model_index(report, facts["formats"]),
    )
    return data.to_yaml() + "\n"


def model_index(report: Mapping[str, Any], formats: Sequence[str]) -> list[EvalResult]:
    """Every metric, what was kept of the teacher's score, size and parameters of each shipped format."""
    from huggingface_hub import EvalResult

    data = report["data"]
    name = data.get("name") or "the recipe's data"
    source = report["recipe"]["data"]
    hub = None if source.get("further") else source["source"].get("hub")
    found = []
    for form, row in claims.shipped_rows(claims.rows_of(report), formats).items():
        figures = {**row.scores, row.metric: row.score, "retained": row.retained, "bytes": row.bytes}
        figures |= {"parameters": row.params, "interval_low": row.interval[0], "interval_high": row.interval[1]}
        found += [
            EvalResult(
                task_type=_HUB_TASKS.get(report["recipe"]["task"], report["recipe"]["task"]),
                dataset_type=hub or re.sub(r"[^\w.-]+", "-", name).strip("-"),
                dataset_name=name, dataset_split="test",
                metric_type=metric, metric_name=f"{metric} ({form})", metric_value=round(value, _DIGITS),
            )
            for metric, value in figures.items()
            if value is not None
        ]  # fmt: skip
    return found


def _how(recipe: Recipe) -> list[str]:
    return ["knowledge-distillation"] if any(step.distill is not None for step in recipe.steps) else []


def _graph_tags(facts: Mapping[str, Any]) -> list[str]:
    return ["onnx", bits] if (bits := fewest_bits(facts)) else []
