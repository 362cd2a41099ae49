"""Exploding gradients: skipped, counted, and fatal at the third in a row; clipping; counts survive a checkpoint."""

import pytest
import torch
from torch import nn

from bayes_mbrl.algorithms.gradient_learner import ExplodingGradientError, GradientLearner


def learner(max_norm: float = float("inf")) -> GradientLearner:
    made = GradientLearner()
    module = nn.ParameterDict({"weight": nn.Parameter(torch.full((1, 1), 2.0))})
    made.modules = {"policy": module}
    made.optimise("policy", module.parameters(), learning_rate=0.1, max_norm=max_norm)
    return made


def weight(made: GradientLearner) -> torch.Tensor:
    return next(made.modules["policy"].parameters())


def test_a_gradient_that_is_not_finite_moves_nothing_and_the_third_in_a_row_stops() -> None:
    made = learner()
    bad = [lambda: weight(made).sum() * float("inf"), lambda: weight(made).sum() * float("nan")]
    for loss in bad:
        assert not torch.isfinite(made.descend("policy", loss()))
        assert float(weight(made).detach()) == 2.0
    made.descend("policy", weight(made).sum())  # a sound one in between
    assert float(weight(made).detach()) < 2.0
    for loss in bad:
        made.descend("policy", loss())
    other = learner()
    other.load(made.tensors())  # the count is kept
    for one in (made, other):
        with pytest.raises(ExplodingGradientError, match=r"the gradient of the policy has norm .* in 3 steps in a row"):
            one.descend("policy", weight(one).sum() * float("inf"))


def test_the_norm_is_told_as_it_was_before_clipping() -> None:
    clipped, plain = learner(max_norm=0.5), learner()
    assert float(clipped.descend("policy", 30 * weight(clipped).sum())) == 30.0
    plain.descend("policy", 30 * weight(plain).sum())
    moments = clipped.tensors()["optimiser/policy/0/exp_avg"], plain.tensors()["optimiser/policy/0/exp_avg"]
    assert float(moments[0]) == pytest.approx(0.05, rel=1e-4)
    assert float(moments[1]) == pytest.approx(3.0)
