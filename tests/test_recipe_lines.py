"""Where in a recipe's file a setting stands, for what is found wrong with it after it was read."""

from __future__ import annotations

import pytest
from test_recipe import RECIPE

from distill.recipe import locate


@pytest.mark.parametrize(
    ("problem", "place"),
    [
        ("data.max_length: 900 tokens", "my.yaml:4: "),
        ("student.layers asks for 8 layers", "my.yaml:3: "),
        ("steps.0.distill.imitate.logits: no", "my.yaml:6: "),
        ("steps.0.distill.patience, ship.formats: no", "my.yaml:6: "),
        ("generation.max_new_tokens: 128 tokens", "my.yaml: "),  # nothing of it stands in the file
        ("seed: no", "--set "),
        ("student and teacher differ", ""),
        ("--output my run: no", ""),
    ],
)
def test_what_is_found_later_is_told_with_the_line_of_its_setting(tmp_path, problem, place):
    (tmp_path / "my.yaml").write_text(RECIPE)
    (found,) = locate([problem], tmp_path / "my.yaml", ["seed=1"])
    assert found == (f"{tmp_path}/" if place.startswith("my") else "") + place + problem
