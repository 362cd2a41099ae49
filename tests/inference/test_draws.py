import pytest
import torch

from bayes_mbrl.inference.draws import DrawsPosterior


def members(num_draws: int) -> DrawsPosterior:
    """Draws that say which one they are, in two parameters."""
    number = torch.arange(num_draws, dtype=torch.float64)
    return DrawsPosterior({"a": number, "b": number[:, None] * torch.ones(3, dtype=torch.float64)})


@pytest.mark.parametrize(("n", "num_draws"), [(1, 5), (3, 5), (5, 5), (7, 5), (20, 5), (23, 5), (4, 1)])
def test_samples_are_balanced(n: int, num_draws: int, generator: torch.Generator) -> None:
    counts = members(num_draws).sample(n, generator=generator)["a"].long().bincount(minlength=num_draws)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= (n % num_draws > 0)
    assert counts.min() == n // num_draws


def test_parameters_of_one_draw_stay_together(generator: torch.Generator) -> None:
    theta = members(5).sample(13, generator=generator)
    assert torch.equal(theta["b"], theta["a"][:, None].expand(-1, 3))


def test_every_sample_is_uniform_over_the_draws(generator: torch.Generator) -> None:
    """The draw at each place of a sample of 7 from 5, over 2,000 repetitions: within 5 standard errors of 1/5."""
    repeats = 2000
    drawn = torch.stack([members(5).sample(7, generator=generator)["a"] for _ in range(repeats)])
    shares = torch.stack([(drawn == number).double().mean(0) for number in range(5)])
    assert (shares - 0.2).abs().max() < 5 * (0.2 * 0.8 / repeats) ** 0.5


@pytest.mark.parametrize(
    "draws",
    [{}, {"a": torch.zeros(0, 2)}, {"a": torch.zeros(3), "b": torch.zeros(2)}, {"a": torch.tensor(1.0)}],
    ids=["no parameters", "no draws", "unequal numbers", "no axis"],
)
def test_draws_must_be_equally_many(draws: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="need the same number of draws, at least one, of every parameter"):
        DrawsPosterior(draws)
