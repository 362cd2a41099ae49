"""Which of several models predicts better what it has not seen: differences of elpd with their errors, and K folds.

Source: Vehtari, Gelman & Gabry (2017), section 5.2. elpd: expected log predictive density, log p(y_i | data without
y_i) in nats, by refits (K-fold) or by `predictive_fit.leave_one_out`. Axes: N data.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_mbrl.analysis.charts import CYCLE, Chart, Line, Mark, Points, Rule, Table
from bayes_mbrl.analysis.predictive_fit import Floats, finite, sum_error

_NEAR = 4.0
"""Nats: models that differ by less predict alike. Source: Sivula, Magnusson, Matamoros & Vehtari (2020)."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Models on the same data, the best first."""

    names: tuple[str, ...]
    elpd: Floats
    """[models], sums over data in nats."""
    difference: Floats
    """[models], of the best less this one: 0 for the best."""
    error: Floats
    """[models], standard error of the difference, by pairs of the same data; NaN of a single group."""
    num_data: int
    num_groups: int
    """Groups of data taken as independent: data that resemble each other are in one."""


def compare_models(elpd: Mapping[str, ArrayLike], groups: ArrayLike | None = None) -> Comparison:
    """Compare elpd [N] of each model by name, of the same N data in the same order.

    groups [N], by default each datum its own: rows of one episode resemble each other, so the error of the difference
    is that of a sum over episodes. Raises ValueError where lengths differ or a number is not finite.
    """
    values = {name: finite(f"elpd of {name}", np.asarray(one)) for name, one in elpd.items()}
    lengths = {name: len(one) if one.ndim == 1 else -1 for name, one in values.items()}
    if not values or len(set(lengths.values())) > 1 or min(lengths.values()) < 1:
        raise ValueError(f"need elpd [N] of the same data for every model, at least one, got {lengths}")
    num_data = next(iter(lengths.values()))
    labels = np.arange(num_data) if groups is None else np.asarray(groups)
    if labels.shape != (num_data,):
        raise ValueError(f"need groups [{num_data}], got {list(labels.shape)}")
    index = np.unique(labels, return_inverse=True)[1].reshape(-1)
    num_groups = int(index.max()) + 1
    order = sorted(values, key=lambda name: -values[name].sum())
    best = values[order[0]]
    sums: dict[str, Floats] = {name: np.bincount(index, best - values[name]).astype(np.float64) for name in order}
    return Comparison(
        tuple(order),
        np.array([values[name].sum() for name in order]),
        np.array([sums[name].sum() for name in order]),
        np.array([sum_error(sums[name]) for name in order]),
        num_data,
        num_groups,
    )


def comparison_verdicts(comparison: Comparison) -> list[str]:
    """For each model but the best, whether it can be told from it."""
    words = []
    for difference, error in zip(comparison.difference[1:], comparison.error[1:], strict=True):
        if math.isnan(error):
            words.append("one group of data: no error of the difference")
        elif difference < _NEAR:
            words.append("predicts alike")
        elif difference > 2 * error:
            words.append("predicts worse")
        else:
            words.append("cannot be told apart")
    return words


def comparison_table(comparison: Comparison, title: str = "Models compared") -> Table:
    """A row a model, per datum and in all."""
    rows = [
        (
            name,
            f"{elpd:.1f}",
            f"{elpd / comparison.num_data:.3f}",
            f"{-difference:.1f} ± {error:.1f}" if number else "–",
            verdict,
        )
        for number, (name, elpd, difference, error, verdict) in enumerate(
            zip(
                comparison.names,
                comparison.elpd,
                comparison.difference,
                comparison.error,
                ["best", *comparison_verdicts(comparison)],
                strict=True,
            )
        )
    ]
    return Table(("model", "elpd (nats)", "per datum", "less than the best by", "verdict"), rows, title)


def comparison_chart(comparison: Comparison) -> Chart:
    """Differences to the best model with two standard errors."""
    marks: list[Mark] = [Rule(0.0, vertical=True)]
    for number, name in enumerate(comparison.names):
        color, place = CYCLE[number % len(CYCLE)], np.array([-float(number)])
        centre, error = -float(comparison.difference[number]), float(comparison.error[number])
        if math.isfinite(error) and error > 0:
            ends = np.array([centre - 2 * error, centre + 2 * error])
            marks.append(Line(ends, place.repeat(2), color=color))
        marks.append(Points(np.array([centre]), place, label=name, color=color, size=9))
    return Chart(
        "Models compared",
        "elpd less that of the best (nats)",
        "the best on top",
        marks,
        note="Further left predicts worse what it has not seen; lines are two standard errors of the difference.",
        y_range=(0.5 - len(comparison.names), 0.5),
    )


def contiguous_folds(num_data: int, num_folds: int, groups: ArrayLike | None = None) -> list[NDArray[np.int64]]:
    """Rows held out in each fold: contiguous blocks, and whole groups where there are as many groups as folds.

    Rows of one episode resemble each other: held out one by one they would be predicted by their neighbours.
    Raises ValueError unless 2 <= num_folds <= num_data.
    """
    if not 2 <= num_folds <= num_data:
        raise ValueError(f"need 2 <= folds <= {num_data}, the number of data, got {num_folds}")
    labels = np.zeros(num_data, dtype=np.int64) if groups is None else np.asarray(groups)
    changes = np.flatnonzero(np.diff(labels)) + 1
    blocks: Sequence[NDArray[np.int64]] = np.split(np.arange(num_data), changes)
    if len(blocks) < num_folds:
        return list(np.array_split(np.arange(num_data), num_folds))
    # Blocks in their order, cut where the share of the data is next reached, each fold at least one block.
    sizes = np.cumsum([len(block) for block in blocks])
    ends, first = [], 0
    for fold in range(1, num_folds):
        last = len(blocks) - (num_folds - fold)
        cut = first + 1 + int(np.argmin(np.abs(sizes[first:last] - num_data * fold / num_folds)))
        ends.append(cut)
        first = cut
    return [np.concatenate(blocks[a:b]) for a, b in zip([0, *ends], [*ends, len(blocks)], strict=True)]
