import pytest
import torch

from bayes_mbrl.dynamics.standardise import Standardiser


def test_mean_zero_and_std_one_whatever_the_scale(generator: torch.Generator) -> None:
    values = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    values = values * torch.tensor([1e-9, 1.0, 1e7]) + torch.tensor([0.0, -5.0, 1e8])
    z = Standardiser.fitted(values)(values)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3, dtype=torch.float64))


def test_by_hand() -> None:
    standardiser = Standardiser.fitted(torch.tensor([[1.0], [2.0], [6.0]]))
    assert standardiser.mean.item() == 3
    assert standardiser.std.item() == pytest.approx((14 / 3) ** 0.5)
    assert standardiser(torch.tensor([[3.0], [10.0]])).flatten().tolist() == pytest.approx([0, 7 / (14 / 3) ** 0.5])


@pytest.mark.parametrize("constant", [0.0, 1.0, -1e8, 1e-30])
def test_a_constant_dimension_keeps_its_unit(constant: float) -> None:
    values = torch.full((50, 1), constant)
    standardiser = Standardiser.fitted(values)
    assert standardiser.std.item() == 1
    assert standardiser(values).abs().max() <= 1e-6 * abs(constant)
    assert (standardiser(values + 7) - standardiser(values)).max() == (values + 7 - values).max()


def test_rounding_error_on_a_large_offset_is_not_blown_up(generator: torch.Generator) -> None:
    """float32 resolves 1e6 to a sixteenth: what moves by that much is constant."""
    values = 1e6 + 0.05 * torch.randn(100, 1, generator=generator)
    assert 0 < values.std() < 0.2
    standardiser = Standardiser.fitted(values)
    assert standardiser.std.item() == 1
    assert standardiser(values).abs().max() < 1


def test_a_small_motion_around_a_moderate_offset_is_kept(generator: torch.Generator) -> None:
    values = 100 + 1e-2 * torch.randn(1000, 1, generator=generator)
    assert Standardiser.fitted(values).std.item() == pytest.approx(1e-2, rel=0.1)


def test_a_single_row_is_constant() -> None:
    values = torch.tensor([[3.0, -2.0]])
    assert torch.equal(Standardiser.fitted(values)(values), torch.zeros(1, 2))
