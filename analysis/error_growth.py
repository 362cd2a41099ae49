"""How the error of imagined trajectories grows with the horizon, and by which law: e^(λ h) or h^b.

An error that each step multiplies grows exponentially, at the rate of a Lyapunov exponent; an error that each step
adds to grows as a power. Source of the power law: lecture, "the curse of long model-based rollouts", O(εT²); its bound
is of the sum over T steps (Ross & Bagnell, 2010, theorem 2.1): errors that grow as h^b add up to T^(b + 1), so the
lecture's have b = 1.
Axes: W windows, K parameter samples, M noise draws, H horizon, S state, B resamples. Arrays in: NumPy's or torch's;
out: tensors.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bayes_mbrl.analysis.arrays import as_floats, as_tensor
from bayes_mbrl.analysis.charts import BLACK, BLUE, GREY, ORANGE, VERMILLION, Band, Chart, Line, Mark, Rule

Law = Literal["exponential", "power"]
DIVERGED = 1e6
"""In standard deviations: a trajectory beyond it has diverged, be it finite or not."""
MIN_STEPS = 3
"""Steps that a law of two numbers is fitted to, at least."""
_EXACT = 1e-6
"""In log error: what the law misses by less is rounding."""


@dataclass(frozen=True)
class ErrorGrowth:
    """Errors after 1..H steps, in standard deviations; of trajectories that have not diverged by then."""

    mean_error: Tensor
    """[H] RMSE over windows and dimensions of the mean over [K, M]: of the model's best guess."""
    mean_standard_error: Tensor
    """[H] of it, by groups of windows; NaN when there is one group."""
    single_error: Tensor
    """[H] likewise the RMSE of single trajectories, each of them one possible future: their own noise counts."""
    single_standard_error: Tensor
    """[H]"""
    diverged: Tensor
    """[H] how many of the W·K·M trajectories have diverged by then."""
    num_trajectories: int
    """W·K·M."""
    squared_errors: Tensor
    """[W, H] of the mean, averaged over dimensions; NaN where all trajectories of a window have diverged."""
    groups: Tensor
    """[W] which windows belong together."""

    @property
    def num_sound_steps(self) -> int:
        """Steps before the first trajectory diverges; errors after these are of the survivors, so too small."""
        return int((self.diverged == 0).long().cumprod(0).sum())


@dataclass(frozen=True)
class GrowthFit:
    """error(h) = amplitude · e^(rate · h), or amplitude · h^rate, until step `last`; constant after it."""

    law: Law
    rate: float
    """Exponential: λ per step. Power: the exponent b."""
    rate_standard_error: float
    """Over resampled groups of windows; NaN when there is one group."""
    amplitude: float
    """Error at h = 0, or at h = 1 for a power."""
    last: int
    """The step at which the error saturates; H where it does not."""
    residual: float
    """Root mean square of log error − log fit: 0.1 is about 10 %."""

    def at(self, horizon: ArrayLike) -> Tensor:
        """The fitted error after `horizon` [...] steps."""
        steps = as_floats(horizon).double().clamp(max=self.last)
        return self.amplitude * (torch.exp(self.rate * steps) if self.law == "exponential" else steps**self.rate)


@dataclass(frozen=True)
class Growth:
    """Both laws, fitted to the same steps with as many free numbers, so that their residuals compare."""

    exponential: GrowthFit
    power: GrowthFit
    num_steps: int
    """1..num_steps were fitted."""
    exponential_share: float
    """Share of resampled groups of windows in which the exponential fits better; NaN when there is one group."""

    @property
    def better(self) -> GrowthFit:
        """The law with the smaller residual."""
        return self.power if self.power.residual < self.exponential.residual else self.exponential

    @property
    def verdict(self) -> str:
        """Both rates, which law fits better and how sure that is, and where the error saturates, in words."""
        return _verdict(self)


def error_growth(
    imagined: ArrayLike, real: ArrayLike, *, scale: ArrayLike | None = None, groups: ArrayLike | None = None
) -> ErrorGrowth:
    """Errors of imagined [K, M, W, H + 1, S] against real [W, H + 1, S] trajectories, which begin alike.

    scale [S]: what counts as 1 in each dimension, such as its std in the data; None: the std of `real` (1 where that
    is 0). groups [W]: windows that overlap or come from one episode are not independent; give them one number, and
    standard errors (and resamples) go by groups. None takes each window for itself, which is right only for windows
    that have nothing in common.
    A trajectory that is not finite, or beyond 10⁶ standard deviations, has diverged from that step on: it is counted
    and left out of the errors. Raises ValueError for shapes that do not match, and where `real` is not finite.
    """
    imagined, real = as_floats(imagined), as_floats(real)
    _check(imagined, real)
    num_theta, num_noise, num_windows, _, _ = imagined.shape
    labels = torch.arange(num_windows) if groups is None else torch.unique(as_tensor(groups), return_inverse=True)[1]
    if labels.shape != (num_windows,):
        raise ValueError(f"need groups [{num_windows}], one for each window, got shape {[*labels.shape]}")
    unit = _unit(real) if scale is None else as_floats(scale).detach().double()
    if unit.shape != real.shape[2:] or not bool((torch.isfinite(unit) & (unit > 0)).all()):
        raise ValueError(f"need scale [{real.shape[2]}] of finite positive numbers, got {unit.tolist()}")
    alive = torch.ones(num_theta, num_noise, num_windows, dtype=torch.bool)
    of_mean, of_single, diverged = [], [], []
    for h in range(1, real.shape[1]):  # one step at a time: a copy of everything in float64 might not fit
        error = (imagined[:, :, :, h].detach().double() - real[:, h].detach().double()) / unit
        alive = alive & (error.abs() <= DIVERGED).all(-1)  # NaN is not
        error = torch.where(alive[..., None], error, 0.0)
        count = alive.sum((0, 1)).double()  # [W]; 0 makes NaN
        of_mean.append((error.sum((0, 1)) / count[:, None]).square().mean(-1))
        of_single.append(error.square().mean(-1).sum((0, 1)) / count)
        diverged.append(alive.numel() - int(alive.sum()))
    squared, single = torch.stack(of_mean, 1), torch.stack(of_single, 1)
    return ErrorGrowth(
        *_root_mean(squared, labels),
        *_root_mean(single, labels),
        torch.tensor(diverged),
        alive.numel(),
        squared,
        labels,
    )


def fit_growth(errors: ErrorGrowth, *, num_resamples: int = 200, generator: torch.Generator) -> Growth | None:
    """Both laws fitted to log mean_error by least squares, over the steps before any trajectory diverges.

    An error cannot grow for ever: a last step, after which it is constant, is one of the fitted numbers where that
    fits clearly better (by the BIC). Standard errors come from `num_resamples` resamples of whole groups of windows.
    None where fewer than 3 steps are sound, or an error is 0: there is nothing to fit.
    """
    num_steps = errors.num_sound_steps
    log_error = torch.log(errors.mean_error[:num_steps])[None]
    if num_steps < MIN_STEPS or not bool(torch.isfinite(log_error).all()):
        return None
    resampled = _resampled(errors, num_steps, num_resamples, generator)
    fits, residuals = [], []
    for law in ("exponential", "power"):
        rate, amplitude, last, residual = _fit(log_error, law)
        again = _fit(resampled, law) if len(resampled) > 1 else None
        spread = math.nan if again is None else float(again[0].std())
        residuals.append(None if again is None else again[3])
        fits.append(GrowthFit(law, float(rate), spread, float(amplitude), int(last), float(residual)))
    share = math.nan
    if residuals[0] is not None and residuals[1] is not None:
        share = float((residuals[0] <= residuals[1]).double().mean())
    return Growth(fits[0], fits[1], num_steps, share)


def growth_chart(errors: ErrorGrowth, growth: Growth | None = None, *, title: str = "Error by horizon") -> Chart:
    """Error against horizon, on a logarithmic axis, with both laws if they are given."""
    steps = torch.arange(1, len(errors.mean_error) + 1)
    x = steps.double().numpy()
    positive = errors.mean_error[errors.mean_error > 0]
    floor = 1e-3 * float(positive.min()) if len(positive) else 1e-12  # a logarithmic axis has no 0
    marks: list[Mark] = []
    spread = 2 * errors.mean_standard_error
    if bool(torch.isfinite(spread).any()):
        low = (errors.mean_error - spread).clamp(min=floor)
        marks.append(Band(x, low.numpy(), (errors.mean_error + spread).numpy(), "± 2 standard errors", BLUE, 0.25))
    marks.append(Line(x, errors.single_error.clamp(min=floor).numpy(), "single trajectories", GREY))
    marks.append(Line(x, errors.mean_error.clamp(min=floor).numpy(), "mean prediction", BLACK))
    if growth is not None:
        fitted = steps[: growth.num_steps]
        for fit, color in ((growth.exponential, VERMILLION), (growth.power, ORANGE)):
            label = f"e^({fit.rate:.2g} h)" if fit.law == "exponential" else f"h^{fit.rate:.2g}"
            marks.append(Line(fitted.double().numpy(), fit.at(fitted).numpy(), label, color, dashed=True))
        if growth.better.last < growth.num_steps:
            marks.append(Rule(growth.better.last, vertical=True, label="saturates"))
    if errors.num_sound_steps < len(steps):
        marks.append(Rule(errors.num_sound_steps + 1, vertical=True, label="first diverges", color=VERMILLION))
    note = "RMSE in standard deviations of the states. On this axis exponential growth is a straight line."
    return Chart(title, "steps ahead", "error (standard deviations)", marks, note, log_y=True)


def grouped_mean(values: ArrayLike, groups: ArrayLike) -> tuple[Tensor, Tensor]:
    """(mean, its standard error) of values [W, ...] over W; rows of one group (groups [W]) may depend on each other.

    NaN is left out. The error is that of a ratio of sums over the G groups that have a value, with the factor
    G / (G − 1); NaN when G < 2.
    Source: Cameron & Miller, A Practitioner's Guide to Cluster-Robust Inference (2015), eq. 11, for a mean.
    """
    values, groups = as_floats(values), as_tensor(groups)
    if values.ndim == 0 or groups.shape != values.shape[:1]:
        raise ValueError(f"need values [W, ...] and groups [W], got shapes {[*values.shape]} and {[*groups.shape]}")
    present = ~torch.isnan(values)
    count = present.sum(0).double()
    mean = torch.where(present, values, 0.0).sum(0) / count
    deviation = torch.where(present, values - mean, 0.0)
    index = torch.unique(groups, return_inverse=True)[1]
    empty = deviation.new_zeros(int(index.max()) + 1 if len(index) else 0, *deviation.shape[1:])
    sums = empty.index_add(0, index, deviation)
    num_groups = (empty.index_add(0, index, present.to(empty)) > 0).sum(0)
    factor = torch.where(num_groups > 1, num_groups / (num_groups - 1), math.nan)
    return mean, (factor * sums.square().sum(0)).sqrt() / count


def _check(imagined: Tensor, real: Tensor) -> None:
    if imagined.ndim != 5 or real.ndim != 3 or imagined.shape[2:] != real.shape or 0 in imagined.shape:
        raise ValueError(
            "need imagined [K, M, W, H + 1, S] and real [W, H + 1, S], none of them 0, got shapes "
            f"{[*imagined.shape]} and {[*real.shape]}"
        )
    if real.shape[1] < 2:
        raise ValueError("need at least one step after the start, got H = 0")
    if bad := int((~torch.isfinite(real)).sum()):
        raise ValueError(f"real has {bad} of {real.numel()} numbers that are NaN or infinite: leave those windows out")


def _unit(real: Tensor) -> Tensor:
    """Std of each dimension over all windows and steps [S]; 1 where it never varies."""
    flat = real.detach().double().flatten(0, 1)
    std = flat.std(0, correction=0)
    return torch.where(std > 1e-12 * flat.abs().amax(0), std, 1.0)


def _root_mean(squares: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Root of the mean of squares [W, H] over W, and its standard error by the delta method: two of [H]."""
    mean, standard_error = grouped_mean(squares, groups)
    root = mean.sqrt()
    return root, torch.where(root > 0, standard_error / (2 * root), standard_error)


def _resampled(errors: ErrorGrowth, num_steps: int, num_resamples: int, generator: torch.Generator) -> Tensor:
    """Log RMSE [B, H] of the mean over groups of windows drawn with replacement; B = 0 where there is one group."""
    squares = errors.squared_errors[:, :num_steps]
    num_groups = int(errors.groups.max()) + 1
    if num_groups < 2:
        return squares[:0]
    sums = squares.new_zeros(num_groups, num_steps).index_add_(0, errors.groups, squares)
    sizes = torch.bincount(errors.groups).to(squares)
    drawn = torch.randint(num_groups, (num_resamples, num_groups), generator=generator)
    log_error = 0.5 * torch.log(sums[drawn].sum(1) / sizes[drawn].sum(1)[:, None])
    return log_error[torch.isfinite(log_error).all(1)]


def _fit(log_error: Tensor, law: Law) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(rate, amplitude, last step, residual), each [B], of log errors [B, H] at steps 1..H."""
    num_steps = log_error.shape[1]
    steps = torch.arange(1, num_steps + 1, dtype=torch.float64)
    candidates = list(range(min(MIN_STEPS, num_steps), num_steps + 1))
    rates, intercepts, misfits = [], [], []
    for last in candidates:
        x = steps.clamp(max=last)
        x = torch.log(x) if law == "power" else x
        centred = x - x.mean()
        rate = (log_error @ centred) / centred.square().sum()
        intercept = log_error.mean(1) - rate * x.mean()
        rates.append(rate)
        intercepts.append(intercept)
        misfits.append((log_error - intercept[:, None] - rate[:, None] * x).square().sum(1))
    rate, intercept, misfit = (torch.stack(values, 1) for values in (rates, intercepts, misfits))
    misfit = misfit + num_steps * _EXACT**2
    # BIC: one more number, the last step, must gain more than log(H) in −2 log likelihood.
    criterion = num_steps * torch.log(misfit) + math.log(num_steps) * (torch.tensor(candidates) < num_steps)
    best = criterion.argmin(1, keepdim=True)
    rate, intercept, misfit = (values.gather(1, best)[:, 0] for values in (rate, intercept, misfit))
    residual = (misfit / num_steps - _EXACT**2).clamp(min=0).sqrt()
    return rate, torch.exp(intercept), torch.tensor(candidates)[best[:, 0]], residual


def _verdict(growth: Growth) -> str:
    exponential, power = growth.exponential, growth.power

    def spread(fit: GrowthFit) -> str:
        error = fit.rate_standard_error if fit.rate_standard_error > 1e-6 * abs(fit.rate) else 0.0  # but for rounding
        return "" if math.isnan(fit.rate_standard_error) else f" ± {error:.1g}"

    def until(fit: GrowthFit) -> str:
        return f"until step {fit.last}, where it saturates" if fit.last < growth.num_steps else f"to step {fit.last}"

    first = f"error ∝ e^(λ h) with λ = {exponential.rate:.2g}{spread(exponential)} per step {until(exponential)}"
    if exponential.rate > 0:
        first += f" (it doubles in {math.log(2) / exponential.rate:.2g} steps)"
    second = f"error ∝ h^b with b = {power.rate:.2g}{spread(power)} {until(power)}"
    misses = f"the exponential misses by {exponential.residual:.1%} on average, the power law by {power.residual:.1%}"
    share = growth.exponential_share
    if math.isnan(share):
        sure = "one group of windows does not say how sure that is"
    else:
        chosen = share if growth.better is exponential else 1 - share
        sure = f"it fits better in {chosen:.0%} of the resamples"
        sure += ", so the two cannot be told apart here" if chosen < 0.9 else ""
    name = "an exponential" if growth.better is exponential else "a power law"
    return f"{first}; {second}. The better fit is {name} ({misses}); {sure}."
