import pathlib
from collections.abc import Callable
from typing import Annotated, Literal

import pytest
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from bayes_mbrl.inference.base import (
    check_regression_data,
    check_settings,
    load_posterior,
    save_posterior,
    seeded_global_state,
    warm_start_as,
)
from bayes_mbrl.inference.draws import DrawsPosterior
from bayes_mbrl.inference.network import BayesianNetwork
from bayes_mbrl.inference.svi import MeanFieldPosterior

Problem = Callable[..., tuple[BayesianNetwork, Tensor, Tensor]]


@check_settings
def fit(
    data: int,
    *,
    rate: Annotated[float, Ge(0), Lt(1)] = 0.5,
    steps: Annotated[int, Gt(0)] = 1,
    way: Literal["this", "that"] = "this",
) -> int:
    """A fit."""
    return data + steps


def test_settings_within_bounds_pass() -> None:
    assert fit(1) == 2
    assert fit(1, rate=0.0, steps=4, way="that") == 5
    assert fit.__doc__ == "A fit."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.0}, "^need rate < 1, got 1.0$"),
        ({"rate": -0.1, "steps": 0}, "^need rate >= 0, got -0.1; need steps > 0, got 0$"),
        ({"rate": float("nan")}, "^need rate >= 0, got nan; need rate < 1, got nan$"),
        ({"way": "other"}, "^way is one of this, that, got 'other'$"),
    ],
)
def test_settings_out_of_bounds_are_all_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(1, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, 0], y), r"need x \[N, D\] and y \[N, O\], got \[23\] and \[23, 2\]"),
        (lambda x, y: (x, y[:-1]), "need as many rows in y as in x and at least one, got 23 and 22"),
        (lambda x, y: (x[:0], y[:0]), "at least one, got 0 and 0"),
        (
            lambda x, y: (x.index_fill(0, torch.tensor([6, 2]), torch.inf), y),
            "x has NaN or inf in 2 rows, first in row 2",
        ),
        (lambda x, y: (x, y.index_fill(0, torch.tensor(22), torch.nan)), "y has NaN or inf in 1 rows, first in row 22"),
        (lambda x, y: (x.float(), y), "need x and y in the model's torch.float64, got torch.float32 and torch.float64"),
        (lambda x, y: (x.to("meta"), y), "need x and y on the model's cpu, got meta and cpu"),
    ],
)
def test_bad_data_name_field_and_row(
    network_problem: Problem, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str
) -> None:
    model, x, y = network_problem()
    check_regression_data(model, x, y)
    with pytest.raises(ValueError, match=message):
        check_regression_data(model, *change(x, y))


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "posterior.safetensors"
    save_posterior(DrawsPosterior({"b": torch.arange(4.0), "a": torch.ones(4, 3)}), path)
    return path


def test_loaded_tensors_keep_their_order(saved: pathlib.Path) -> None:
    """The order of the parameters is the order of the draws: a file that sorts them would draw others."""
    assert list(load_posterior(saved, {"draws": DrawsPosterior}).tensors()) == ["b", "a"]


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_truncated_file_is_named(saved: pathlib.Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"posterior\.safetensors is not a complete safetensors file"):
        load_posterior(saved, {"draws": DrawsPosterior})


def test_an_unknown_kind_is_named(saved: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="holds a posterior of kind 'draws'; known kinds: mean-field"):
        load_posterior(saved, {"mean-field": MeanFieldPosterior})


def test_a_saved_posterior_is_no_pickle(saved: pathlib.Path) -> None:
    assert saved.read_bytes()[8:9] == b"{"


def test_warm_start_as_the_right_kind(network_problem: Problem, generator: torch.Generator) -> None:
    model, _, _ = network_problem()
    posterior = DrawsPosterior(model.initial(2, generator=generator))
    assert warm_start_as(DrawsPosterior, posterior, model) is posterior
    with pytest.raises(ValueError, match="need a MeanFieldPosterior as warm_start, got a DrawsPosterior"):
        warm_start_as(MeanFieldPosterior, posterior, model)
    less = DrawsPosterior({name: value for name, value in posterior.draws.items() if name != "bias_1"})
    with pytest.raises(ValueError, match="differ in the shapes of bias_1"):
        warm_start_as(DrawsPosterior, less, model)


def test_seeded_global_state_comes_from_the_generator_and_is_put_back() -> None:
    before = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with seeded_global_state(torch.Generator().manual_seed(seed)):
            drawn.append(torch.randn(3))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    with pytest.raises(KeyError), seeded_global_state(torch.Generator()):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
