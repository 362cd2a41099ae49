"""Networks that learn by gradient, with all that a checkpoint needs: for actor-critics, NAF and policies alike."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from bayes_mbrl.errors import UserError

MAX_SKIPPED_IN_A_ROW = 3


class ExplodingGradientError(UserError):
    """The gradient was not finite, or there was none, in several steps in a row."""


class GradientLearner:
    """Modules by name and an Adam optimiser for each group of them, changed in place.

    `tensors` and `load` are for checkpoints: a loaded learner goes on bit-equal.
    """

    def __init__(self) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.num_skipped_in_a_row: dict[str, int] = {}
        self._optimisers: dict[str, torch.optim.Adam] = {}
        self._max_norms: dict[str, float] = {}
        self._notes: list[str] = []

    def take_notes(self) -> list[str]:
        """A sentence for each step that was skipped since the last time."""
        notes, self._notes = self._notes, []
        return notes

    def optimise(
        self, name: str, parameters: Iterable[nn.Parameter], *, learning_rate: float, max_norm: float = math.inf
    ) -> None:
        """Let `descend(name, …)` move these parameters, by a gradient of at most `max_norm` in all."""
        self._optimisers[name] = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
        self._max_norms[name] = max_norm
        self.num_skipped_in_a_row[name] = 0

    def set_learning_rate(self, name: str, rate: float) -> None:
        """Of `descend(name, …)` from now on. It is no part of `tensors`."""
        for group in self._optimisers[name].param_groups:
            group["lr"] = rate

    def descend(self, name: str, loss: Tensor) -> Tensor:
        """One step against the gradient of `loss`; returns the gradient's norm before it was clipped.

        A gradient that is not finite moves nothing. Raises ExplodingGradientError at the third of these in a row.
        """
        optimiser = self._optimisers[name]
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self._max_norms[name])
        if math.isfinite(float(norm)):
            self.num_skipped_in_a_row[name] = 0
            optimiser.step()
            return norm
        self.skip(
            name,
            f"the gradient of the {name} has norm {float(norm)}",
            "shorten the imagined horizon, lower the learning rate or max_gradient_norm, or look for extreme rewards",
        )
        return norm

    def skip(self, name: str, why: str, advice: str) -> None:
        """Take note that a step of `descend(name, …)` is left out.

        Raises ExplodingGradientError at the third in a row.
        """
        self.num_skipped_in_a_row[name] += 1
        self._notes.append(f"{why}: this step of learning is skipped")
        if self.num_skipped_in_a_row[name] >= MAX_SKIPPED_IN_A_ROW:
            raise ExplodingGradientError(
                f"{why} in {MAX_SKIPPED_IN_A_ROW} steps in a row, which were skipped: {advice}"
            )

    @torch.no_grad()
    def follow(self, slow: str, fast: str, rate: float) -> None:
        """Move the parameters of the module `slow` by this share of their way to those of `fast`."""
        followers: list[Tensor] = list(self.modules[slow].parameters())
        leaders: list[Tensor] = list(self.modules[fast].parameters())
        torch._foreach_lerp_(followers, leaders, rate)

    def tensors(self) -> dict[str, Tensor]:
        """All that defines the learner, by flat names."""
        parts = {
            f"{part}/{name}": value
            for part, module in self.modules.items()
            for name, value in module.state_dict().items()
        }
        for name, optimiser in self._optimisers.items():
            for index, moments in optimiser.state_dict()["state"].items():
                parts |= {f"optimiser/{name}/{index}/{key}": value for key, value in moments.items()}
        skipped = {f"skipped/{name}": torch.tensor(count) for name, count in self.num_skipped_in_a_row.items()}
        return {name: value.detach().clone() for name, value in (parts | skipped).items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`. Raises RuntimeError where they are of another architecture."""
        for part, module in self.modules.items():
            module.load_state_dict(_below(tensors, part))
        for name, optimiser in self._optimisers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(tensors, f"optimiser/{name}").items():
                index, moment = key.split("/")
                state.setdefault(int(index), {})[moment] = value.clone()
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
            self.num_skipped_in_a_row[name] = int(tensors[f"skipped/{name}"])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): value for name, value in tensors.items() if name.startswith(f"{prefix}/")}
