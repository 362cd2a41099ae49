"""How well the ends of episodes are foreseen, where the model learns them. Axes: K parameter samples, N transitions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bayes_mbrl.analysis.charts import Chart, Table
from bayes_mbrl.analysis.events import event_scores, reliability_chart
from bayes_mbrl.data import Transitions
from bayes_mbrl.dynamics.base import Dynamics
from bayes_mbrl.inference.base import Theta
from bayes_mbrl.sections.calibration_rows import Rows

Part = tuple[list[str], list[Chart], list[Table]]
"""Words, charts and tables."""


def ends_foreseen(groups: Sequence[Rows], theta: Theta, dynamics: Dynamics, fitted: Transitions) -> Part:
    """Scores of P(terminated) against knowing only how often it happened in `fitted`, and its reliability."""
    if not dynamics.learns_termination:
        return [], [], []
    num_ends = int(fitted.terminated.sum())
    if num_ends == 0:
        return ["No transition that was learned from ended an episode, so this model imagines no end."], [], []
    base_rate = (num_ends + 1) / (len(fitted) + 2)  # Laplace's rule of succession: never 0 or 1
    cells, charts, text = [], [], []
    for rows in groups:
        each = _probability(theta, dynamics, rows.judged)
        probability, happened = each.mean(0).numpy(), rows.judged.terminated.numpy()
        scores = event_scores(probability, happened, base_rate=base_rate)
        cells.append(
            (
                rows.name, f"{scores.num_events} of {scores.num_data:,}", f"{scores.mean_at_events:.3f}",
                f"{scores.mean_elsewhere:.4f}", f"{float(each.std(0, correction=0).mean()):.4f}",
                f"{scores.log_score:.4f} ({scores.base_log_score:.4f})",
                f"{scores.brier:.4f} ({scores.base_brier:.4f})",
            )
        )  # fmt: skip
        charts.append(reliability_chart(probability, happened, title=f"Ends foreseen: {rows.name}"))
        better = scores.log_score > scores.base_log_score
        text.append(
            f"Ends of episodes, {rows.name}: the log score of the learned termination is {scores.log_score:.4f} nats a "
            f"transition, {'better' if better else 'no better'} than that of their share in the data it was learned "
            f"from, {scores.base_log_score:.4f} ({num_ends} of {len(fitted):,} ended)."
        )
    columns = (
        "data", "ended", "mean P where it ended", "mean P elsewhere", "sd of P over θ, mean",
        "log score (of the base rate)", "Brier score (of the base rate)",
    )  # fmt: skip
    return text, charts, [Table(columns, cells, "How well the ends of episodes are foreseen")]


def _probability(theta: Theta, dynamics: Dynamics, rows: Transitions) -> Tensor:
    """[K, N] in float64."""
    num_theta = len(next(iter(theta.values())))
    with torch.no_grad():
        return dynamics.termination_probability(theta, rows.state.expand(num_theta, -1, -1), rows.action).double()
