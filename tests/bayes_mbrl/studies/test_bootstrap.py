"""Study 6: scores of members whose answer is known, signs of the contrasts, and the whole on a tiny ensemble."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from bayes_mbrl.analysis.mixture import Mixture
from bayes_mbrl.analysis.scores import crps_of_mixture
from bayes_mbrl.studies import bootstrap
from bayes_mbrl.studies.bootstrap import ENVIRONMENTS, SIZES, STUDY, contrasts, correlation, figure, measure, scores
from bayes_mbrl.study import verdict_of


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_correlation_of_errors_that_share_a_part(rho: float, generator: torch.Generator) -> None:
    own, shared = torch.randn(7, 5000, 3, generator=generator), torch.randn(1, 5000, 3, generator=generator)
    errors = math.sqrt(1 - rho) * own + math.sqrt(rho) * shared
    assert correlation(2.5 * errors) == pytest.approx(rho, abs=5 / math.sqrt(15_000))


def test_correlation_of_two_members_by_hand() -> None:
    assert correlation(torch.tensor([[[1.0], [2.0]], [[3.0], [-1.0]]])) == pytest.approx((3 - 2) / (15 / 2))


def test_scores_of_members_by_the_parts(generator: torch.Generator) -> None:
    mean = torch.randn(16, 9, 2, generator=generator)
    std, y = torch.full_like(mean, 0.7), torch.randn(9, 2, generator=generator)
    found = scores(mean, std, y)
    expected = crps_of_mixture(Mixture(mean.numpy(), std.numpy()), y).mean()
    assert found["crps"][-1] == pytest.approx(float(expected))
    one_by_one = [crps_of_mixture(Mixture(mean[[e]].numpy(), std[[e]].numpy()), y).mean() for e in range(16)]
    assert found["crps"][0] == pytest.approx(sum(one_by_one) / 16)
    assert found["crps"] == sorted(found["crps"], reverse=True), "the CRPS is convex: mixtures of more are no worse"
    assert found["epistemic"] == pytest.approx(float(mean.var(0).mean().sqrt()), rel=1e-5)


def test_outcomes_of_the_prediction_are_held_as_promised(generator: torch.Generator) -> None:
    y = torch.randn(4000, 1, generator=generator)
    right = scores(torch.zeros(16, 4000, 1), torch.ones(16, 4000, 1), y)
    assert right["held"] == pytest.approx(0.9, abs=5 * math.sqrt(0.09 / 4000))
    assert scores(torch.zeros(16, 4000, 1), torch.full((16, 4000, 1), 0.2), y)["held"] < 0.5


def made_up(
    crps_alone: Sequence[float],
    crps_drawn: Sequence[float],
    held: float,
    independent: float,
    changed: Mapping[str, Sequence[float]] | None = None,
) -> Any:
    """The same on and off the data, but for the CRPS of both kinds of ensemble that is `changed` on or off them.

    As said for seed 0; the others differ a little, by arm and by number of members.
    """

    def scored(crps: Sequence[float], shared: float, little: float) -> dict[str, Any]:
        near = [c * (1 + little * place) for place, c in enumerate(crps)]
        return {"crps": near, "correlation": shared + little, "held": held + little, "epistemic": 0.1, "rms_error": 0.2}

    def arm(crps: Sequence[float], shared: float, spread: float) -> dict[int, Any]:
        return {
            seed: {where: scored((changed or {}).get(where, crps), shared, spread * seed) for where in ("on", "off")}
            for seed in range(3)
        }

    return {
        f"{env}, {name}": arm(*said)
        for env in ENVIRONMENTS
        for name, said in {
            "resampled": (crps_drawn, 0.5, 1e-4),
            "initialisation alone": (crps_alone, independent, 2e-4),
        }.items()
    }


def curve(shared: float, own: float) -> list[float]:
    """CRPS by `SIZES` as it can occur: of M members, a + b / M in expectation."""
    return [shared + own / size for size in SIZES]


FALLING, STEEP = curve(0.5, 0.5), curve(0.1, 0.9)


def test_what_bears_the_claim_out() -> None:
    found = contrasts(made_up(FALLING, FALLING, held=0.7, independent=0.5))
    assert len(found) == 6 * len(ENVIRONMENTS)
    assert verdict_of(found) == "supported", "equal is unnecessary"
    expected = [math.log(1.1)] * 2 + [0.1] + [math.log(1.1 * 0.53125 / 0.5625)] * 2 + [0.2]
    assert [contrast.values[0] for contrast in found[:6]] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("results", "number"),
    [
        (made_up(FALLING, [0.8 * c for c in FALLING], held=0.7, independent=0.5), 0),
        (made_up(FALLING, FALLING, held=0.7, independent=0.7), 2),
        (made_up(FALLING, FALLING, held=0.7, independent=0.5, changed={"on": STEEP}), 3),
        (made_up(FALLING, FALLING, held=0.7, independent=0.5, changed={"off": STEEP}), 4),
        (made_up(FALLING, FALLING, held=0.93, independent=0.5), 5),
    ],
    ids=["resampling pays", "alike without it", "many are needed on the data", "and off them", "not crude"],
)
def test_what_refutes_it(results: Any, number: int) -> None:
    found = contrasts(results)
    assert [contrast.verdict for contrast in found].index("refuted") == number
    assert verdict_of(found) == "refuted"


def test_the_figure_is_in_units_of_one_network() -> None:
    chart = figure(made_up(FALLING, [2 * c for c in FALLING], held=0.7, independent=0.5))
    alone, drawn = chart.marks[:2]
    assert alone.y == pytest.approx(FALLING, rel=2e-3)  # type: ignore[union-attr]
    assert drawn.y == pytest.approx([2 * c for c in FALLING], rel=2e-3)  # type: ignore[union-attr]


def test_the_figure_says_how_alike_the_errors_are() -> None:
    note = figure(made_up(FALLING, FALLING, held=0.7, independent=0.87)).note
    for env in ENVIRONMENTS:
        assert f"{env}, initialisation alone 0.87" in note
        assert f"{env}, resampled 0.50" in note


def test_measuring_twice_gives_the_same_and_resampling_something_else(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "NUM_STEPS", (20, 20))
    monkeypatch.setattr(bootstrap, "NUM_FRESH", 3)
    alone, again, drawn = (
        measure(tmp_path, env="CartPoleSwingUp-v0", num_episodes=2, resample=resample, seed=3, quick=True)
        for resample in (False, False, True)
    )
    assert alone == again
    assert alone != drawn
    assert all(len(found["crps"]) == len(SIZES) for found in alone.values())
    assert alone["off"]["rms_error"] > alone["on"]["rms_error"]
    assert {arm["resample"] for arm in STUDY.arms.values()} == {True, False}
