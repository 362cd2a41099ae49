"""What the README shows is true: its program runs, its files exist, its choices are those of the registry."""

import pathlib
import re
from typing import Any

import pytest
import torch

from bayes_mbrl.environments.counted import COUNTED
from bayes_mbrl.environments.specs import ENVIRONMENTS
from bayes_mbrl.registry import SECTIONS

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_program_runs_and_knows_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    assert "epistemic" in capsys.readouterr().out
    on_data, far = names["split"].epistemic_share.flatten()
    assert far > on_data
    assert torch.isfinite(names["split"].total).all()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w./-]+)\)", README))))
def test_linked_files_exist(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_choice_has_its_row() -> None:
    names = [
        name
        for section in ("algorithm", "posterior", "planner", "objective", "propagation")
        for name in SECTIONS[section].rows
    ]
    assert [name for name in [*names, *ENVIRONMENTS, *COUNTED] if f"`{name}`" not in README] == []


def test_every_algorithm_stands_on_the_page_of_the_ladder() -> None:
    page = (ROOT / "docs" / "ladder" / "README.md").read_text(encoding="utf-8")
    assert [name for name in SECTIONS["algorithm"].rows if f"`{name}`" not in page] == []
    for path in {*re.findall(r"\]\(([\w./-]+)\)", page), *re.findall(r"`(algorithms/[\w.]+)`", page)}:
        where = ROOT / "bayes_mbrl" if path.startswith("algorithms/") else ROOT / "docs" / "ladder"
        assert (where / path).exists(), path


def test_the_four_steps_quote_the_code() -> None:
    code = (ROOT / "bayes_mbrl" / "rollout.py").read_text(encoding="utf-8")
    for quoted in (
        "theta = posterior.sample(num_theta, generator=generator)",
        "following = sample(t, living(states, alive) if apart else states, action)",
        "reward(living(states, alive), action, living(following, alive))",
    ):
        assert quoted in README
        assert quoted in code


POSTERIORS = (ROOT / "docs" / "posteriors.md").read_text(encoding="utf-8")


def test_the_page_of_posteriors_has_each_one_and_its_program_runs() -> None:
    assert [name for name in SECTIONS["posterior"].rows if f"`{name}`" not in POSTERIORS] == []
    links = re.findall(r"\]\(([\w./-]+)\)", POSTERIORS)
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    found = re.search(r"```python\n(.*?)```", POSTERIORS, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    assert names["y"].shape == (100, 50, 1)
    assert torch.isfinite(names["y"]).all()
