"""What the model knew: closed forms of a linear model, fans that diverge, and a sentence for all that is missing."""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import toy_environments  # noqa: F401 (registers them)
from toy_runs import start

from bayes_mbrl.analysis.charts import Chart, Line, Points, Section, Slides
from bayes_mbrl.data import Transitions, evenly_spaced
from bayes_mbrl.dynamics.known import KnownDynamics, Nothing
from bayes_mbrl.dynamics.linear import LinearDynamics
from bayes_mbrl.inference import exact_linear
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.exact_linear import ExactLinearPosterior
from bayes_mbrl.loaded_run import Knowledge, LoadedRun, open_run
from bayes_mbrl.sections import knowledge as sections_knowledge
from bayes_mbrl.sections.fans import NUM_THETA, fan_slides, imagine_fan
from bayes_mbrl.sections.knowledge import section
from bayes_mbrl.sections.one_step import INFORMATION_THETA, Information, change_scale, information, predict_one_step

EXACT = ("dynamics=linear", "posterior=exact-linear")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "linear"
    start(folder, "LinearGaussian-v0", *EXACT, "num_episodes=4", "num_evaluation_episodes=2")
    return folder


@pytest.fixture(scope="module")
def whole(folder: pathlib.Path) -> Iterator[LoadedRun]:
    with open_run(folder) as run:
        yield run


def _slides(found: Section, title: str) -> Slides:
    (slides,) = [f for f in found.figures if f.title == title]
    assert isinstance(slides, Slides)
    return slides


def _line(chart: Chart, label: str) -> Line:
    (line,) = [mark for mark in chart.marks if isinstance(mark, Line) and mark.label == label]
    return line


def test_one_step_of_a_linear_model_is_the_closed_form(transitions: Transitions, generator: torch.Generator) -> None:
    dynamics = LinearDynamics.from_data(transitions, noise_std=0.4)
    x, y = dynamics.regression_data(transitions)
    posterior, _ = exact_linear.fit(dynamics.model, x, y, generator=generator)
    scale = change_scale(transitions)
    torch.testing.assert_close(scale, (transitions.next_state - transitions.state).std(0, correction=0))
    known = Knowledge(posterior, dynamics, len(transitions))
    found = [
        predict_one_step(known, transitions.state, transitions.action, scale, generator=generator) for _ in range(60)
    ]
    assert found[0].mean.shape == (23, 3)
    assert isinstance(posterior, ExactLinearPosterior)
    features = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    epistemic = (features @ posterior.factor).square().sum(1)  # of standardised targets, alike in all dimensions
    samples = torch.stack([one.epistemic for one in found])
    assert bool(((samples.mean(0) - epistemic).abs() < 5 * samples.std(0) / math.sqrt(60)).all())
    torch.testing.assert_close(found[0].aleatoric, torch.full((23,), 0.4**2, dtype=torch.float64))


def test_information_of_a_linear_model_is_the_closed_form(transitions: Transitions, generator: torch.Generator) -> None:
    """½ log(1 + xᵀ S x / σ²) in each of three outputs, whose weights are independent: their sum."""
    noise_std = 0.4
    dynamics = LinearDynamics.from_data(transitions, noise_std=noise_std)
    x, y = dynamics.regression_data(transitions)
    posterior, _ = exact_linear.fit(dynamics.model, x, y, generator=generator)
    assert isinstance(posterior, ExactLinearPosterior)
    rows = evenly_spaced(23, 20)
    features = torch.cat([x, torch.ones_like(x[:, :1])], 1)[rows]
    truth = 1.5 * float(torch.log1p((features @ posterior.factor).square().sum(1) / noise_std**2).mean())
    known = Knowledge(posterior, dynamics, 23)
    told = [information(known, transitions.state, transitions.action, generator=generator) for _ in range(20)]
    shown, upper = (sum(values) / 20 for values in zip(*[(one.shown, one.upper) for one in told], strict=True))
    assert truth > 0.3
    assert float(shown) == pytest.approx(truth, rel=0.1)
    assert float(shown) - 0.01 < truth < float(upper) + 0.01
    theta = posterior.sample(4, generator=generator)
    theta["bias_0"][1, 0] = math.inf
    broken = Knowledge(DrawsPosterior(theta), dynamics, 23)
    assert math.isnan(information(broken, transitions.state, transitions.action, generator=generator).shown)


def test_the_standard_error_of_the_information_is_that_of_the_draws(
    transitions: Transitions, generator: torch.Generator
) -> None:
    """With the samples of θ held, repeated estimates scatter by as much as each says."""
    dynamics = LinearDynamics.from_data(transitions, noise_std=0.4)
    x, y = dynamics.regression_data(transitions)
    posterior, _ = exact_linear.fit(dynamics.model, x, y, generator=generator)
    held = _Held(posterior.sample(INFORMATION_THETA, generator=generator))
    known = Knowledge(held, dynamics, 23)
    told = [information(known, transitions.state, transitions.action, generator=generator) for _ in range(100)]
    scatter = float(torch.tensor([one.shown for one in told]).std())
    claimed = float(torch.tensor([one.standard_error for one in told]).mean())
    assert claimed == pytest.approx(scatter, rel=5 / math.sqrt(2 * 99))


class _Held(Nothing):
    """Always the same samples."""

    def __init__(self, theta: Theta) -> None:
        self.theta = theta

    def sample(self, n: int, *, generator: torch.Generator) -> Theta:
        assert all(len(values) == n for values in self.theta.values())
        return self.theta


def test_information_is_shown_with_its_error_and_an_open_bracket(whole: LoadedRun) -> None:
    moment = sections_knowledge._moments(whole, [])[0]
    for told, words in (
        ((0.2, 0.0123, 0.205), "0.2 ± 0.012"), ((0.5, 0.02, 0.9), "0.5 ± 0.02 to 0.9"),
        ((3.7, 0.011, 400.0), "at least 3.7 ± 0.011"), ((-2e-9, 1e-9, 3e-9), "< 0.001"), ((math.nan,) * 3, "–"),
    ):  # fmt: skip
        assert sections_knowledge._nats(dataclasses.replace(moment, information=Information(*told))) == words


def test_ratio_of_deviations_and_not_of_variances(whole: LoadedRun) -> None:
    moment = sections_knowledge._moments(whole, [])[0]
    claimed = np.full(50, 0.09)
    for error, expected in ((0.09 * 9, 3.0), (0.09 / 16, 0.25), (0.0, 0.0)):
        known = dataclasses.replace(moment, epistemic=claimed / 3, aleatoric=claimed / 1.5, error=np.full(50, error))
        assert known.real_over_claimed == pytest.approx(expected)
    nothing = np.zeros(50)
    assert dataclasses.replace(moment, epistemic=nothing, aleatoric=nothing).real_over_claimed == math.inf


def test_a_thinned_episode_is_predicted_at_the_steps_that_are_shown(
    whole: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a known truth, by hand: the error at steps 0, 8, 16, ..., and not at the first 7."""
    monkeypatch.setattr(sections_knowledge, "MAX_STEPS", 7)
    assert whole.transitions is not None
    episode, scale = whole.episode(2), change_scale(whole.transitions)
    known = Knowledge(Nothing(), KnownDynamics(lambda s, a: 0 * s, noise_std=torch.ones(3)), 0)
    moment = sections_knowledge._moment(whole, "2", known, episode, scale)
    steps = [0, 8, 16, 24, 33, 41, 49]
    assert moment.steps.tolist() == steps
    np.testing.assert_allclose(moment.error, (episode.next_state[steps] / scale).square().mean(1), rtol=1e-5)


def test_a_whole_run(whole: LoadedRun) -> None:
    found = section(whole)
    assert list(found.missing) == []
    assert [figure.title for figure in found.figures] == [
        "Ignorance and noise over episodes", "Along the real trajectory",
        *(f"s[{i}] imagined and real" for i in range(3)),
    ]  # fmt: skip
    assert list(_slides(found, "Along the real trajectory").labels) == ["1", "2", "3", "evaluation"]
    overview = found.figures[0]
    assert isinstance(overview, Chart)
    dots = next(mark for mark in overview.marks if isinstance(mark, Points))
    assert dots.x.tolist() == [1, 2, 3, 4]
    assert _line(overview, "real error").x.tolist() == [1, 2, 3]
    rows = found.tables[0].rows
    assert [row[1] for row in rows] == ["50", "100", "150", "200"]  # no posterior had seen the episode it is tried on
    assert float(rows[-1][2]) < 0.8 * float(rows[0][2])
    assert "Ignorance (epistemic) fell from" in found.text[1]
    along = _slides(found, "Along the real trajectory").charts[1]
    shown = math.sqrt(float(np.mean(_line(along, "epistemic").y ** 2)))
    assert float(rows[1][2]) == pytest.approx(shown, rel=0.06)  # two digits
    fan = _slides(found, "s[1] imagined and real").charts[-1]
    assert whole.evaluation is not None
    np.testing.assert_allclose(_line(fan, "real").y[1:], whole.evaluation.next_state[:50, 1], rtol=1e-6)


def test_the_real_error_is_that_of_the_mean_prediction(whole: LoadedRun) -> None:
    """By hand: the posterior mean of the weights, in place of samples of them."""
    assert whole.transitions is not None
    known, episode = whole.knowledge_before(2), whole.episode(2)
    assert known is not None
    assert isinstance(known.posterior, ExactLinearPosterior)
    mean = {"weight_0": known.posterior.mean[None, :-1], "bias_0": known.posterior.mean[None, -1]}
    predicted = known.dynamics.predict(mean, episode.state[None], episode.action)[0][0]
    error = ((predicted - episode.next_state) / change_scale(whole.transitions)).square().mean().sqrt()
    assert float(section(whole).tables[0].rows[1][5]) == pytest.approx(float(error), rel=0.06)


def test_claims_that_are_too_bold_or_too_cautious_are_called_so(whole: LoadedRun) -> None:
    moments = sections_knowledge._moments(whole, [])
    for factor, words in ((100.0, "overconfident"), (0.01, "too cautious"), (1.0, "about as large as claimed")):
        claimed = moments[-1].epistemic + moments[-1].aleatoric
        moment = dataclasses.replace(moments[-1], error=factor * claimed)
        assert words in " ".join(sections_knowledge._verdict([moment]))
    worst = [
        dataclasses.replace(m, error=f * (m.epistemic + m.aleatoric))
        for m, f in zip(moments, (4, 25, 1, 1), strict=True)
    ]
    assert "most beyond its claims in episode 2" in sections_knowledge._verdict(worst)[-1]
    assert ", 5 times what was claimed" in sections_knowledge._verdict(worst)[-1]


def test_one_set_of_parameters_is_said_to_know_no_ignorance(whole: LoadedRun) -> None:
    assert whole.final is not None
    theta = {name: value[:1] for name, value in whole.final.posterior.sample(1, generator=torch.Generator()).items()}
    certain = dataclasses.replace(whole.final, posterior=DrawsPosterior(theta))
    found = section(dataclasses.replace(whole, final=certain, snapshots={}))
    assert "The epistemic part is 0 throughout" in found.text[1]
    assert found.tables[0].rows[0][4] == "0%"
    assert len(found.tables[0].rows) == 1


def test_what_is_missing_is_said(whole: LoadedRun, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert section(dataclasses.replace(whole, final=None)).missing
    nothing = section(dataclasses.replace(whole, snapshots={}, evaluation=None))
    assert "No episode has a posterior from before it" in nothing.missing[0]
    assert not nothing.figures
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "posterior" / "after-episode-0001.safetensors").write_bytes(b"damaged")
    (copy / "evaluation.npz").unlink()
    with open_run(copy) as run:
        found = section(run)
    assert list(found.missing) == ["The posterior before episode 2 cannot be read: the episode is left out."]
    assert [row[0] for row in found.tables[0].rows] == ["1", "3"]


def test_long_runs_are_thinned_and_it_is_said(whole: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections_knowledge, "MAX_EPISODES", 3)
    monkeypatch.setattr(sections_knowledge, "MAX_STEPS", 7)
    found = section(whole)
    assert [row[0] for row in found.tables[0].rows] == ["1", "3", "evaluation"]
    assert "3 of 4 episodes, at most 7 of the up to 50 steps of each" in found.text[0]
    assert _line(_slides(found, "Along the real trajectory").charts[0], "aleatoric").x.tolist() == [
        round(49 * i / 6) for i in range(7)
    ]
    assert evenly_spaced(5, 9).tolist() == [0, 1, 2, 3, 4]


def test_predictions_that_are_not_finite_are_counted(whole: LoadedRun) -> None:
    assert whole.final is not None
    theta = whole.final.posterior.sample(5, generator=torch.Generator().manual_seed(3))
    theta["bias_0"][2, 1] = math.nan
    broken = dataclasses.replace(whole.final, posterior=DrawsPosterior(theta))
    found = section(dataclasses.replace(whole, final=broken))
    assert any("Episode evaluation: 50 of 50 predictions are not finite" in text for text in found.missing)
    assert [row[0] for row in found.tables[0].rows] == ["1", "2", "3"]


def _episode(num_steps: int, missing_row: int | None = None) -> Transitions:
    state = torch.full((num_steps + 1, 2), 0.5) * torch.arange(1, num_steps + 2)[:, None]
    rows = torch.tensor([i for i in range(num_steps) if i != missing_row])
    n = len(rows)
    return Transitions(
        state[:-1][rows], torch.zeros(n, 1), torch.zeros(n), state[1:][rows], torch.zeros(n).bool(),
        torch.zeros(n).long(),
    )  # fmt: skip


def test_a_fan_is_drawn_up_to_where_it_diverges(generator: torch.Generator) -> None:
    factor = torch.tensor([1.0, 100.0])
    known = Knowledge(Nothing(), KnownDynamics(lambda s, a: factor * s, noise_std=torch.zeros(2)), 0)
    fan = imagine_fan(known, _episode(6), generator=generator)
    # 0.5 · 100^t <= 10^6 · 3.5 for t <= 3
    assert fan.imagined.shape == (NUM_THETA, 4, 2)
    assert (fan.real.shape, fan.num_diverged) == ((7, 2), NUM_THETA)
    slides, words = fan_slides([fan, fan], ["1", "2"], ["angle (rad)", "speed (rad/s)"])
    assert len(words) == 2
    assert "100 of 100 imagined trajectories diverged; the fan is drawn up to step 3" in words[0]
    (chart,) = [s.charts[0] for s in slides if s.title.startswith("speed imagined")]
    assert chart.y_label == "speed (rad/s)"
    assert chart.y_range is not None
    assert chart.y_range[1] < 12
    assert "cut off" in chart.note


def test_a_fan_ends_where_rows_are_missing(generator: torch.Generator) -> None:
    known = Knowledge(Nothing(), KnownDynamics(lambda s, a: s + 0.5, noise_std=torch.ones(2)), 0)
    for missing_row, steps in ((None, 6), (4, 4), (5, 5), (1, 1)):
        fan = imagine_fan(known, _episode(6, missing_row), generator=generator)
        assert len(fan.real) == fan.imagined.shape[1] == steps + 1
        assert (np.diff(fan.real[:, 0]) == 0.5).all()


def test_of_many_dimensions_the_widest_are_shown(generator: torch.Generator) -> None:
    noise = torch.tensor([0.1, 3.0, 0.2, 2.0, 5.0, 0.0, 4.0])
    known = Knowledge(Nothing(), KnownDynamics(lambda s, a: s, noise_std=noise), 0)
    episode = _episode(6)
    wide = dataclasses.replace(
        episode, state=episode.state[:, :1].expand(-1, 7), next_state=episode.next_state[:, :1].expand(-1, 7)
    )
    slides, words = fan_slides([imagine_fan(known, wide, generator=generator)], ["9"], list("abcdefg"))
    assert [s.title.split()[0] for s in slides] == ["b", "d", "e", "g"]
    assert "4 of 7 dimensions" in words[0]


@pytest.mark.parametrize("env", ["Short-v0", "Single-v0"])
def test_episodes_of_one_step_and_states_that_stand_still(tmp_path: pathlib.Path, env: str) -> None:
    start(tmp_path / "run", f"toy_environments:{env}", *EXACT, "num_episodes=3")
    with open_run(tmp_path / "run") as run:
        found = section(run)
    assert len(found.tables[0].rows) == 3
    assert not found.missing
