"""A study whose answer is known."""

import pathlib
from typing import Any

import numpy as np

from bayes_mbrl.analysis.charts import Chart, Line
from bayes_mbrl.study import Contrast, Results, Study, per_seed

FAILING: set[tuple[str, int]] = set()
"""(arm, seed) of the measurements that fail."""


def measure(folder: pathlib.Path, *, size: float, arm: str, seed: int, quick: bool) -> dict[str, Any]:
    """size · (seed − 1000), 0.1 of it for the small one."""
    if (arm, seed) in FAILING:
        raise RuntimeError("no luck")
    with (folder / "measured").open("a") as file:
        file.write("x")
    return {"y": size + (seed - 1000 if size > 0 else 0)}


def num_measured(root: pathlib.Path) -> int:
    """How often something was measured for good in a sweep's folder."""
    return sum(len(path.read_text()) for path in root.glob("tasks/*/work/measured"))


def _contrasts(results: Results) -> list[Contrast]:
    values = [a - b for a, b in zip(per_seed(results, "large", "y"), per_seed(results, "small", "y"), strict=True)]
    return [Contrast("large minus small", values)]


STUDY = Study(
    claim="A toy is large.",
    measure="toy_studies:measure",
    arms={"large": {"size": 10.0, "arm": "large"}, "small": {"size": 0.0, "arm": "small"}},
    contrasts=_contrasts,
    figure=lambda results: Chart("A toy", "x", "y", [Line(np.arange(2.0), np.arange(2.0), "toy")], "It is large."),
    minutes=(0.1, 0.2),
)
