"""Where in the state space the model is ignorant, and where it expects noise: maps over two dimensions of the state.

What the two dimensions do not say of a state is taken from the nearest state that was really visited, so that a cell
that was visited shows the uncertainty there. Axes: N transitions, S state, G cells of a side.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy.spatial
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayes_mbrl.analysis.charts import BLACK, Chart, Floats, Heatmap, Mark, Points, Section, Slides
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.loaded_run import Knowledge, LoadedRun, without_unit
from bayes_mbrl.sections.one_step import NUM_THETA, UNIT, change_scale, predict_one_step

TITLE = "Where in the state space"
NUM_CELLS = 25
"""G"""
MARGIN = 0.25
"""How far the map goes beyond the visited states, in their range."""
MAX_SNAPSHOTS = 6
MAX_STATES = 2000
MAX_DOTS = 150
OCCUPANCY_CELLS = 15
"""Of a side, to count how much of a plane was visited."""
WHITE = "#FFFFFF"
"""With a black rim seen on dark and bright cells alike."""


@dataclasses.dataclass(frozen=True)
class _Grid:
    """States to be looked at, in two dimensions (i, j)."""

    i: int
    j: int
    x: Floats
    """[G] centres of the cells along dimension i."""
    y: Floats
    """[G] along dimension j."""
    states: Tensor
    """[G · G, S], y outside and x inside."""
    visited: NDArray[np.bool_]
    """[G, G] a state of a transition lies within the cell."""


def section(run: LoadedRun, dimensions: tuple[int, int] | None = None) -> Section:
    """Maps of both parts over `dimensions` (i, j) of the state, by default the two that were explored most evenly.

    Raises ValueError when `dimensions` are not two different ones of the state.
    """
    if run.final is None or run.transitions is None or not len(run.transitions):
        return Section(TITLE, missing=("There is no posterior or no data to draw a map of.",))
    num_dims = run.transitions.state.shape[1]
    if dimensions is not None and (len(set(dimensions)) != 2 or not all(0 <= d < num_dims for d in dimensions)):
        raise ValueError(
            f"need two different dimensions of a state of {num_dims}, 0 to {num_dims - 1}, got {dimensions}"
        )
    if num_dims < 2:
        return Section(TITLE, missing=("The state has one dimension, and a map needs two.",))
    seen = run.transitions[evenly_spaced(len(run.transitions), MAX_STATES)]
    i, j = dimensions or _most_explored(seen.state)
    choices = () if run.builder is None else run.builder.environment.choices
    grid, (action, action_words) = _grid(seen.state, i, j), _usual_action(run.transitions.action, choices)
    missing: list[str] = []
    maps = _maps(run, grid, action, missing)
    text = (_method(run, seen, grid, action_words, dimensions is None), _verdict(maps[-1][2], grid))
    limits = _limits([values for _, _, parts in maps for values in parts.values()])
    figures = [_slides(part, maps, limits, run, grid) for part in ("epistemic", "aleatoric")]
    return Section(TITLE, text, tuple(f for f in figures if f), (), tuple(missing))


def _most_explored(state: Tensor) -> tuple[int, int]:
    """The pair of dimensions whose plane the states [N, S] fill most, counted in cells.

    Two that are bound to each other, as the cosine and the sine of an angle are, leave most of their plane empty.
    """
    low, high = state.amin(0), state.amax(0)
    scaled = (state - low) / torch.where(high > low, high - low, 1)
    cells = (scaled * OCCUPANCY_CELLS).long().clamp(max=OCCUPANCY_CELLS - 1)
    pairs = itertools.combinations(range(state.shape[1]), 2)
    return max(pairs, key=lambda pair: len(torch.unique(cells[:, pair[0]] * OCCUPANCY_CELLS + cells[:, pair[1]])))


def _grid(state: Tensor, i: int, j: int) -> _Grid:
    """Cells over what was visited and `MARGIN` beyond; the other dimensions are those of the nearest state [N, S]."""
    axes, places = [], []
    for d in (i, j):
        low, high = float(state[:, d].min()), float(state[:, d].max())
        reach = MARGIN * (high - low) or 0.5 * abs(low) or 0.5
        edges = np.linspace(low - reach, high + reach, NUM_CELLS + 1)
        axes.append(0.5 * (edges[1:] + edges[:-1]))
        places.append(np.digitize(state[:, d].double().numpy(), edges[1:-1]))
    visited = np.zeros((NUM_CELLS, NUM_CELLS), dtype=bool)
    visited[places[1], places[0]] = True
    y, x = (side.ravel() for side in np.meshgrid(axes[1], axes[0], indexing="ij"))
    step = np.array([axis[1] - axis[0] for axis in axes])
    tree = scipy.spatial.cKDTree(state[:, [i, j]].double().numpy() / step)
    _, nearest = tree.query(np.stack([x, y], -1) / step)
    states = state[torch.from_numpy(nearest)].clone()
    states[:, i], states[:, j] = (torch.from_numpy(values).to(states) for values in (x, y))
    return _Grid(i, j, axes[0], axes[1], states, visited)


def _usual_action(actions: Tensor, choices: Sequence[int]) -> tuple[Tensor, str]:
    """(action [A], its name): the median of actions [N, A], or of choices the combination taken most often."""
    if not choices:
        action = actions.median(0).values
        return action, f"the median action ({', '.join(f'{value:.3g}' for value in action.tolist())})"
    rows, counts = torch.unique(actions, dim=0, return_counts=True)
    action = rows[int(np.argmax(counts.numpy()))]
    chosen = [str(int(block.argmax())) for block in torch.split(action, list(choices))]
    word = "action" if len(chosen) == 1 else "actions"
    return action, f"{word} {' and '.join(chosen)} (taken most often; counted from 0)"


def _maps(
    run: LoadedRun, grid: _Grid, action: Tensor, missing: list[str]
) -> list[tuple[str, Knowledge, dict[str, Floats]]]:
    """(label, knowledge, standard deviations [G, G] by part) after kept episodes, evenly thinned, and at the end."""
    assert run.transitions is not None
    assert run.final is not None
    scale = change_scale(run.transitions)
    *earlier, last = [number for number in run.snapshots if number in run.episodes] or run.episodes[-1:]
    known = [(str(earlier[i]), run.knowledge_after(earlier[i])) for i in _some(len(earlier))]
    maps = []
    for label, knowledge in [*known, (str(last), run.final)]:
        if knowledge is None:
            missing.append(f"The posterior after episode {label} cannot be read: it has no map.")
            continue
        generator = run.generator(f"map, {label}")
        one = predict_one_step(knowledge, grid.states, action.expand(len(grid.states), -1), scale, generator=generator)
        parts = {
            part: getattr(one, part).sqrt().view(NUM_CELLS, NUM_CELLS).numpy() for part in ("epistemic", "aleatoric")
        }
        if bad := int((~np.isfinite(parts["epistemic"] + parts["aleatoric"])).sum()):
            missing.append(
                f"After episode {label}, {bad} of {NUM_CELLS**2} cells have no finite prediction: left empty."
            )
        maps.append((label, knowledge, parts))
    return maps


def _some(count: int) -> list[int]:
    return evenly_spaced(count, MAX_SNAPSHOTS - 1).tolist()


def _method(run: LoadedRun, seen: Transitions, grid: _Grid, action: str, chosen: bool) -> str:
    assert run.transitions is not None
    num_dims, num_all = run.transitions.state.shape[1], len(run.transitions)
    which = " (of all pairs, that whose plane was explored most)" if chosen and num_dims > 2 else ""
    others = (
        " The rest of the state is that of the nearest visited state, so away from the dots a cell shows one of many "
        "states that it may stand for." if num_dims > 2 else ""
    )  # fmt: skip
    thinning = f" Nearest among {len(seen)} of {num_all} states, evenly spaced." if len(seen) < num_all else ""
    over = " and ".join(without_unit(run.state_names[i]) for i in (grid.i, grid.j))
    return (
        f"One-step uncertainty over {over}{which}, {MARGIN:.0%} beyond what was visited, under "
        f"{action}, with {NUM_THETA} samples of θ; in {UNIT}.{others}{thinning}"
    )


def _verdict(parts: dict[str, Floats], grid: _Grid) -> str:
    """Whether ignorance rises off the data, at the end of the run."""
    epistemic = parts["epistemic"]
    finite = np.isfinite(epistemic)
    at_home, abroad = epistemic[finite & grid.visited], epistemic[finite & ~grid.visited]
    if not at_home.size or not abroad.size or not max(at_home.max(), abroad.max()) > 0:
        return "There is no epistemic part to compare on and off the data."
    home, away = float(np.median(at_home)), float(np.median(abroad))
    if not home:
        return (
            f"At the end, the epistemic part is 0 in most visited cells and {away:.2g} {UNIT} in the others (medians): "
            "with nothing to compare it with on the data, that is no sign of knowing where it does not know."
        )
    ratio = away / home
    judgement = (
        "it knows where it does not know" if ratio > 2 else "it rises off the data, if only a little" if ratio > 1.2
        else "it does not rise off the data: do not trust this model where it has not been"
    )  # fmt: skip
    return (
        f"At the end, the epistemic part is {home:.2g} {UNIT} in visited cells and {away:.2g} in the others (medians; "
        f"{ratio:.2g} times as much): {judgement}."
    )


def _slides(
    part: str,
    maps: list[tuple[str, Knowledge, dict[str, Floats]]],
    limits: tuple[float, float] | None,
    run: LoadedRun,
    grid: _Grid,
) -> Slides | None:
    """The maps of one part; None where it is 0 everywhere."""
    assert run.transitions is not None
    logs = [_log10(parts[part]) for _, _, parts in maps]
    if not any(np.isfinite(values).any() for values in logs):
        return None
    both = any((parts["epistemic"] > 0).any() for _, _, parts in maps)
    together = " Both parts have one scale of colours." if both else ""
    charts, labels = [], []
    for (label, knowledge, _), values in zip(maps, logs, strict=True):
        dots = run.transitions.state[: knowledge.num_fitted].double().numpy()
        dots = dots[evenly_spaced(len(dots), MAX_DOTS).numpy()]
        marks: list[Mark] = [
            Heatmap(grid.x, grid.y, values, f"log10 {part} ({UNIT})", limits),
            Points(dots[:, grid.i], dots[:, grid.j], "visited", BLACK, size=4.5, opacity=1.0),
            Points(dots[:, grid.i], dots[:, grid.j], "", WHITE, size=2.5, opacity=1.0),
        ]
        note = (
            f"Dots: states that this posterior learned from, at most {MAX_DOTS}. −1 is a tenth of how much the state "
            f"usually changes in a step.{together}"
        )
        title = f"Map of the {part} part, after episode {label}"
        charts.append(Chart(title, run.state_names[grid.i], run.state_names[grid.j], marks, note))
        labels.append(label)
    return Slides(f"Map of the {part} part", "after episode", labels, charts)


def _limits(deviations: list[Floats]) -> tuple[float, float] | None:
    """One scale of colours for both parts and all episodes, so that all maps can be compared."""
    finite = np.concatenate([logs[np.isfinite(logs)] for logs in map(_log10, deviations)])
    return (float(finite.min()), max(float(finite.max()), float(finite.min()) + 0.1)) if finite.size else None


def _log10(values: Floats) -> Floats:
    """NaN where there is nothing."""
    return np.log10(values, out=np.full_like(values, math.nan), where=np.isfinite(values) & (values > 0))
