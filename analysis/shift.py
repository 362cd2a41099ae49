"""Do two samples come from one distribution? Energy distance and maximum mean discrepancy, by permutation tests.

Here: the states of the base policy against those of the learned one, p_{π_0}(s) ≠ p_{π_f}(s).
Sources: Székely & Rizzo, Energy statistics (2013), eq. 5; Gretton et al., A Kernel Two-Sample Test (2012), eq. 3 and
section 8 (median heuristic); that both are one statistic with different kernels: Sejdinovic et al. (2013), eq. 4.2.
Where we differ: both are U-statistics (a row is never paired with itself), so they do not depend on the number of rows
in expectation: 0 for equal distributions, and by chance a little below it.
Axes: N rows, D dimensions, P relabellings, G groups. Arrays in: NumPy's or torch's; out: numbers and tensors, of which
no gradients are kept.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayes_mbrl.analysis.arrays import as_floats, as_tensor
from bayes_mbrl.analysis.charts import BLUE, VERMILLION, Bars, Chart, Rule

Distance = Literal["energy", "mmd"]
MAX_ROWS = 1000
"""Of each sample; the matrix of all distances then takes 32 MB."""
_TIE = 1e-9
"""Relative difference below which two statistics are equal but for rounding."""
_CHUNK = 1000
"""Relabellings at a time."""


@dataclass(frozen=True)
class ShiftTest:
    """A distance between two samples, and how often relabelled samples are as far apart."""

    distance: Distance
    statistic: float
    """2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ ("energy"), or E k(X, X') + E k(Y, Y') − 2 E k(X, Y) ("mmd", squared)."""
    p_value: float
    """(1 + #{relabellings at least as far apart}) / (1 + P)."""
    smallest_p: float
    """What `p_value` could have been at least, with as many groups and relabellings."""
    null: Tensor
    """[P] the statistic of the relabelled samples."""
    num_rows: tuple[int, int]
    """Rows of x and y that were compared, after thinning."""
    num_groups: tuple[int, int]
    """What was relabelled: rows, or groups of them."""
    exhaustive: bool
    """Whether `null` has every other relabelling there is, instead of a random choice."""
    bandwidth: float | None
    """σ of the Gaussian kernel; None for the energy distance."""

    @property
    def caution(self) -> str:
        """Why no small p-value could come out, as a sentence; "" where one could."""
        if self.smallest_p <= 0.05:
            return ""
        return (
            f"With {self.num_groups[0]} and {self.num_groups[1]} groups only {len(self.null) + 1} relabellings exist, "
            f"so no p-value below {self.smallest_p:.2g} can come out: more episodes are needed for a verdict."
        )


def energy_distance(x: ArrayLike, y: ArrayLike, *, standardise: bool = True, unbiased: bool = True) -> float:
    """2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ of x [N, D] and y [N', D]: 0 for equal distributions only.

    With `standardise` every dimension is first divided by its std over both samples together. `unbiased` leaves out
    the pairs of a row with itself (U-statistic); with them (V-statistic) it is never negative. In one dimension the
    V-statistic is the square of what `scipy.stats.energy_distance` gives.
    All rows are used: O((N + N')²) memory. Raises ValueError as `shift_test`.
    """
    return _distance_between(x, y, "energy", None, standardise, unbiased)


def squared_mmd(
    x: ArrayLike, y: ArrayLike, *, bandwidth: float | None = None, standardise: bool = True, unbiased: bool = True
) -> float:
    """E k(X, X') + E k(Y, Y') − 2 E k(X, Y), k(u, v) = exp(−‖u − v‖² / (2 bandwidth²)): within [0, 2] but for chance.

    bandwidth None: the median of the distances between all rows of both samples (of those above 0). The rest is as in
    `energy_distance`.
    """
    return _distance_between(x, y, "mmd", bandwidth, standardise, unbiased)


def shift_test(
    x: ArrayLike,
    y: ArrayLike,
    *,
    distance: Distance = "energy",
    groups_x: ArrayLike | None = None,
    groups_y: ArrayLike | None = None,
    num_permutations: int = 999,
    bandwidth: float | None = None,
    standardise: bool = True,
    max_rows: int = MAX_ROWS,
    generator: torch.Generator,
) -> ShiftTest:
    """Permutation test of "x [N, D] and y [N', D] come from one distribution", exact for any number of rows.

    Rows of one episode resemble each other, so exchanging single rows would find a difference where there is none.
    groups_x [N] and groups_y [N'] (episode numbers; a number in one has nothing to do with the same in the other) are
    exchanged whole instead, which asks whether the episodes come from one distribution of episodes. Each group then
    counts alike, however long, and rows are compared with those of other groups only (of a sample that is one group:
    with each other). Few groups allow few relabellings: all of them are tried if there are no more than
    `num_permutations`, and `smallest_p` says what could come out at all.
    A sample of more than `max_rows` rows is thinned to a random choice of them. Dimensions are standardised over both
    samples together, a dimension that never varies counts as 0; neither this nor the bandwidth depends on labels.
    Raises ValueError for shapes that do not match, NaN or infinity, or fewer than 2 rows in a sample.
    """
    if num_permutations < 1 or max_rows < 2:
        raise ValueError(f"need num_permutations >= 1 and max_rows >= 2, got {num_permutations} and {max_rows}")
    x, y = as_floats(x), as_floats(y)
    _check(x, y)
    if (groups_x is None) != (groups_y is None):
        raise ValueError("need groups of both samples or of none, got those of one")
    samples, labels = [], []
    for name, values, of_rows in (("groups_x", x, groups_x), ("groups_y", y, groups_y)):
        groups = None if of_rows is None else as_tensor(of_rows)
        if groups is not None and groups.shape != (len(values),):
            raise ValueError(f"need {name} [{len(values)}], one for each row, got shape {[*groups.shape]}")
        kept = torch.randperm(len(values), generator=generator)[:max_rows].sort().values
        samples.append(values[kept])
        labels.append(kept if groups is None else groups[kept])
    kernel, used_bandwidth = _kernel(samples[0], samples[1], distance, bandwidth, standardise)
    between, within, num_groups = _by_group(kernel, labels)
    exhaustive = math.comb(sum(num_groups), num_groups[0]) - 1 <= num_permutations
    relabellings = _all_relabellings(*num_groups) if exhaustive else _random(*num_groups, num_permutations, generator)
    statistics = torch.cat([_statistics(between, within, is_x, num_groups) for is_x in relabellings])
    statistic, null = float(statistics[0]), statistics[1:]
    as_far = int((null >= statistic - _TIE * max(1.0, abs(statistic))).sum())
    # Exchanging x with y as a whole changes nothing, so with as many groups in both each relabelling has a twin.
    twins = 2 if num_groups[0] == num_groups[1] else 1
    smallest = max(1 / (1 + len(null)), twins / math.comb(sum(num_groups), num_groups[0]))
    p_value = (1 + as_far) / (1 + len(null))
    return ShiftTest(
        distance, statistic, p_value, smallest, null, (len(samples[0]), len(samples[1])), num_groups, exhaustive,
        used_bandwidth,
    )  # fmt: skip


def marginal_chart(
    x: ArrayLike, y: ArrayLike, *, name: str, labels: tuple[str, str], title: str = "", num_bins: int = 30
) -> Chart:
    """Histograms of one dimension, called `name` with its unit, of two samples x [N] and y [N'], as densities."""
    x, y = as_floats(x).detach().double(), as_floats(y).detach().double()
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"need x [N] and y [N'] of one dimension, got shapes {[*x.shape]} and {[*y.shape]}")
    _check(x[:, None], y[:, None])
    both = torch.cat([x, y])
    low, high = float(both.min()), float(both.max())
    margin = 0.5 * max(abs(high), 1.0) if high - low <= 1e-9 * max(abs(low), abs(high)) else 0.0  # a constant
    edges = torch.linspace(low - margin, high + margin, num_bins + 1, dtype=torch.float64)
    marks = []
    for values, label, color in ((x, labels[0], VERMILLION), (y, labels[1], BLUE)):
        bins = torch.bucketize(values, edges[1:-1], right=True)
        share = torch.bincount(bins, minlength=num_bins) / len(values)
        marks.append(Bars(edges.numpy(), (share / edges.diff()).numpy(), label, color, opacity=0.5))
    note = "How often each value was visited, each histogram with area 1; where they do not overlap, one has no data."
    return Chart(title or name, name, "density", marks, note)


def null_chart(test: ShiftTest, *, num_bins: int = 30) -> Chart:
    """The statistic of the relabelled samples as a histogram, and the one that was found."""
    names = {"energy": "energy distance", "mmd": "squared MMD"}
    null = test.null[torch.isfinite(test.null)].double()
    bins = max(1, min(num_bins, len(null)))
    low, high = (float(null.min()), float(null.max())) if len(null) else (0.0, 1.0)
    high = high if high > low else low + max(abs(low), 1e-6)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    counts = torch.bincount(torch.bucketize(null, edges[1:-1], right=True), minlength=bins)
    return Chart(
        f"Chance alone: {names[test.distance]}",
        f"{names[test.distance]} (standardised states)",
        "relabellings",
        [
            Bars(edges.numpy(), counts.double().numpy(), "labels exchanged"),
            Rule(test.statistic, vertical=True, label="found", color=VERMILLION, dashed=False),
        ],
        f"If both came from one distribution, the line would lie among the bars; here p = {test.p_value:.2g}.",
    )


def _distance_between(
    x: ArrayLike, y: ArrayLike, distance: Distance, bandwidth: float | None, standardise: bool, unbiased: bool
) -> float:
    x, y = as_floats(x), as_floats(y)
    _check(x, y)
    kernel, _ = _kernel(x, y, distance, bandwidth, standardise, diagonal=not unbiased)
    num_x, num_y, less = len(x), len(y), 1 if unbiased else 0
    of_x = kernel[:num_x, :num_x].sum() / (num_x * (num_x - less))
    of_y = kernel[num_x:, num_x:].sum() / (num_y * (num_y - less))
    return float(of_x + of_y - 2 * kernel[:num_x, num_x:].mean())


def _check(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise ValueError(f"need x [N, D] and y [N', D] with D >= 1, got shapes {[*x.shape]} and {[*y.shape]}")
    for name, values in (("x", x), ("y", y)):
        if len(values) < 2:
            raise ValueError(f"need at least 2 rows in {name}, got {len(values)}")
        bad = ~torch.isfinite(values).all(dim=1)
        if bool(bad.any()):
            raise ValueError(
                f"{name} is NaN or infinite in {int(bad.sum())} of {len(bad)} rows, first in row "
                f"{int(bad.int().argmax())}: leave them out, and say how many"
            )


def _kernel(
    x: Tensor, y: Tensor, distance: Distance, bandwidth: float | None, standardise: bool, diagonal: bool = False
) -> tuple[Tensor, float | None]:
    """(k(u, v) of all rows of x and y together [N + N', N + N'], the bandwidth); k = −‖u − v‖ for the energy distance.

    Without `diagonal` it is 0 there.
    """
    if distance not in ("energy", "mmd"):
        raise ValueError(f"distance is one of energy, mmd, got {distance!r}")
    if bandwidth is not None and not 0 < bandwidth < math.inf:
        raise ValueError(f"need a finite bandwidth > 0, got {bandwidth}")
    rows = torch.cat([x.detach().double(), y.detach().double()])
    if standardise:
        size = rows.abs().amax(0)
        rows = rows / torch.where(size > 0, size, 1.0)  # first, so that the square of a huge number is finite
        rows = rows - rows.mean(0)
        std = rows.std(0, correction=0)
        rows = torch.where(std > 1e-12, rows / std, 0.0)
    # The fast way by scalar products loses the digits of small distances.
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    if distance == "energy":
        return distances.neg_(), None
    if bandwidth is None:
        above = distances[torch.triu(distances, diagonal=1) > 0]
        bandwidth = float(above.median()) if len(above) else 1.0
    kernel = distances.div_(bandwidth).square_().mul_(-0.5).exp_()
    return kernel if diagonal else kernel.fill_diagonal_(0.0), bandwidth


def _by_group(kernel: Tensor, labels: list[Tensor]) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Mean kernel of the pairs of rows of two groups [G, G], 0 on the diagonal, and of those within one group [G].

    Also the number of groups of x and of y. A group of one row has no pairs within: NaN.
    """
    index_x, index_y = (torch.unique(label, return_inverse=True)[1] for label in labels)
    num_x, num_y = int(index_x.max()) + 1, int(index_y.max()) + 1
    index = torch.cat([index_x, index_y + num_x])
    sums = kernel.new_zeros(num_x + num_y, len(index)).index_add_(0, index, kernel)
    sums = kernel.new_zeros(num_x + num_y, num_x + num_y).index_add_(1, index, sums)
    sizes = torch.bincount(index).to(kernel)
    within = sums.diagonal() / (sizes * (sizes - 1))
    return (sums / sizes / sizes[:, None]).fill_diagonal_(0.0), within, (num_x, num_y)


def _all_relabellings(num_x: int, num_y: int) -> Iterator[Tensor]:
    """Which groups are called x, as 0 and 1, in chunks of [P, G]: first those that are, then every other choice."""
    choices = itertools.combinations(range(num_x + num_y), num_x)  # begins with 0, 1, ..., num_x - 1
    while some := list(itertools.islice(choices, _CHUNK)):
        yield _as_mask(torch.tensor(some), num_x + num_y)


def _random(num_x: int, num_y: int, number: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Likewise, first those that are, then as many random choices as `number` says."""
    yield _as_mask(torch.arange(num_x)[None], num_x + num_y)
    for start in range(0, number, _CHUNK):
        shape = min(_CHUNK, number - start), num_x + num_y
        order = torch.rand(shape, dtype=torch.float64, generator=generator).argsort(1)
        yield _as_mask(order[:, :num_x], num_x + num_y)


def _as_mask(chosen: Tensor, num_groups: int) -> Tensor:
    return torch.zeros(len(chosen), num_groups, dtype=torch.float64).scatter_(1, chosen, 1.0)


def _statistics(between: Tensor, within: Tensor, is_x: Tensor, num_groups: tuple[int, int]) -> Tensor:
    """E k(X, X') + E k(Y, Y') − 2 E k(X, Y) for each relabelling is_x [P, G] of groups: [P]."""
    statistic = -2 * ((is_x @ between) * (1 - is_x)).sum(1) / (num_groups[0] * num_groups[1])
    for chosen, number in ((is_x, num_groups[0]), (1 - is_x, num_groups[1])):
        if number > 1:
            statistic += ((chosen @ between) * chosen).sum(1) / (number * (number - 1))
        else:
            statistic += within[chosen.argmax(1)]
    # A group of one row alone on a side has no pairs: such a relabelling counts as far apart, against a verdict.
    return statistic.nan_to_num(nan=math.inf, posinf=math.inf)
