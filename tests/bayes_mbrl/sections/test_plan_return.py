"""What a plan may return: the numbers are those of the split, and a sentence for all that is missing."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import toy_environments  # noqa: F401 (registers them)
from toy_runs import start

from bayes_mbrl.analysis.charts import Chart, Line, Points, Section, Slides
from bayes_mbrl.analysis.uncertainty import VarianceSplit
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.loaded_run import LoadedRun, open_run
from bayes_mbrl.plan_returns import PlanReturnSplit, plan_returns
from bayes_mbrl.sections import plan_return
from bayes_mbrl.sections.plan_return import section

EXACT = ("dynamics=linear", "posterior=exact-linear")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedRun]:
    folder = tmp_path_factory.mktemp("runs") / "linear"
    start(folder, "LinearGaussian-v0", *EXACT, "num_episodes=2", "num_evaluation_episodes=2", "planner.horizon=3")
    with open_run(folder) as run:
        yield run


def _with_theta(run: LoadedRun, num_draws: int, **changed: float) -> LoadedRun:
    """The run with draws of its posterior for a posterior, all entries of some parameters set."""
    assert run.final is not None
    theta = run.final.posterior.sample(num_draws, generator=torch.Generator().manual_seed(3))
    theta = {name: torch.full_like(v, changed[name]) if name in changed else v for name, v in theta.items()}
    return dataclasses.replace(run, final=dataclasses.replace(run.final, posterior=DrawsPosterior(theta)))


def _slides(found: Section) -> Slides:
    (slides,) = [figure for figure in found.figures if isinstance(figure, Slides)]
    return slides


def _chart(found: Section, title: str) -> Chart:
    (chart,) = [figure for figure in found.figures if isinstance(figure, Chart) and figure.title == title]
    return chart


def _points(chart: Chart, label: str) -> Points:
    (points,) = [mark for mark in chart.marks if isinstance(mark, Points) and mark.label == label]
    return points


def test_a_whole_run(whole: LoadedRun) -> None:
    found = section(whole)
    assert list(found.missing) == []
    assert "20 of 50 states of the first episode of evaluation" in found.text[0]
    assert "3 steps ahead" in found.text[0]
    assert "never ends" not in found.text[-1]
    slides = _slides(found)
    assert len(slides.charts) == 20
    assert len(found.tables[0].rows) == 6
    assert list(slides.labels)[:2] == ["0", "3"]
    assert slides.labels[-1] == "49"
    ends = [
        next(mark.y[-1] for mark in chart.marks if isinstance(mark, Line) and mark.label == "aleatoric")
        for chart in slides.charts
    ]
    over_time = _chart(found, "Uncertainty of the chosen plan's return")
    np.testing.assert_allclose(
        next(mark.y for mark in over_time.marks if isinstance(mark, Line) and mark.label == "aleatoric"), ends
    )
    assert f"{math.sqrt(np.square(ends).mean()):.3g} (aleatoric)" in found.text[1]
    again = section(whole)
    assert again.text == found.text
    assert again.tables == found.tables


def test_numbers_are_those_of_independent_trajectories(whole: LoadedRun) -> None:
    """The same plan from the same state with other random numbers: both deviations within their errors."""
    assert whole.final is not None
    assert whole.builder is not None
    assert whole.transitions is not None
    assert whole.evaluation is not None
    agent = whole.builder.agent(whole.transitions, whole.final.posterior)
    episode = whole.evaluation[whole.evaluation.episode == whole.evaluation.episode[0]]
    planned = plan_return._plan(whole, agent, episode)[7]
    assert torch.equal(planned.state, episode.state[planned.step])
    returns = plan_returns(
        planned.plan[None], planned.state, posterior=agent.posterior, dynamics=agent.dynamics, reward=agent.reward,
        num_theta=2_000, num_noise=20, generator=torch.Generator().manual_seed(1),
    )[-1, ..., 0].double()  # fmt: skip
    aleatoric = float(returns.var(1).mean())
    epistemic = float(returns.mean(1).var()) - aleatoric / 20
    assert float(planned.parts.variance.aleatoric[-1, 0]) == pytest.approx(aleatoric, rel=0.35)
    # Of K = 50, M = 10: the variance of an estimated variance, 5 standard errors
    error = math.sqrt(2 / 49) * (epistemic + aleatoric / 10)
    assert abs(float(planned.parts.variance.epistemic[-1, 0]) - epistemic) < 5 * error
    total = math.sqrt((epistemic + aleatoric / 10) / 50)
    assert abs(float(planned.parts.mean[-1, 0]) - float(returns.mean())) < 5 * total


def test_candidates_and_the_chosen_plan(whole: LoadedRun) -> None:
    chart = _chart(section(whole), "Candidate plans: what they may return")
    assert len(_points(chart, "epistemic").x) == len(_points(chart, "aleatoric").x) == 6
    chosen = _points(chart, "chosen plan")
    assert len(chosen.x) == 1
    assert float(chosen.x[0]) > float(np.median(_points(chart, "epistemic").x))


def test_one_set_of_parameters_has_no_ignorance(whole: LoadedRun) -> None:
    found = section(_with_theta(whole, 1))
    assert "the ignorance in a plan's return is below what can be detected (20% of the aleatoric" in found.text[1]
    assert "knew least" not in found.text[1]
    assert "(epistemic)" not in found.text[1]
    assert "know least" not in _chart(found, "Candidate plans: what they may return").note
    undetected = [row for row in found.tables[0].rows if row[2].startswith("< ")]
    assert len(undetected) >= len(found.tables[0].rows) - 1  # a limit of two standard errors
    for _, _, epistemic, aleatoric, share in undetected:
        assert float(epistemic[2:]) == pytest.approx((8 / 49) ** 0.25 / 10**0.5 * float(aleatoric), rel=0.06)
        assert share == "< 4%"


def test_over_states_the_estimate_of_no_ignorance_is_unbiased(whole: LoadedRun) -> None:
    """Of one θ: most estimates (their law is skewed) are below 0, and their mean is 0 within 5 standard errors."""
    run = _with_theta(whole, 1)
    assert run.final is not None
    assert run.builder is not None
    assert run.transitions is not None
    assert run.evaluation is not None
    agent = run.builder.agent(run.transitions, run.final.posterior)
    planned = plan_return._plan(run, agent, run.evaluation[run.evaluation.episode == run.evaluation.episode[0]])
    variance = [one.parts.variance for one in planned]
    ratio = torch.stack([v.epistemic[-1, 0] / v.aleatoric[-1, 0] for v in variance])
    assert 6 <= int((ratio < 0).sum()) <= 19
    assert abs(float(ratio.mean())) < 5 * math.sqrt(2 / 49) / 10 / math.sqrt(20)


def _planned(epistemic: float, aleatoric: float, mean: float, step: int = 7) -> plan_return._Planned:
    variance = VarianceSplit(torch.tensor([[epistemic**2]]), torch.tensor([[aleatoric**2]]))
    parts = PlanReturnSplit(torch.tensor([[mean]]), variance, torch.zeros(1, 1))
    return plan_return._Planned(step, torch.zeros(3), torch.zeros(1, 1), parts)


@pytest.mark.parametrize(
    ("epistemic", "aleatoric", "mean", "words"),
    [
        (3e-4, 1e-4, 8.0, "practically certain to the model: a standard deviation of 0.00032"),
        (0.06, 0.04, -8.0, "practically certain"),  # 0.072 of 8
        (0.08, 0.04, 8.0, "80% of the variance"),  # 0.089 of 8
        (3e-4, 1e-4, 0.0, "90% of the variance"),
        (0.19, 1.0, 8.0, "below what can be detected (20% of the aleatoric standard deviation, which is 1 in"),
        (0.25, 1.0, 8.0, "6% of the variance of a plan's return is ignorance: more data would change little"),
        (0.0, 1.0, 8.0, "below what can be detected"),
        (1.0, 0.0, 8.0, "100% of the variance of a plan's return is ignorance: more data would make"),
    ],
)
def test_the_verdict_has_a_sense_of_size(epistemic: float, aleatoric: float, mean: float, words: str) -> None:
    (sentence,) = plan_return._verdict([_planned(epistemic, aleatoric, mean)] * 3)
    assert words in sentence
    if "practically" in sentence or "below" in sentence:
        assert "easier to foretell" not in sentence
        assert "knew least" not in sentence


def test_returns_of_either_sign_have_a_size() -> None:
    """Returns of 8 and -8 are 0 on average."""
    (sentence,) = plan_return._verdict([_planned(0.03, 0.03, 8.0), _planned(0.03, 0.03, -8.0)])
    assert "practically certain" in sentence


def test_plans_that_diverge_are_counted_and_left_out(whole: LoadedRun) -> None:
    found = section(_with_theta(whole, 1, bias_0=1e30))
    assert not found.figures
    assert "From 20 of 20 states some imagined trajectories diverged (up to 100.0% of them)" in found.missing[0]


def test_a_costly_search_is_made_from_fewer_states(whole: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 iterations of 6 candidates, 3 steps, 3 samples of θ, 1 draw of noise: 108 predictions a search
    for budget, states in ((108 * 5, 5), (1, 2)):
        monkeypatch.setattr(plan_return, "MAX_PREDICTIONS", budget)
        assert f"From {states} of 50 states" in section(whole).text[0]


def test_what_is_missing_is_said(whole: LoadedRun) -> None:
    assert "no posterior to plan with" in section(dataclasses.replace(whole, final=None)).missing[0]
    assert section(dataclasses.replace(whole, builder=None)).missing
    found = section(dataclasses.replace(whole, evaluation=None))
    assert "of the last episode of training, which it has learned from" in found.text[0]
    assert found.figures


def test_a_reward_that_is_learned_and_episodes_of_one_step(tmp_path: pathlib.Path) -> None:
    start(tmp_path / "run", "toy_environments:Short-v0", *EXACT, "num_episodes=3", "num_evaluation_episodes=1")
    with open_run(tmp_path / "run") as run:
        found = section(run)
    assert found.tables[0].rows
    assert not found.missing
    assert "This model never ends an episode" in found.text[-1]


def test_a_task_whose_return_is_certain(whole: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward of 1 for every step: no figure of uncertainties that are all 0."""
    assert whole.builder is not None
    spec = dataclasses.replace(whole.builder.environment.spec, reward=lambda s, a, n: n.new_ones(n.shape[:-1]))
    monkeypatch.setattr(whole.builder.environment, "spec", spec)
    found = section(whole)
    assert "certain of what its plans return" in found.text[1]
    assert [figure.title for figure in found.figures] == ["Candidate plans: what they may return"]
    assert found.tables[0].rows[0][1:] == ("3", "0", "0", "0%")
