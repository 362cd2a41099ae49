"""Closed forms for Gaussians, scipy as oracle in one dimension, and p-values that are uniform where nothing shifted."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bayes_mbrl.analysis.charts import Bars, Rule
from bayes_mbrl.analysis.shift import energy_distance, marginal_chart, null_chart, shift_test, squared_mmd


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def assert_mean_within_5_standard_errors(estimates: list[float], truth: float) -> None:
    values = torch.tensor(estimates, dtype=torch.float64)
    assert abs(float(values.mean()) - truth) < 5 * float(values.std()) / math.sqrt(len(values))


def mean_absolute(mean: float, variance: float) -> float:
    """E|Z| of Z ~ N(mean, variance)."""
    return math.sqrt(2 * variance / math.pi) * math.exp(-(mean**2) / (2 * variance)) + mean * math.erf(
        mean / math.sqrt(2 * variance)
    )


def test_energy_distance_of_two_gaussians(generator: torch.Generator) -> None:
    shift, std_x, std_y = 0.8, 1.0, 0.4
    truth = (
        2 * mean_absolute(shift, std_x**2 + std_y**2) - mean_absolute(0, 2 * std_x**2) - mean_absolute(0, 2 * std_y**2)
    )
    estimates = [
        energy_distance(
            std_x * normal(12, 1, generator=generator),
            shift + std_y * normal(7, 1, generator=generator),
            standardise=False,
        )
        for _ in range(600)
    ]  # few rows: with pairs of a row with itself, the mean would be off by 40 %
    assert_mean_within_5_standard_errors(estimates, truth)


def test_mmd_of_two_gaussians(generator: torch.Generator) -> None:
    shift, std_x, std_y, bandwidth, dim = torch.tensor([0.7, -0.2, 0.0]), 1.0, 1.6, 1.3, 3

    def mean_kernel(squared_shift: float, variance: float) -> float:
        total = bandwidth**2 + variance
        return (bandwidth**2 / total) ** (dim / 2) * math.exp(-squared_shift / (2 * total))

    truth = mean_kernel(0, 2 * std_x**2) + mean_kernel(0, 2 * std_y**2)
    truth -= 2 * mean_kernel(float(shift.square().sum()), std_x**2 + std_y**2)
    estimates = [
        squared_mmd(
            std_x * normal(9, dim, generator=generator),
            shift + std_y * normal(14, dim, generator=generator),
            bandwidth=bandwidth,
            standardise=False,
        )
        for _ in range(600)
    ]
    assert_mean_within_5_standard_errors(estimates, truth)


def test_energy_distance_against_scipy(generator: torch.Generator) -> None:
    x, y = normal(31, 1, generator=generator), 2 * normal(17, 1, generator=generator) ** 3
    expected = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert energy_distance(x, y, standardise=False, unbiased=False) == pytest.approx(expected, rel=1e-10)
    pooled = torch.cat([x, y]).std(correction=0)
    assert energy_distance(x, y, unbiased=False) == pytest.approx(expected / float(pooled), rel=1e-10)


def test_the_median_heuristic(generator: torch.Generator) -> None:
    x, y = normal(6, 2, generator=generator), 1 + normal(5, 2, generator=generator)
    distances = [float((a - b).norm()) for a, b in itertools.combinations(torch.cat([x, y]), 2)]
    expected = float(np.median(distances))
    test = shift_test(x, y, distance="mmd", standardise=False, generator=generator)
    assert test.bandwidth == pytest.approx(expected)
    assert squared_mmd(x, y, standardise=False) == pytest.approx(
        squared_mmd(x, y, bandwidth=expected, standardise=False)
    )
    assert test.statistic == pytest.approx(squared_mmd(x, y, standardise=False), abs=1e-12)


@pytest.mark.parametrize("distance", ["energy", "mmd"])
def test_units_offsets_and_constants_do_not_matter(distance: str, generator: torch.Generator) -> None:
    measure = {"energy": energy_distance, "mmd": squared_mmd}[distance]
    x, y = normal(20, 2, generator=generator), 0.5 + normal(15, 2, generator=generator)
    scale, offset = torch.tensor([1e-3, 1e200], dtype=torch.float64), torch.tensor([5.0, 0.0], dtype=torch.float64)
    expected = measure(x, y)  # type: ignore[operator]
    assert measure(x * scale + offset, y * scale + offset) == pytest.approx(expected, rel=1e-6)  # type: ignore[operator]
    constant = torch.cat([x, torch.full((20, 1), 7.0)], 1), torch.cat([y, torch.full((15, 1), 7.0)], 1)
    assert measure(*constant) == pytest.approx(expected, rel=1e-10)  # type: ignore[operator]
    assert measure(x.flip(1).mT.contiguous().mT, y.flip(1)) == pytest.approx(expected)  # type: ignore[operator]
    single = torch.ones(3, 1)
    assert measure(single, single) == 0.0  # type: ignore[operator]
    apart = {"energy": 4.0, "mmd": 2 - 2 * math.exp(-0.5)}[distance]  # two points, 2 pooled stds from each other
    assert measure(single, 2 * single) == pytest.approx(apart)  # type: ignore[operator]


@pytest.mark.parametrize("distance", ["energy", "mmd"])
def test_p_values_are_uniform_where_nothing_shifted(distance: str, generator: torch.Generator) -> None:
    p_values = [
        shift_test(
            normal(11, 2, generator=generator), normal(17, 2, generator=generator), distance=distance,
            num_permutations=99, generator=generator,
        ).p_value
        for _ in range(500)
    ]  # fmt: skip
    assert_mean_within_5_standard_errors(p_values, 0.505)
    for level in (0.05, 0.3, 0.8):
        share = float(np.mean(np.array(p_values) <= level + 1e-9))
        assert abs(share - level) < 5 * math.sqrt(level * (1 - level) / len(p_values))


def test_a_shift_is_found_however_it_looks(generator: torch.Generator) -> None:
    x = normal(300, 3, generator=generator)
    turned = normal(300, 3, generator=generator)
    turned[:, 1] = 0.9 * turned[:, 0] + math.sqrt(1 - 0.9**2) * turned[:, 1]  # equal marginals, other correlation
    for other in (x + 0.7, 2 * normal(300, 3, generator=generator), turned):
        for distance in ("energy", "mmd"):
            test = shift_test(x, other, distance=distance, num_permutations=199, generator=generator)
            assert test.p_value == test.smallest_p == 1 / 200
            assert not test.caution


def _episodes(num_episodes: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(states [N, 2] of slow autoregressive episodes of 20 to 40 steps, their numbers [N])."""
    rows, numbers = [], []
    for number in range(num_episodes):
        state = normal(2, generator=generator)
        for _ in range(20 + 4 * number):
            state = 0.98 * state + 0.2 * normal(2, generator=generator)
            rows.append(state)
            numbers.append(number)
    return torch.stack(rows), torch.tensor(numbers)


def test_dependent_rows_need_groups(generator: torch.Generator) -> None:
    """All episodes have one distribution: exchanging rows cries wolf, exchanging episodes does not."""
    by_row, by_episode = [], []
    for _ in range(120):
        (x, groups_x), (y, groups_y) = _episodes(4, generator), _episodes(4, generator)
        by_row.append(shift_test(x, y, num_permutations=99, generator=generator).p_value)
        by_episode.append(
            shift_test(x, y, groups_x=groups_x, groups_y=groups_y, num_permutations=99, generator=generator).p_value
        )
    assert np.mean(np.array(by_row) <= 0.05) > 0.8
    for level in (2 / 70, 0.1, 0.5):
        share = float(np.mean(np.array(by_episode) <= level + 1e-9))
        assert share - level < 5 * math.sqrt(level * (1 - level) / 120)
    assert 0.4 < np.mean(by_episode) < 0.6


def test_few_groups_are_relabelled_exhaustively_and_their_limit_is_said(generator: torch.Generator) -> None:
    x, y = normal(40, 2, generator=generator), 9 + normal(60, 2, generator=generator)
    five = torch.arange(60) // 12
    test = shift_test(x, y, groups_x=torch.zeros(40), groups_y=five, generator=generator)
    assert (test.num_groups, len(test.null), test.exhaustive) == ((1, 5), 5, True)
    assert test.p_value == test.smallest_p == pytest.approx(1 / 6)
    assert "1 and 5 groups only 6 relabellings" in test.caution
    assert "0.17" in test.caution
    # As many groups on both sides: to exchange all is to exchange none, so each relabelling has a twin.
    test = shift_test(x, y, groups_x=torch.arange(40) // 10, groups_y=torch.arange(60) // 15, generator=generator)
    assert test.p_value == test.smallest_p == pytest.approx(2 / 70)
    assert not test.caution
    one = shift_test(x, y, groups_x=torch.zeros(40), groups_y=torch.zeros(60), generator=generator)
    assert one.p_value == one.smallest_p == 1
    assert one.caution


def _energy_of_groups(x: list[Tensor], y: list[Tensor]) -> float:
    """2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ where every group counts alike, X and X' are of different ones."""

    def mean_distance(a: Tensor, b: Tensor) -> float:
        return float((a[:, None] - b).norm(dim=2).mean())

    def within(groups: list[Tensor]) -> float:
        pairs = [mean_distance(a, b) for a, b in itertools.permutations(groups, 2)]
        n = len(groups[0])
        return float(np.mean(pairs)) if pairs else mean_distance(groups[0], groups[0]) * n / (n - 1)

    return 2 * float(np.mean([mean_distance(a, b) for a in x for b in y])) - within(x) - within(y)


@pytest.mark.parametrize("num_x", [1, 2])
def test_the_statistics_of_groups_by_hand(num_x: int, generator: torch.Generator) -> None:
    """Each relabelled statistic equals that of the samples made up anew, groups of unequal size."""
    x, y = normal(7, 2, generator=generator), 0.4 + normal(9, 2, generator=generator)
    groups_x = torch.tensor([3, 3, 8, 8, 8, 3, 3]) if num_x == 2 else torch.zeros(7)
    groups_y = torch.tensor([3, 3, 5, 5, 5, 5, 0, 0, 3])
    test = shift_test(x, y, groups_x=groups_x, groups_y=groups_y, standardise=False, generator=generator)
    parts = [x[groups_x == number] for number in groups_x.unique()] + [y[groups_y == number] for number in (0, 3, 5)]
    expected = [
        _energy_of_groups([parts[i] for i in chosen], [part for i, part in enumerate(parts) if i not in chosen])
        for chosen in itertools.combinations(range(num_x + 3), num_x)
    ]
    assert test.statistic == pytest.approx(expected[0])
    torch.testing.assert_close(test.null, torch.tensor(expected[1:], dtype=torch.float64))
    assert test.p_value == pytest.approx(np.mean([e >= expected[0] - 1e-12 for e in expected]))


def test_short_episodes_are_not_drowned_by_long_ones(generator: torch.Generator) -> None:
    """Nine episodes of 12 steps and five of 200, as of a pole that falls and one that is balanced."""
    x, y = normal(9 * 12, 2, generator=generator), 0.5 * normal(1000, 2, generator=generator)
    groups_x, groups_y = torch.arange(9).repeat_interleave(12), torch.arange(5).repeat_interleave(200)
    test = shift_test(x, y, groups_x=groups_x, groups_y=groups_y, generator=generator)
    assert test.p_value == test.smallest_p == 1 / 1000


def test_a_lonely_row_counts_against_a_verdict(generator: torch.Generator) -> None:
    x, y = normal(5, 1, generator=generator), 50 + normal(4, 1, generator=generator)
    test = shift_test(
        x, y, groups_x=torch.zeros(5), groups_y=torch.tensor([0, 1, 1, 1]), distance="mmd", generator=generator
    )
    assert test.null.isinf().sum() == 1
    assert test.p_value >= 2 / 3
    assert null_chart(test).marks


def test_relabellings_come_in_chunks(generator: torch.Generator) -> None:
    x, y = normal(9, 2, generator=generator), normal(8, 2, generator=generator)
    test = shift_test(x, y, num_permutations=2500, generator=generator)
    assert (len(test.null), test.exhaustive) == (2500, False)
    groups = torch.arange(8)
    test = shift_test(x[1:], y, groups_x=groups, groups_y=groups, num_permutations=20_000, generator=generator)
    assert (len(test.null), test.exhaustive) == (math.comb(16, 8) - 1, True)
    # Of all relabellings, each comes as often as its twin: x and y exchanged.
    assert test.null[-1] == pytest.approx(test.statistic)
    assert len({round(value, 9) for value in test.null.tolist()}) <= math.comb(16, 8) // 2


def test_thinning_is_said_and_one_seed_gives_one_test() -> None:
    def run(dtype: torch.dtype) -> float:
        generator = torch.Generator().manual_seed(5)
        x, y = (torch.randn(n, 3, generator=generator).to(dtype) for n in (300, 90))
        test = shift_test(x, y, max_rows=120, num_permutations=49, generator=generator)
        assert test.num_rows == (120, 90)
        return test.p_value

    assert run(torch.float32) == run(torch.float32) == run(torch.float64)


def test_bad_data_are_named(generator: torch.Generator) -> None:
    x, y = torch.zeros(4, 2), torch.ones(5, 2)
    y[3, 1] = math.nan
    y[4, 0] = math.inf
    for call in (lambda: energy_distance(x, y), lambda: shift_test(x, y, generator=generator)):
        with pytest.raises(ValueError, match="y is NaN or infinite in 2 of 5 rows, first in row 3"):
            call()
    with pytest.raises(ValueError, match=r"got shapes \[4, 2\] and \[5, 1\]"):
        squared_mmd(x, y[:, :1])
    with pytest.raises(ValueError, match="at least 2 rows in x, got 1"):
        energy_distance(x[:1], y[:2])
    with pytest.raises(ValueError, match="of both samples or of none"):
        shift_test(x, y[:3], groups_x=torch.zeros(4), generator=generator)
    with pytest.raises(ValueError, match=r"need groups_y \[3\]"):
        shift_test(x, y[:3], groups_x=torch.zeros(4), groups_y=torch.zeros(4), generator=generator)
    with pytest.raises(ValueError, match="energy, mmd, got 'cosine'"):
        shift_test(x, y[:3], distance="cosine", generator=generator)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bandwidth > 0, got 0"):
        squared_mmd(x, y[:3], bandwidth=0)
    with pytest.raises(ValueError, match="num_permutations >= 1"):
        shift_test(x, y[:3], num_permutations=0, generator=generator)


def test_charts(generator: torch.Generator) -> None:
    x, y = normal(80, generator=generator), 3 + normal(50, generator=generator)
    chart = marginal_chart(x, y, name="speed (m/s)", labels=("base", "learned"))
    for bars, values in zip(chart.marks, (x, y), strict=True):
        assert isinstance(bars, Bars)
        heights, _ = np.histogram(values.numpy(), bins=bars.edges, density=True)
        np.testing.assert_allclose(bars.heights, heights)
    flat = marginal_chart(torch.full((3,), 7.0), torch.full((4,), 7.0), name="z", labels=("a", "b"))
    assert all(bool(np.isfinite(mark.heights).all()) for mark in flat.marks if isinstance(mark, Bars))
    test = shift_test(x[:, None].requires_grad_(), y[:, None], num_permutations=49, generator=generator)
    null = null_chart(test)
    assert isinstance(null.marks[0], Bars)
    assert null.marks[0].heights.sum() == 49
    assert isinstance(null.marks[1], Rule)
    assert null.marks[1].at == test.statistic
