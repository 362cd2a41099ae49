"""Maps of uncertainty: which plane, which states, whether ignorance rises off the data; and what is missing."""

import dataclasses
import math
import pathlib
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import toy_environments  # noqa: F401 (registers them)
from torch import Tensor
from toy_runs import start

from bayes_mbrl.analysis.charts import Chart, Heatmap, Points, Section, Slides
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.loaded_run import Knowledge, LoadedRun, open_run
from bayes_mbrl.sections import uncertainty_map
from bayes_mbrl.sections.uncertainty_map import NUM_CELLS, _grid, _most_explored, _usual_action, _verdict, section

EXACT = ("dynamics=linear", "posterior=exact-linear")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedRun]:
    folder = tmp_path_factory.mktemp("runs") / "linear"
    start(folder, "LinearGaussian-v0", *EXACT, "num_episodes=3", "num_evaluation_episodes=1")
    with open_run(folder) as run:
        yield run


def _slides(found: Section, part: str) -> Slides:
    (slides,) = [f for f in found.figures if f.title == f"Map of the {part} part"]
    assert isinstance(slides, Slides)
    return slides


def _heatmap(chart: Chart) -> Heatmap:
    (heatmap,) = [mark for mark in chart.marks if isinstance(mark, Heatmap)]
    return heatmap


def test_a_whole_run(whole: LoadedRun) -> None:
    found = section(whole)
    assert list(found.missing) == []
    maps = {part: _slides(found, part) for part in ("epistemic", "aleatoric")}
    for slides in maps.values():
        assert list(slides.labels) == ["0", "1", "2"]
        assert {_heatmap(chart).limits for chart in slides.charts} == {_heatmap(maps["epistemic"].charts[0]).limits}
    dots = [mark for mark in maps["epistemic"].charts[0].marks if isinstance(mark, Points)]
    assert len(dots[0].x) == 50  # what the first posterior learned from
    first, last = (_heatmap(maps["epistemic"].charts[i]).values for i in (0, -1))
    assert np.median(last) < np.median(first) - 0.1
    noise = _heatmap(maps["aleatoric"].charts[-1]).values
    assert np.ptp(noise) < 1e-5  # a linear model's is the same everywhere
    # A linear model's ignorance has its minimum within the data and grows with the distance: look at the borders.
    border = np.concatenate([last[0], last[-1], last[:, 0], last[:, -1]])
    assert border.max() == last.max()
    assert border.min() > last.min()
    assert found.text == section(whole).text


def test_a_chosen_plane(whole: LoadedRun) -> None:
    found = section(whole, dimensions=(2, 0))
    chart = _slides(found, "epistemic").charts[0]
    assert (chart.x_label, chart.y_label) == ("s[2]", "s[0]")
    assert "most" not in found.text[0]
    for wrong in ((1, 1), (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match=r"two different dimensions of a state of 3, 0 to 2, got"):
            section(whole, dimensions=wrong)


def test_the_plane_is_the_one_that_was_explored_most(generator: torch.Generator) -> None:
    """Cosine and sine of one angle are bound to each other; a constant tells nothing."""
    angle, speed = 6.3 * torch.rand(2_000, generator=generator), 8 * torch.randn(2_000, generator=generator)
    state = torch.stack([angle.cos(), angle.sin(), torch.full((2_000,), 7.0), speed], -1)
    i, j = _most_explored(state)
    assert j == 3
    assert i in (0, 1)
    assert _most_explored(torch.ones(1, 5)) == (0, 1)


def test_cells_lie_around_what_was_visited_and_borrow_the_rest_from_the_nearest_state() -> None:
    state = torch.tensor([[0.0, -5.0, 100.0], [10.0, 5.0, 200.0], [10.0, -5.0, 300.0]])
    grid = _grid(state, 0, 1)
    assert (len(grid.x), len(grid.y)) == (NUM_CELLS, NUM_CELLS)
    half = 15 / NUM_CELLS / 2
    assert (grid.x[0] - half, grid.x[-1] + half) == (pytest.approx(-2.5), pytest.approx(12.5))
    assert grid.visited.sum() == 3
    table = grid.states.view(NUM_CELLS, NUM_CELLS, 3).numpy()
    np.testing.assert_allclose(table[4, :, 0], grid.x, rtol=1e-6)  # x is inside
    np.testing.assert_allclose(table[:, 4, 1], grid.y, rtol=1e-6)
    assert (table[0, 0, 2], table[-1, -1, 2], table[0, -1, 2]) == (100.0, 200.0, 300.0)
    rows, columns = np.nonzero(grid.visited)
    for row, column in zip(rows, columns, strict=True):
        distance = np.abs(table[row, column, :2] - state[:, :2].numpy()).max(1)
        assert distance.min() <= half * 1.001
        assert table[row, column, 2] == float(state[int(distance.argmin()), 2])


def test_the_verdict_says_whether_ignorance_rises_off_the_data() -> None:
    grid = _grid(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), 0, 1)
    for factor, words in ((5.0, "knows where it does not know"), (1.5, "only a little"), (0.5, "do not trust")):
        epistemic = np.where(grid.visited, 0.02, 0.02 * factor)
        epistemic[0, :5] = math.nan
        sentence = _verdict({"epistemic": epistemic}, grid)
        assert words in sentence
        assert f"{factor:.2g} times as much" in sentence
    nothing = np.zeros((NUM_CELLS, NUM_CELLS))
    assert "no epistemic part" in _verdict({"epistemic": nothing}, grid)
    assert "no epistemic part" in _verdict({"epistemic": nothing * math.nan}, grid)
    only_abroad = _verdict({"epistemic": np.where(grid.visited, 0.0, 0.02)}, grid)
    assert "no sign of knowing" in only_abroad
    assert "inf" not in only_abroad


def test_one_set_of_parameters_has_no_map_of_ignorance(whole: LoadedRun) -> None:
    assert whole.final is not None
    theta = whole.final.posterior.sample(1, generator=torch.Generator().manual_seed(3))
    certain = dataclasses.replace(whole.final, posterior=DrawsPosterior(theta))
    found = section(dataclasses.replace(whole, final=certain, snapshots={}))
    assert [f.title for f in found.figures] == ["Map of the aleatoric part"]
    assert "no epistemic part" in found.text[1]


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_rounding_is_no_ignorance(whole: LoadedRun, offset: float) -> None:
    """Equal θ whose predictions differ in the last digits, as those of a network do; states far from 0 have fewer."""
    noise, generator = torch.full((3,), 0.1), torch.Generator().manual_seed(5)

    def step(state: Tensor, action: Tensor) -> Tensor:
        following = state + 0.1
        digits = torch.finfo(torch.float32).eps * torch.randn(following.shape, generator=generator)
        return following + digits * (following.abs() + 1)

    assert whole.transitions is not None
    moved = dataclasses.replace(
        whole.transitions,
        state=whole.transitions.state + offset, next_state=whole.transitions.next_state + offset,
    )  # fmt: skip
    equal = Knowledge(Nothing(), KnownDynamics(step, noise_std=noise), num_fitted=150)
    found = section(dataclasses.replace(whole, transitions=moved, final=equal, snapshots={}))
    assert [f.title for f in found.figures] == ["Map of the aleatoric part"]
    assert "no epistemic part" in found.text[1]
    limits = _heatmap(_slides(found, "aleatoric").charts[0]).limits
    assert limits is not None
    assert limits[1] - limits[0] < 0.11  # of the aleatoric part alone, which is the same everywhere


def test_discrete_actions_are_looked_at_under_one_that_was_taken(tmp_path: pathlib.Path) -> None:
    for env, blocks, pattern in (("Choices", [5], r"action \d "), ("ManyChoices", [3, 2], r"actions \d and \d ")):
        start(tmp_path / env, f"toy_environments:{env}-v0", "num_episodes=3")
        with open_run(tmp_path / env) as run:
            assert run.transitions is not None
            action, words = _usual_action(run.transitions.action, blocks)
            counts = Counter(map(tuple, run.transitions.action.tolist()))
            assert counts[tuple(action.tolist())] == max(counts.values())
            assert [float(block.sum()) for block in torch.split(action, blocks)] == [1.0] * len(blocks)
            assert re.match(pattern, words)
            assert f"under {words}, with" in section(run).text[0]


def test_the_usual_action() -> None:
    first, second = [0.0, 0, 1, 0, 1], [1.0, 0, 0, 1, 0]
    action, words = _usual_action(torch.tensor([first, second, second]), (3, 2))
    assert (action.tolist(), words[:15]) == (second, "actions 0 and 0")
    action, words = _usual_action(torch.tensor([first, first, second]), (3, 2))
    assert (action.tolist(), words[:15]) == (first, "actions 2 and 1")
    # The median of each entry alone would be (0, 0, 0), no action at all.
    action, words = _usual_action(torch.eye(3)[[0, 1, 2, 1, 0, 1]], (3,))
    assert (action.tolist(), words[:9]) == ([0, 1, 0], "action 1 ")
    action, words = _usual_action(torch.tensor([[0.5], [-1.0], [2.0]]), ())
    assert (action.tolist(), words) == ([0.5], "the median action (0.5)")


def test_what_is_missing_is_said(whole: LoadedRun, tmp_path: pathlib.Path) -> None:
    assert section(dataclasses.replace(whole, final=None)).missing
    assert section(dataclasses.replace(whole, transitions=None)).missing
    (tmp_path / "bad").write_bytes(b"damaged")
    found = section(dataclasses.replace(whole, snapshots={**whole.snapshots, 1: tmp_path / "bad"}))
    assert list(found.missing) == ["The posterior after episode 1 cannot be read: it has no map."]
    assert list(_slides(found, "epistemic").labels) == ["0", "2"]
    assert whole.final is not None
    theta = whole.final.posterior.sample(2, generator=torch.Generator().manual_seed(3))
    theta["weight_0"][0, 0] = math.inf
    broken = section(
        dataclasses.replace(whole, final=dataclasses.replace(whole.final, posterior=DrawsPosterior(theta)))
    )
    assert "After episode 2, 625 of 625 cells have no finite prediction" in broken.missing[0]


def test_long_runs_are_thinned_and_it_is_said(whole: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty_map, "MAX_SNAPSHOTS", 2)
    monkeypatch.setattr(uncertainty_map, "MAX_STATES", 20)
    monkeypatch.setattr(uncertainty_map, "MAX_DOTS", 9)
    found = section(whole)
    slides = _slides(found, "epistemic")
    assert list(slides.labels) == ["0", "2"]
    assert "Nearest among 20 of 150 states" in found.text[0]
    assert {len(mark.x) for mark in slides.charts[-1].marks if isinstance(mark, Points)} == {9}


def test_states_that_stand_still(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "run", "toy_environments:Single-v0", *EXACT, "num_episodes=3")
    with open_run(tmp_path / "run") as run:
        assert len(section(run).figures) == 2
