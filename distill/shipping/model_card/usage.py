"""How the folder is used, and how it was made: the sections Use and How to reproduce."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.recipe.settings import Recipe
from distill.shipping import snippets
from distill.shipping.model_card.formats import code, fewest_bits, graph_files
from distill.shipping.model_card.origin import listed


def use(recipe: Recipe, facts: Mapping[str, Any]) -> str:
    """The section Use: snippets that run in the folder."""
    parts = []
    if recipe.ship and recipe.ship.hub:
        fetch = code(snippets.from_hub(recipe.ship.hub))
        parts.append(f"Get the folder (`pip install huggingface-hub`), then work in it:\n\n{fetch}")
    parts.append("The snippets run in this folder, and each needs only what its title says.")
    if "transformers" in facts["formats"]:
        asked = f'### transformers alone\n\n`pip install torch "transformers>={_version(facts, "transformers")}"`'
        parts.append(f"{asked}\n\n{code(snippets.transformers_alone(recipe.task, facts))}")
    if fewest_bits(facts):
        asked = "### onnxruntime and tokenizers alone\n\n`pip install onnxruntime tokenizers numpy`"
        fp32 = [f"`onnx/{name}`" for name in graph_files(facts, "onnx-fp32")]
        same = "is" if len(fp32) == 1 else "are"
        notes = [f"The graphs use opset {facts['opset']}. {listed(fp32)} {same} the same in fp32."]
        notes += [told] if (told := snippets.left_out(facts)) else []
        parts.append("\n\n".join([asked, code(snippets.onnxruntime_alone(recipe.task, facts)), *notes]))
    parts.append(
        "### distill's Predictor\n\n`pip install distill-toolkit`. It serves the smallest graph where there is one, "
        f"without torch, and may be asked from many threads.\n\n{code(snippets.predictor(recipe.task, facts))}"
    )
    return "\n\n".join(parts)


def _version(facts: Mapping[str, Any], name: str) -> str:
    found = facts["engine_versions"].get(name, "5")
    return found.split(".")[0]


def reproduce(report: Mapping[str, Any]) -> str:
    """The section How to reproduce: commands, versions, machine, seed."""
    machine, versions = report["machine"], report["versions"]
    own = versions.get("distill-toolkit", "not installed")
    pinned = "distill-toolkit" if own == "not installed" else f"distill-toolkit=={own}"
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{code(f'pip install {pinned}' + chr(10) + 'distill run ./recipe.yaml --output ../again', 'sh')}\n\n"
        "`recipe.yaml` is the recipe with every default written out. A path in it is only a name: say where the file "
        "is with `--set data.source=…`.\n\n"
        f"* versions: {told}\n"
        f"* machine: {machine['processor']}, {machine['cores']} core(s), {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}, accelerator: {machine['accelerator'] or 'none'}\n"
        f"* seed: {report['seed']}\n\n"
        f"Hold this folder's claims against your own machine:\n\n{code('distill verify .', 'sh')}"
    )
