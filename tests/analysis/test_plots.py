"""The picture shows the numbers it was given: read back from the artists, and from the pixels of the file."""

import pathlib
from typing import Any

import numpy as np
import pytest
from matplotlib import image, pyplot
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from numpy.typing import NDArray
from scipy import stats

from bayes_mbrl.analysis.plots import (
    Fan,
    LearningCurve,
    ParameterDraws,
    Shares,
    parameters_figure,
    run_figure,
    save_figure,
)

K, M, H = 6, 3, 8


def curve(**changed: Any) -> LearningCurve:
    given: dict[str, Any] = {
        "returns": np.array([-1200.0, -1100.0, -400.0, -130.0]),
        "base_policy_episodes": 2,
        "evaluation_returns": np.array([-100.0, -150.0, -170.0]),
        "name": "Pendulum-v1 · mean-field",
    }
    return LearningCurve(**given | changed)


def fan(num_dimensions: int = 3, **changed: Any) -> Fan:
    """Dimension d spreads d + 1 times as wide as dimension 0."""
    rng = np.random.default_rng(5)
    given: dict[str, Any] = {
        "imagined": rng.normal(size=(K, M, H + 1, num_dimensions)) * np.arange(1, num_dimensions + 1),
        "real": rng.normal(size=(H + 1, num_dimensions)),
        "dimension_names": tuple(f"position {d} (m)" for d in range(num_dimensions)),
        "time_step_label": "time step (0.05 s each)",
    }
    return Fan(**given | changed)


def shares(**changed: Any) -> Shares:
    given: dict[str, Any] = {
        "epistemic": np.array([0.0, 1, 2, 3, 4, 5, 6, 7]),
        "aleatoric": np.array([8.0, 9, 1, 2, 3, 1, 0, 5]),
    }
    return Shares(**given | changed)


def panels(figure: Figure) -> tuple[Axes, Axes, Axes, list[Axes]]:
    """Learning curve, shares, the absolute size on the right of the shares, and the fans."""
    left, right = figure.subfigs
    curve_axis, shares_axis, size_axis = left.axes
    return curve_axis, shares_axis, size_axis, list(right.axes)


def line(axis: Axes, label: str) -> NDArray[Any]:
    """[2, points] x and y of the one line with this label."""
    (found,) = [one for one in axis.lines if one.get_label() == label]
    return np.asarray(found.get_data(), dtype=float)


def area(axis: Axes, label: str) -> PolyCollection:
    (found,) = [one for one in axis.collections if one.get_label() == label and isinstance(one, PolyCollection)]
    return found


def legend(axis: Axes) -> list[str]:
    found = axis.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def test_panels_labels_and_legends() -> None:
    figure = run_figure(curve=curve(), fan=fan(), shares=shares())
    assert figure.get_suptitle() == "Pendulum-v1 · mean-field"
    assert figure.get_size_inches().tolist() == [12, 8]
    curve_axis, shares_axis, size_axis, fan_axes = panels(figure)
    assert (curve_axis.get_xlabel(), curve_axis.get_ylabel()) == ("episode", "return (sum of rewards)")
    assert legend(curve_axis) == ["base policy", "planned", "evaluation: −140 ± 36.1 (sd of 3)"]
    assert shares_axis.get_ylabel() == "share of predictive variance"
    assert size_axis.get_ylabel() == "predictive std (standardised)"
    assert legend(shares_axis) == ["epistemic (ignorance)", "aleatoric (noise)", "predictive std (right)"]
    assert [axis.get_ylabel() for axis in fan_axes] == ["position 0 (m)", "position 1 (m)", "position 2 (m)"]
    assert legend(fan_axes[0]) == ["imagined, 90 %", "imagined, 50 %", "imagined", "real"]
    assert fan_axes[-1].get_xlabel() == shares_axis.get_xlabel() == "time step (0.05 s each)"
    assert "dimensions" not in fan_axes[0].get_title(loc="left")


def test_learning_curve_shows_the_returns() -> None:
    axis = panels(run_figure(curve=curve(), fan=fan(), shares=shares()))[0]
    np.testing.assert_array_equal(line(axis, "base policy"), [[1, 2], [-1200, -1100]])
    np.testing.assert_array_equal(line(axis, "planned"), [[3, 4], [-400, -130]])
    (bar,) = axis.containers
    (segment,) = bar.lines[2][0].get_segments()  # type: ignore[attr-defined]
    std = np.std([-100, -150, -170], ddof=1)
    np.testing.assert_allclose(segment[:, 1], [-140 - std, -140 + std])
    assert segment[0, 0] > 4
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "2", "3", "4", "\nevaluation"]
    dots = [one.get_ydata() for one in axis.lines if len(np.asarray(one.get_xdata())) == 3]
    np.testing.assert_array_equal(dots, [[-100, -150, -170]])


def test_fans_show_reality_trajectories_and_bands() -> None:
    given = fan()
    for dimension, axis in enumerate(panels(run_figure(curve=curve(), fan=given, shares=shares()))[3]):
        np.testing.assert_array_equal(line(axis, "real"), [np.arange(H + 1), given.real[:, dimension]])
        drawn = np.array([one.get_ydata() for one in axis.lines if one.get_linewidth() < 1])
        np.testing.assert_array_equal(drawn, given.imagined[..., dimension].reshape(K * M, H + 1))
        for probability in (50, 90):
            vertices = area(axis, f"imagined, {probability} %").get_paths()[0].vertices
            for step in range(H + 1):
                values = given.imagined[:, :, step, dimension]
                low, high = np.quantile(values, [0.5 - probability / 200, 0.5 + probability / 200])
                at_step = np.asarray(vertices)[np.asarray(vertices)[:, 0] == step, 1]
                assert (at_step.min(), at_step.max()) == (pytest.approx(low), pytest.approx(high))


def test_many_trajectories_are_thinned_evenly() -> None:
    imagined = np.arange(1000.0).reshape(50, 20, 1, 1) * np.ones((1, 1, H + 1, 1))
    given = fan(num_dimensions=1, imagined=imagined)
    (axis,) = panels(run_figure(curve=curve(), fan=given, shares=shares()))[3]
    levels = [np.asarray(one.get_ydata())[0] for one in axis.lines if one.get_linewidth() < 1]
    assert len(levels) == 40
    assert (levels[0], levels[-1]) == (0, 999)
    assert max(np.diff(levels)) <= 26


def test_shares_stack_to_one_and_the_size_is_the_root_of_the_sum() -> None:
    given = shares()
    _, axis, size_axis, _ = panels(run_figure(curve=curve(), fan=fan(), shares=given))
    vertices = np.asarray(area(axis, "epistemic (ignorance)").get_paths()[0].vertices)
    total = given.epistemic + given.aleatoric
    for step in range(H):  # a step lasts from t to t + 1; its height is the highest vertex at both ends in common
        expected = given.epistemic[step] / total[step]
        for end in (step, step + 1):
            heights = vertices[vertices[:, 0] == end, 1]
            assert np.isclose(heights, expected).any()
    top = np.asarray(area(axis, "aleatoric (noise)").get_paths()[0].vertices)[:, 1].max()
    assert top == pytest.approx(1)
    edges, std = line(size_axis, "predictive std (right)")
    np.testing.assert_array_equal(edges, np.arange(H + 1))
    np.testing.assert_allclose(std[:-1], np.sqrt(total))
    assert axis.get_xlim() == (0, H)


def test_the_widest_of_many_dimensions_are_chosen_and_the_title_says_so() -> None:
    axes = panels(run_figure(curve=curve(), fan=fan(num_dimensions=10), shares=shares()))[3]
    assert [axis.get_ylabel() for axis in axes] == [f"position {d} (m)" for d in (6, 7, 8, 9)]
    assert "4 of 10 dimensions" in axes[0].get_title(loc="left")


def test_dimensions_compare_by_their_scale() -> None:
    scale = np.where(np.arange(10) % 2 == 0, 1.0, 1e3)
    axes = panels(run_figure(curve=curve(), fan=fan(num_dimensions=10, dimension_scale=scale), shares=shares()))[3]
    assert [axis.get_ylabel() for axis in axes] == [f"position {d} (m)" for d in (2, 4, 6, 8)]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"returns": np.array([-3.0]), "base_policy_episodes": 1, "evaluation_returns": np.array([])}, ["base policy"]),
        ({"base_policy_episodes": 0, "evaluation_returns": np.array([])}, ["planned"]),
        ({"base_policy_episodes": 4, "evaluation_returns": np.array([-5.0])},
         ["base policy", "evaluation: −5 (1 episode)"]),
    ],
)  # fmt: skip
def test_short_runs_and_no_evaluation(changed: dict[str, Any], expected: list[str], tmp_path: pathlib.Path) -> None:
    one_step = fan(num_dimensions=1, imagined=np.ones((1, 1, 2, 1)), real=np.zeros((2, 1)))
    nothing = Shares(epistemic=np.zeros(1), aleatoric=np.zeros(1))
    figure = run_figure(curve=curve(**changed), fan=one_step, shares=nothing)
    assert legend(panels(figure)[0]) == expected
    save_figure(figure, tmp_path / "run.png")


def test_the_file_is_a_png_with_the_picture_in_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.png"
    path.write_text("an older file")
    names = (r"$\nothing$ (m)", "speed (rad/s)", "angle (rad)")  # no mathematics is meant
    save_figure(run_figure(curve=curve(name=r"$\env_v1$"), fan=fan(dimension_names=names), shares=shares()), path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.png"]
    pixels = image.imread(path)[..., :3]
    assert pixels.shape == (1200, 1800, 3)
    height, width = 600, 900
    for row in (0, 1):
        for column in (0, 1):
            quarter = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
            assert 0.02 < (quarter < 0.99).any(axis=-1).mean() < 0.9, f"quarter {row}, {column} is empty or full"


def test_a_failed_write_leaves_the_old_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.png"
    path.write_bytes(b"old")

    def disk_full(self: Figure, file: pathlib.Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", disk_full)
    with pytest.raises(OSError, match="no space"):
        save_figure(Figure(), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["run.png"]


def parameter(name: str = "mass", **changed: Any) -> ParameterDraws:
    """Posterior N(2, 0.1²), prior N(0, 3²), both by their quantiles."""
    levels = (np.arange(20_000) + 0.5) / 20_000
    given: dict[str, Any] = {
        "posterior": stats.norm.ppf(levels, 2.0, 0.1), "prior": stats.norm.ppf(levels, 0.0, 3.0), "truth": 2.2,
    }  # fmt: skip
    return ParameterDraws(name, "kg", **given | changed)


def test_parameters_are_densities_with_the_truth_beside_them(tmp_path: pathlib.Path) -> None:
    figure = parameters_figure([parameter(), *(parameter(f"other_{i}") for i in range(3))], name="$1 pendulum")
    assert figure.get_suptitle() == "$1 pendulum"
    axis, *_ = figure.axes
    posterior, prior = ({p.get_label(): p for p in axis.patches if isinstance(p, StepPatch)}[name]
                        for name in ("posterior", "prior"))  # fmt: skip
    for drawn, mean, std in ((posterior, 2.0, 0.1), (prior, 0.0, 3.0)):
        heights, edges, _ = drawn.get_data()
        middle = (edges[1:] + edges[:-1]) / 2
        expected = stats.norm.pdf(middle, mean, std)
        assert np.abs(heights - expected).max() < 0.15 * expected.max()
    (truth,) = axis.lines
    assert truth.get_xdata() == [2.2, 2.2]
    assert axis.get_title(loc="left") == "mass: 1.84 … 2.16"
    assert [text.get_text() for text in axis.texts] == ["prior −4.9 … 4.9"]
    assert axis.get_xlabel() == "kg"
    (below,) = figure.legends
    assert [text.get_text() for text in below.get_texts()] == ["posterior", "prior", "truth"]
    assert [panel.axison for panel in figure.axes] == [True] * 4 + [False] * 2
    save_figure(figure, tmp_path / "parameters.png")
    assert image.imread(tmp_path / "parameters.png").shape[1] == 1800


@pytest.mark.parametrize("truth", [None, -7.0, 30.0])
def test_a_truth_far_away_or_unknown(truth: float | None) -> None:
    (axis,) = parameters_figure([parameter(truth=truth)], name="").axes
    low, high = axis.get_xlim()
    assert len(axis.lines) == (truth is not None)
    assert low < (2.0 if truth is None else truth) < high
    assert low < 2.0 < high


@pytest.mark.parametrize(("num_draws", "num_bins"), [(5, 8), (300, 13), (20_000, 48)])
def test_bins_suit_the_number_of_different_draws(num_draws: int, num_bins: int) -> None:
    draws = np.tile(np.linspace(1.0, 3.0, num_draws), 3)
    (axis,) = parameters_figure([parameter(posterior=draws)], name="").axes
    assert [len(p.get_data().values) for p in axis.patches if isinstance(p, StepPatch)] == [num_bins] * 2


def test_a_point_has_a_panel_too() -> None:
    (axis,) = parameters_figure([parameter(posterior=np.full(5, 3.0), truth=3.0)], name="").axes
    assert axis.get_xlim()[0] < 3 < axis.get_xlim()[1]
    assert axis.get_title(loc="left") == "mass: 3.000 … 3.000"


def test_no_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="need at least one parameter"):
        parameters_figure([], name="")


def test_pyplot_is_left_alone() -> None:
    before, settings = pyplot.get_fignums(), dict(pyplot.rcParams)
    run_figure(curve=curve(), fan=fan(), shares=shares())
    parameters_figure([parameter()], name="")
    assert pyplot.get_fignums() == before
    assert dict(pyplot.rcParams) == settings


@pytest.mark.parametrize(
    ("make", "changed", "message"),
    [
        (curve, {"returns": np.array([1.0, np.nan])}, r"returns \[E\] has 1 NaN or inf of 2 entries, first at \[1\]"),
        (curve, {"returns": np.array([])}, r"need returns \[E\] with at least 1 entries"),
        (curve, {"evaluation_returns": np.array([np.inf])}, "evaluation_returns"),
        (curve, {"base_policy_episodes": 5}, "need 0 <= base_policy_episodes <= 4 episodes, got 5"),
        (fan, {"imagined": np.full((K, M, H + 1, 3), np.nan)}, "imagined .* has 486 NaN or inf of 486"),
        (fan, {"real": np.zeros((H, 3))}, "differ in steps or dimensions"),
        (fan, {"dimension_names": ("one",)}, "need 3 dimension names, got 1"),
        (fan, {"dimension_scale": np.array([1.0, 0.0, 1.0])}, "need 3 positive dimension scales"),
        (shares, {"epistemic": np.full(8, np.nan)}, r"epistemic \[H\] has 8 NaN"),
        (shares, {"aleatoric": np.full(8, -1.0)}, "aleatoric is a variance and cannot be negative, got -1"),
        (parameter, {"posterior": np.array([np.nan])}, r"posterior of mass \[K\] has 1 NaN or inf"),
        (parameter, {"prior": np.array([])}, r"need prior of mass \[K'\] with at least 1 entries"),
        (shares, {"aleatoric": np.ones(3)}, "need as many steps in both parts, got 8 and 3"),
    ],
)
def test_bad_numbers_are_refused_by_name(make: Any, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changed)
