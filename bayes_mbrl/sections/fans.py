"""Imagined fans against reality: what an episode could have become from its first state on, and what became of it.

Axes: K parameter samples, H horizon, S state.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from bayes_mbrl.analysis.charts import IMAGINED, REAL, Band, Chart, Floats, Line, Mark, Slides
from bayes_mbrl.data import Transitions
from bayes_mbrl.loaded_run import Knowledge, without_unit
from bayes_mbrl.rollout import imagine

FAN_LENGTH = 50
NUM_THETA = 100
MAX_DIMENSIONS = 4
DIVERGED = 1e6
"""Times the largest number in the data: what goes beyond cannot be drawn."""
WIDEST = 2.0
"""How far a picture goes beyond what was real, in ranges of what was real."""


@dataclasses.dataclass(frozen=True)
class ImaginedFan:
    """One episode's beginning."""

    imagined: Floats
    """[K, h + 1, S], h <= H: as far as all trajectories can be drawn, since to leave some out would flatter."""
    real: Floats
    """[H + 1, S]"""
    num_diverged: int
    """Of the K trajectories, those that cannot be drawn to the end."""


def imagine_fan(knowledge: Knowledge, episode: Transitions, *, generator: torch.Generator) -> ImaginedFan:
    """Under the actions that were really taken, up to where rows of the episode are missing."""
    unbroken = (episode.next_state[:-1] == episode.state[1:]).all(1).long().cumprod(0).sum()
    length = min(FAN_LENGTH, 1 + int(unbroken))
    imagined = imagine(
        episode.action[:length], episode.state[0], posterior=knowledge.posterior, dynamics=knowledge.dynamics,
        num_theta=NUM_THETA, generator=generator,
    )[:, 0]  # fmt: skip
    real = torch.cat([episode.state[:1], episode.next_state[:length]])
    drawable = (imagined.abs() <= DIVERGED * real.abs().max().clamp(min=1)).all(-1)  # NaN is not <=
    num_drawn = max(1, int(drawable.all(0).long().cumprod(0).sum()))
    return ImaginedFan(
        imagined[:, :num_drawn].double().numpy(), real.double().numpy(), int((~drawable.all(1)).sum())
    )  # fmt: skip


def fan_slides(
    fans: Sequence[ImaginedFan], labels: Sequence[str], names: Sequence[str]
) -> tuple[list[Slides], list[str]]:
    """Slides over the episodes for each of the dimensions where the fans are widest, and what they do not show."""
    words = [
        f"Episode {label}: {fan.num_diverged} of {len(fan.imagined)} imagined trajectories diverged; the fan is drawn "
        f"up to step {fan.imagined.shape[1] - 1}, before the first of them did."
        for fan, label in zip(fans, labels, strict=True)
        if fan.num_diverged
    ]
    spread = np.concatenate([fan.real for fan in fans]).std(0)
    width = sum(fan.imagined.std(0).mean(0) / np.where(spread > 0, spread, 1) for fan in fans)
    num_dims = len(spread)
    widest = sorted(np.argsort(-np.asarray(width), kind="stable")[:MAX_DIMENSIONS].tolist())
    if num_dims > MAX_DIMENSIONS:
        words.append(
            f"Fans are shown in the {len(widest)} of {num_dims} dimensions of the state where they are widest."
        )
    return [_slides(fans, labels, i, names[i]) for i in widest], words


def _slides(fans: Sequence[ImaginedFan], labels: Sequence[str], i: int, name: str) -> Slides:
    quantiles = [np.quantile(fan.imagined[..., i], [0.05, 0.25, 0.5, 0.75, 0.95], axis=0) for fan in fans]
    y_range, cut = _range([fan.real[:, i] for fan in fans], quantiles)
    note = (
        f"From the first state of the episode, under the actions that were then taken, {NUM_THETA} trajectories of one "
        "θ each. The real one should be within the wider band nine times in ten."
    ) + (" What goes far beyond reality is cut off." if cut else "")
    charts = []
    for fan, label, q in zip(fans, labels, quantiles, strict=True):
        x = np.arange(len(fan.real), dtype=float)
        drawn = x[: q.shape[1]]
        marks: list[Mark] = [
            Band(drawn, q[0], q[4], "90 % imagined", IMAGINED, opacity=0.2),
            Band(drawn, q[1], q[3], "50 % imagined", IMAGINED, opacity=0.35),
            Line(drawn, q[2], "median imagined", IMAGINED),
            Line(x, fan.real[:, i], "real", REAL),
        ]
        title = f"{without_unit(name)} imagined and real, episode {label}"
        charts.append(Chart(title, "time step", name, marks, note, y_range=y_range))
    return Slides(f"{without_unit(name)} imagined and real", "episode", labels, charts)


def _range(real: list[Floats], quantiles: list[Floats]) -> tuple[tuple[float, float], bool]:
    """Limits of y for all slides, and whether they cut something off."""
    low, high = min(float(r.min()) for r in real), max(float(r.max()) for r in real)
    lowest, highest = min(float(q.min()) for q in quantiles), max(float(q.max()) for q in quantiles)
    reach = WIDEST * (high - low) if high > low else math.inf
    bottom, top = max(min(low, lowest), low - reach), min(max(high, highest), high + reach)
    margin = 0.05 * (top - bottom) or 0.5 * abs(top) or 0.5
    return (bottom - margin, top + margin), lowest < bottom or highest > top
