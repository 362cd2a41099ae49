"""NumPy's arrays give what torch's tensors give, bit for bit; gradients flow where a tensor asks for them."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

from bayes_mbrl.analysis import entropy, error_growth, shift, uncertainty
from bayes_mbrl.analysis.arrays import as_array, as_floats, as_tensor
from bayes_mbrl.analysis.calibration import coverage, coverage_chart, horizon_chart, pit_of_draws, sharpness
from bayes_mbrl.analysis.scores import crps_of_draws, energy_score, interval_score, joint_log_loss


def _numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _leaves(found: Any) -> list[Any]:
    if is_dataclass(found):
        return [leaf for field in fields(found) for leaf in _leaves(getattr(found, field.name))]
    return [leaf for part in found for leaf in _leaves(part)] if isinstance(found, tuple | list) else [found]


MEAN, STD, MORE = _numbers(4, 5, 3), np.exp(_numbers(4, 5, 3, seed=1)), _numbers(30, 3, seed=2)
GROUPS = np.arange(20) // 4
TENSORS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...], dict[str, Any]]] = {
    "split_predictive_variance": (uncertainty.split_predictive_variance, (MEAN, STD), {}),
    "split_predictive_covariance": (uncertainty.split_predictive_covariance, (MEAN, STD), {}),
    "split_return_variance": (uncertainty.split_return_variance, (MEAN,), {}),
    "mixture_log_likelihood": (uncertainty.mixture_log_likelihood, (MEAN[0],), {}),
    "split_predictive_entropy": (
        lambda mean, std: entropy.split_predictive_entropy(mean, std, generator=_generator()),
        (MEAN, STD),
        {},
    ),
    "split_entropy": (entropy.split_entropy, (_numbers(4, 4, 6, 2),), {}),
    "energy_distance": (shift.energy_distance, (MORE[:20], MORE + 1), {}),
    "squared_mmd": (shift.squared_mmd, (MORE[:20], MORE + 1), {}),
    "shift_test": (
        lambda x, y, **groups: shift.shift_test(x, y, num_permutations=50, generator=_generator(), **groups),
        (MORE[:20], MORE[:20] + 1),
        {"groups_x": GROUPS, "groups_y": GROUPS},
    ),
    "marginal_chart": (
        lambda x, y: [mark.heights for mark in shift.marginal_chart(x, y, name="z", labels=("a", "b")).marks],  # type: ignore[union-attr]
        (MORE[:, 0], MORE[:20, 1]),
        {},
    ),
    "error_growth": (
        error_growth.error_growth,
        (_numbers(2, 3, 20, 5, 2), _numbers(20, 5, 2)),
        {"groups": GROUPS, "scale": np.array([1.0, 2.0])},
    ),
    "grouped_mean": (error_growth.grouped_mean, (_numbers(20, 3), GROUPS), {}),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numpy_in_gives_what_torch_gives(name: str, dtype: type) -> None:
    function, arrays, more = TENSORS[name]

    def called(convert: Callable[[np.ndarray], Any]) -> list[Any]:
        given = [a.astype(dtype) if a.dtype == np.float64 else a for a in arrays]
        return _leaves(function(*map(convert, given), **{key: convert(value) for key, value in more.items()}))

    def read_only(array: np.ndarray) -> np.ndarray:
        frozen = array.copy()
        frozen.flags.writeable = False
        return frozen

    expected = called(torch.from_numpy)
    assert any(isinstance(leaf, torch.Tensor | np.ndarray | float) for leaf in expected)
    for convert in (read_only, lambda array: array[::-1].copy()[::-1]):  # the latter of a negative stride
        for got, wanted in zip(called(convert), expected, strict=True):
            assert type(got) is type(wanted)
            if isinstance(got, torch.Tensor | np.ndarray):
                assert got.dtype == wanted.dtype
                np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
            else:
                assert got == wanted


@pytest.mark.parametrize("name", ["split_predictive_variance", "split_predictive_covariance", "split_return_variance"])
def test_gradients_flow_through_a_split(name: str) -> None:
    function, arrays, _ = TENSORS[name]
    given = [torch.tensor(a).requires_grad_() for a in arrays]
    function(*given).total.sum().backward()
    for values in given:
        assert values.grad is not None
        assert bool((values.grad != 0).any())


def test_the_gradient_of_a_predictive_score() -> None:
    given = torch.tensor(MEAN[0]).requires_grad_()
    uncertainty.mixture_log_likelihood(given).sum().backward()
    torch.testing.assert_close(given.grad, torch.softmax(given.detach(), 0))


def test_tensors_with_gradients_are_read_where_numpy_works() -> None:
    """As numbers: no gradient comes out of these."""
    rows, draws = torch.rand(20, 2, dtype=torch.float64, generator=_generator()), torch.tensor(_numbers(6, 20, 2))
    functions: list[tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = [
        (coverage, (rows,)),
        (sharpness, (rows,)),
        (crps_of_draws, (draws, rows)),
        (energy_score, (draws, rows)),
        (lambda low, high: interval_score(low, high, rows.numpy(), level=0.9), (rows - 1, rows + 1)),
        (lambda d, y: pit_of_draws(d, y, generator=_generator()), (draws, rows)),
        (lambda v: joint_log_loss(v, batch_size=2, num_batches=3, generator=_generator()), (rows,)),
        (lambda v: coverage_chart({"a": v}, title="t").marks[1].y, (rows,)),  # type: ignore[union-attr]
        (lambda v: horizon_chart({"a": v}, y_label="held", title="t", note="").marks[0].y, (rows[:, 0],)),  # type: ignore[union-attr]
    ]
    for function, given in functions:
        got = function(*(values.clone().requires_grad_() for values in given))
        np.testing.assert_array_equal(got, function(*(values.numpy() for values in given)))
        assert got.dtype == np.float64


def test_conversions() -> None:
    tensor = torch.ones(2, 3, requires_grad=True)
    assert as_tensor(tensor) is tensor
    assert as_floats(tensor) is tensor
    assert as_array(tensor).tolist() == [[1.0] * 3] * 2
    assert as_array(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float64
    whole = np.arange(6).reshape(2, 3)
    assert as_tensor(whole).dtype == torch.int64
    assert as_floats(whole).dtype == as_floats(torch.tensor([True])).dtype == torch.float64
    assert as_tensor(whole).data_ptr() == whole.ctypes.data  # not copied
    swapped = _numbers(3).astype(">f8")  # as files hold them
    assert as_tensor(swapped).tolist() == swapped.tolist()
    assert as_tensor(np.float64(2.5)).shape == ()
    with pytest.raises(TypeError):
        as_tensor(np.array(["a"]))
