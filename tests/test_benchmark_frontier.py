"""benchmarks/frontier.py: what it makes of the lines that it measured."""

import importlib.util
import math
import pathlib
import sys
from types import ModuleType
from typing import Any

import pytest

PATH = pathlib.Path(__file__).parents[1] / "benchmarks" / "frontier.py"


@pytest.fixture(scope="module")
def frontier() -> ModuleType:
    spec = importlib.util.spec_from_file_location("frontier", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["frontier"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def line(budget: str, seed: int, start: int, total: float, milliseconds: float) -> dict[str, Any]:
    seconds = milliseconds / 1e3 * 200
    return {
        "env": "toy", "seed": seed, "start": start, "budget": budget,
        "return": total, "cpu_seconds": seconds, "steps": 200,
    }  # fmt: skip


def test_differences_are_of_equal_starts_and_errors_over_seeds(frontier: ModuleType) -> None:
    """A start that the reference lacks does not count; seeds count alike, however many starts they have."""
    cheap, reference = frontier.BUDGETS[0], frontier.REFERENCE
    lines = [line(reference.name, 0, 0, -10.0, 40), line(reference.name, 0, 1, -20.0, 40)]
    lines += [line(reference.name, 1, 0, -30.0, 50)]
    lines += [line(cheap.name, 0, 0, -13.0, 10), line(cheap.name, 0, 1, -21.0, 12), line(cheap.name, 1, 0, -26.0, 30)]
    lines += [line(cheap.name, 2, 0, -999.0, 10)]
    point, largest = frontier.summarise(lines, "toy")
    assert (point.budget, largest.budget) == (cheap, reference)
    assert point.difference == pytest.approx((-2 + 4) / 2)
    assert point.standard_error == pytest.approx(6 / math.sqrt(2) / math.sqrt(2))
    assert point.milliseconds == pytest.approx(12)
    assert point.mean_return == pytest.approx(-20)
    assert (largest.difference, largest.standard_error) == (0, 0)
    rows = frontier.table([largest, point], "toy").splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [cheap.name, reference.name]
    assert "12.0 | -20.0 | 1.0 ± 3.0 | *" in rows[0]
    assert not rows[1].rstrip("| ").endswith("*")  # as good, and it costs more


def test_budgets_have_names_and_overrides_of_their_own(frontier: ModuleType) -> None:
    assert len({budget.name for budget in frontier.BUDGETS}) == len(frontier.BUDGETS)
    assert frontier.default_budget("Pendulum-v1") in frontier.BUDGETS
