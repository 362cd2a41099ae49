"""Entropies against closed forms and SciPy's quadrature; the toys of Depeweg et al. (2018)."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

from bayes_mbrl.analysis import entropy
from bayes_mbrl.analysis.entropy import EntropySplit, LocationScale, split_entropy, split_predictive_entropy
from bayes_mbrl.inference import ensemble, exact_linear
from bayes_mbrl.inference.likelihoods import NORMAL, StudentTLikelihood
from bayes_mbrl.inference.network import BayesianNetwork

NORMAL_ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


def tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def mixture_entropy(components: list[scipy.stats.rv_continuous], low: float, high: float) -> float:
    """−∫ p log p of an equally weighted mixture, by adaptive quadrature."""

    def integrand(y: float) -> float:
        density = float(np.mean([c.pdf(y) for c in components]))
        return -density * math.log(density) if density > 0 else 0.0

    points = sorted(float(c.mean()) for c in components)
    return float(scipy.integrate.quad(integrand, low, high, points=points, limit=400)[0])


def assert_within_5_standard_errors(estimate: Tensor, error: Tensor, truth: Tensor | float) -> None:
    assert bool(((estimate - truth).abs() < 5 * error + 1e-9).all()), (estimate, error, truth)


@pytest.mark.parametrize(
    ("likelihood", "component"),
    [
        (NORMAL, scipy.stats.norm),
        (StudentTLikelihood(5.0), lambda m, s: scipy.stats.t(5.0, loc=m, scale=s * math.sqrt(3 / 5))),
    ],
    ids=["normal", "student-t"],
)
def test_entropies_of_a_mixture_are_those_of_quadrature(
    likelihood: LocationScale, component: object, generator: torch.Generator
) -> None:
    means, stds = (0.3, 2.0, 7.5), (0.5, 1.4, 0.8)
    components = [component(m, s) for m, s in zip(means, stds, strict=True)]  # type: ignore[operator]
    both = split_predictive_entropy(  # the second dimension says nothing about θ
        torch.stack([tensor(means), tensor([4.0] * 3)], -1),
        torch.stack([tensor(stds), tensor([0.1] * 3)], -1),
        likelihood=likelihood, num_draws=4_000, generator=generator,
    )  # fmt: skip
    split = both.per_dimension
    total = mixture_entropy(components, -60, 60)
    conditional = float(np.mean([c.entropy() for c in components]))
    idle = float(component(4.0, 0.1).entropy())  # type: ignore[operator]
    torch.testing.assert_close(split.conditional, tensor([conditional, idle]), atol=1e-6, rtol=0)
    assert float(both.joint.conditional) == pytest.approx(conditional + idle, abs=1e-6)
    assert_within_5_standard_errors(split.total, split.total_error, tensor([total, idle]))
    assert_within_5_standard_errors(both.joint.total, both.joint.total_error, total + idle)
    truth = tensor([total - conditional, 0.0])
    assert_within_5_standard_errors(split.mutual_information, split.mutual_information_error, truth)
    assert 0 < float(both.joint.total_error) < 0.01


def test_standard_errors_are_those_of_repetitions(generator: torch.Generator) -> None:
    mean, std = tensor([[0.0, 1.0], [0.5, 4.0], [40.0, 4.5]]), tensor([[1.0, 2.0], [0.5, 1.0], [2.0, 3.0]])
    repeated = split_predictive_entropy(
        mean[:, None].expand(3, 4_000, 2), std[:, None].expand(3, 4_000, 2), num_draws=5, generator=generator
    )
    for split in (repeated.per_dimension, repeated.joint):
        assert split.mutual_information.shape == split.total_error.shape
        spread = split.mutual_information.std(0)
        claimed = split.mutual_information_error.square().mean(0).sqrt()
        torch.testing.assert_close(claimed, spread, rtol=0.08, atol=0)
        assert len(split.mutual_information.unique()) > 1_000  # every datum has draws of its own


def test_linear_regression_has_the_closed_form_information(generator: torch.Generator) -> None:
    """I = ½ log(1 + xᵀ S x / σ²) in each output; their weights are independent, so the joint one is the sum."""
    noise_std = 0.3
    model = BayesianNetwork(2, 3, hidden=(), noise="fixed", noise_std=noise_std, dtype=torch.float64)
    x = torch.randn(12, 2, dtype=torch.float64, generator=generator) * tensor([1.0, 0.2])
    y = x @ tensor([[1.0, -0.4, 0.1], [0.5, 2.0, 1.0]]) + noise_std * torch.randn(
        12, 3, dtype=torch.float64, generator=generator
    )
    posterior, _ = exact_linear.fit(model, x, y, generator=generator)
    where = tensor([[0.0, 0.0], [3.0, 0.1], [-1.0, 2.0]])
    features = torch.cat([where, torch.ones(3, 1)], 1)
    variance = ((features @ posterior.factor) ** 2).sum(1)
    truth = 0.5 * torch.log1p(variance / noise_std**2)

    mean, std = model.predict(posterior.sample(600, generator=generator), where)
    split = split_predictive_entropy(mean, std, num_draws=4, generator=generator)
    scatter = 5 * 0.5 * math.sqrt(2 / 600)  # of ½ log of a variance of 600 draws
    assert bool((split.per_dimension.mutual_information - truth[:, None]).abs().max() < scatter)
    conditional = tensor(3 * (NORMAL_ENTROPY + math.log(noise_std)))
    torch.testing.assert_close(split.joint.conditional, conditional.expand(3))
    # The total is that of N(mean, σ² + xᵀ S x).
    total = NORMAL_ENTROPY + 0.5 * torch.log(noise_std**2 + variance)
    assert bool((split.per_dimension.total - total[:, None]).abs().max() < scatter)
    assert bool((split.joint.mutual_information < 3 * truth + 3 * scatter).all())
    assert bool((split.joint.upper > 3 * truth - 3 * scatter).all())
    assert bool((truth[1:] > truth[0] + 0.15).all())  # rises off the data


def test_finite_samples_are_bracketed_and_the_bracket_closes(generator: torch.Generator) -> None:
    """Means ~ N(0, Σ), correlated: joint I = ½ log |I + Σ / σ²|, less than the sum over dimensions."""
    covariance, std = tensor([[4.0, 1.8], [1.8, 1.0]]), tensor([1.0, 0.5])
    factor = torch.linalg.cholesky(covariance)
    joint = 0.5 * torch.linalg.slogdet(torch.eye(2) + covariance / torch.outer(std, std))[1]
    each = 0.5 * torch.log1p(covariance.diagonal() / std**2)
    assert float(joint) < float(each.sum()) - 0.2
    gaps = []
    for num_theta in (5, 20, 80):
        mean = torch.randn(num_theta, 1_000, 2, dtype=torch.float64, generator=generator) @ factor.T
        split = split_predictive_entropy(mean, std.expand_as(mean), num_draws=2, generator=generator)
        for part, truth in ((split.per_dimension, each), (split.joint, joint)):
            for bound, sign in ((part.mutual_information, 1), (part.upper, -1)):
                standard_error = bound.std(0) / math.sqrt(1_000)
                assert bool((sign * (truth - bound.mean(0)) > -5 * standard_error).all())
        gaps.append(float((split.joint.upper - split.joint.mutual_information).mean()))
    assert gaps[2] < 0.1 < 0.3 < gaps[0]
    assert gaps[0] > gaps[1] > gaps[2]


def test_information_is_at_most_log_k_and_zero_for_one_sample(generator: torch.Generator) -> None:
    far = tensor([[-1e6], [0.0], [1e6], [3e6]])
    split = split_predictive_entropy(far, torch.full_like(far, 2.0), num_draws=3, generator=generator)
    assert split.per_dimension.mutual_information.item() == pytest.approx(math.log(4))
    assert split.joint.upper.item() > 1e6
    one = split_predictive_entropy(far[:1], torch.full_like(far[:1], 2.0), generator=generator).joint
    assert (one.mutual_information.item(), one.mutual_information_error.item()) == (0.0, 0.0)
    assert one.upper.item() == math.inf
    assert one.total.item() == pytest.approx(NORMAL_ENTROPY + math.log(2))
    alike = split_predictive_entropy(far[:1].expand(6, 1), torch.ones(6, 1).double(), generator=generator).joint
    assert alike.mutual_information.item() == pytest.approx(0, abs=1e-12)
    assert alike.upper.item() == pytest.approx(0, abs=1e-12)


def test_units_shift_entropies_and_leave_the_information(generator: torch.Generator) -> None:
    mean = torch.randn(7, 3, 2, dtype=torch.float64, generator=generator)
    std = 0.5 + torch.rand(7, 3, 2, dtype=torch.float64, generator=generator)
    one, other = (
        split_predictive_entropy(unit * mean, unit * std, generator=torch.Generator().manual_seed(4)).joint
        for unit in (1.0, 100.0)
    )
    torch.testing.assert_close(other.mutual_information, one.mutual_information)
    torch.testing.assert_close(other.total, one.total + 2 * math.log(100))


def test_same_generator_same_numbers_whatever_the_dtype_and_strides(generator: torch.Generator) -> None:
    mean = torch.randn(2, 5, 6, generator=generator).permute(2, 1, 0)  # K = 6, N = 5, S = 2, not contiguous
    std = torch.rand(6, 5, 2, generator=generator) + 0.1
    one, two = (split_predictive_entropy(mean, std, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one.joint.total, two.joint.total)
    assert one.joint.total.dtype == torch.float32
    double = split_predictive_entropy(mean.double(), std.double(), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(one.per_dimension.total, double.per_dimension.total.float())


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_any_shape_between_samples_and_dimensions(shape: tuple[int, ...], generator: torch.Generator) -> None:
    mean = torch.randn(3, *shape, 2, dtype=torch.float64, generator=generator)
    split = split_predictive_entropy(mean, torch.ones_like(mean), num_draws=300, generator=generator)
    assert split.per_dimension.total.shape == (*shape, 2)
    assert split.joint.upper.shape == split.joint.total_error.shape == shape
    if shape == (2, 3):
        alone = split_predictive_entropy(mean[:, 1, 2], torch.ones(3, 2).double(), num_draws=300, generator=generator)
        error = 2**0.5 * split.joint.total_error[1, 2]
        assert_within_5_standard_errors(alone.joint.total, error, split.joint.total[1, 2])


def test_blocks_of_memory_do_not_change_what_is_estimated(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    mean = 2 * torch.randn(7, 3, 2, dtype=torch.float64, generator=generator)
    std = torch.ones_like(mean)
    whole = split_predictive_entropy(mean, std, num_draws=2_000, generator=generator).joint
    monkeypatch.setattr(entropy, "LARGEST_BLOCK", 7 * 2_000 * 2 * 3)  # three components of one datum at a time
    parts = split_predictive_entropy(mean, std, num_draws=2_000, generator=generator).joint
    error = (whole.mutual_information_error**2 + parts.mutual_information_error**2).sqrt()
    assert_within_5_standard_errors(parts.mutual_information, error, whole.mutual_information)
    assert_within_5_standard_errors(parts.upper, 3 * error, whole.upper)


def test_the_general_form_agrees_with_the_exact_one(generator: torch.Generator) -> None:
    mean, std = tensor([0.3, 2.0, 7.5]), tensor([0.5, 1.4, 0.8])
    y = mean[:, None] + std[:, None] * torch.randn(3, 5_000, dtype=torch.float64, generator=generator)
    split = split_entropy(NORMAL.log_density(y, mean[:, None, None], std[:, None, None]))
    components = [scipy.stats.norm(m, s) for m, s in zip(mean.tolist(), std.tolist(), strict=True)]
    total = mixture_entropy(components, -20, 30)
    conditional = float(np.mean([c.entropy() for c in components]))
    assert_within_5_standard_errors(split.total, split.total_error, total)
    assert_within_5_standard_errors(split.conditional, split.conditional_error, conditional)
    assert_within_5_standard_errors(split.mutual_information, split.mutual_information_error, total - conditional)
    assert 0 < float(split.conditional_error) < 0.02


def bimodal(x: Tensor, shift: Tensor, generator: torch.Generator) -> EntropySplit:
    """Each θ_k: y = 10 cos x or 10 sin x, by even chance, + shift_k + ε, ε ~ N(0, 1). x [N], shift [K] → [N]."""
    modes = 10 * torch.stack([x.cos(), x.sin()])[None] + shift[:, None, None]  # [K, 2, N]
    shape = (len(shift), 400, len(x))
    choice = torch.rand(shape, generator=generator, dtype=torch.float64) < 0.5
    y = torch.where(choice, modes[:, None, 0], modes[:, None, 1])
    y = y + torch.randn(shape, generator=generator, dtype=torch.float64)
    log_density = NORMAL.log_density(y, modes[:, :, None, None], tensor(1.0))  # [K, 2, K, M, N]
    return split_entropy(torch.logsumexp(log_density, 1) - math.log(2))


def test_bimodal_toy_noise_of_two_modes_is_no_ignorance(generator: torch.Generator) -> None:
    """Depeweg et al. (2018), the truth for a model: where the modes part, the noise has log 2 nats more."""
    x = tensor([math.pi / 4, -math.pi / 4, 0.3, 3 * math.pi / 4])  # the modes cross at the first
    split = bimodal(x, torch.zeros(5, dtype=torch.float64), generator)
    assert_within_5_standard_errors(split.conditional[0], split.conditional_error[0], NORMAL_ENTROPY)
    apart = split.conditional[[1, 3]] - NORMAL_ENTROPY - math.log(2)
    assert bool((apart.abs() < 5 * split.conditional_error[[1, 3]]).all())
    torch.testing.assert_close(split.mutual_information, torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
    # The same two curves as two samples of θ: now the log 2 is ignorance.
    curves = 10 * torch.stack([x.cos(), x.sin()])[..., None]
    two = split_predictive_entropy(curves, torch.ones_like(curves), num_draws=400, generator=generator).joint
    assert float(two.mutual_information[0]) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(two.mutual_information[[1, 3]], tensor([math.log(2)] * 2))
    torch.testing.assert_close(two.conditional, tensor([NORMAL_ENTROPY] * 4))
    torch.testing.assert_close(two.total[1], split.total[1], atol=5 * float(split.total_error[1]), rtol=0)


def test_bimodal_toy_ignorance_of_the_curves_is_seen_beside_the_modes(generator: torch.Generator) -> None:
    x = tensor([math.pi / 4, -math.pi / 4])
    split = bimodal(x, tensor([-300.0, 0.0, 300.0]), generator)
    torch.testing.assert_close(split.mutual_information, tensor([math.log(3)] * 2))
    assert_within_5_standard_errors(
        split.conditional, split.conditional_error, tensor([0.0, math.log(2)]) + NORMAL_ENTROPY
    )


@pytest.mark.slow
def test_heteroscedastic_toy_of_depeweg(generator: torch.Generator) -> None:
    """y = 7 sin x + 3 |cos(x / 2)| ε, x from three clusters: ignorance is high between and beyond them, noise follows
    the truth where there are data. Depeweg et al. (2018); an ensemble in place of their network.
    """
    number = 750
    cluster = torch.randint(3, (number,), generator=generator)
    centre, width = tensor([-4.0, 0.0, 4.0])[cluster], tensor([0.4, 0.9, 0.4])[cluster]
    x = (centre + width * torch.randn(number, generator=generator, dtype=torch.float64))[:, None]
    truth_std = 3 * (x / 2).cos().abs()
    y = 7 * x.sin() + truth_std * torch.randn(number, 1, generator=generator, dtype=torch.float64)
    x_scale, y_scale = x.std(), y.std()
    model = BayesianNetwork(1, 1, hidden=(50,), noise="heteroscedastic", min_std=0.01, dtype=torch.float64)
    posterior, _ = ensemble.fit(
        model, x / x_scale, y / y_scale, generator=generator, num_members=10, num_steps=1_500, batch_size=256
    )
    where = torch.linspace(-8, 8, 161, dtype=torch.float64)[:, None]
    mean, std = model.predict(posterior.sample(10, generator=generator), where / x_scale)
    split = split_predictive_entropy(mean, std, num_draws=50, generator=generator).joint
    place = where.flatten()
    clusters = torch.zeros_like(place, dtype=torch.bool)
    for middle, reach in ((-4.0, 0.4), (0.0, 0.9), (4.0, 0.4)):
        clusters |= (place - middle).abs() < reach
    information = split.mutual_information
    outside = place.abs() > 6.5
    assert float(information[clusters].median()) < 0.2
    assert float(information[outside].median()) > 4 * float(information[clusters].median())
    between = (place.abs() > 2.6) & (place.abs() < 3.0)
    assert float(information[between].mean()) > 1.5 * float(information[clusters].mean())
    learned = torch.exp(split.conditional[clusters] - NORMAL_ENTROPY) * y_scale
    truth = 3 * (place[clusters] / 2).cos().abs()
    assert float(torch.corrcoef(torch.stack([learned, truth]))[0, 1]) > 0.9


def test_wrong_input_is_named(generator: torch.Generator) -> None:
    good = torch.ones(3, 4, 2)
    bad = good.clone()
    bad[0, 1] = math.nan
    with pytest.raises(ValueError, match="mean has NaN or inf in 2 of 24"):
        split_predictive_entropy(bad, good, generator=generator)
    with pytest.raises(ValueError, match="std has NaN or inf in 2 of 24"):
        split_predictive_entropy(good, bad, generator=generator)
    with pytest.raises(ValueError, match=r"need std > 0, got 24 of 24"):
        split_predictive_entropy(good, 0 * good, generator=generator)
    with pytest.raises(ValueError, match=r"one shape \[K, ..., S\]"):
        split_predictive_entropy(good, good[:1], generator=generator)
    with pytest.raises(ValueError, match=r"none of them 0, got \[3, 0, 2\]"):
        split_predictive_entropy(good[:, :0], good[:, :0], generator=generator)
    with pytest.raises(ValueError, match="at least 2 draws"):
        split_predictive_entropy(good, good, num_draws=1, generator=generator)
    with pytest.raises(ValueError, match=r"need log_density \[K, K, M, ...\]"):
        split_entropy(torch.zeros(3, 2, 5))
    with pytest.raises(ValueError, match="at least 2 draws"):
        split_entropy(torch.zeros(3, 3, 1))
    with pytest.raises(ValueError, match="NaN or \\+inf in 1 of 18"):
        split_entropy(
            torch.zeros(3, 3, 2).index_put(
                (torch.tensor(0), torch.tensor(1), torch.tensor(1)), tensor(math.nan).float()
            )
        )
