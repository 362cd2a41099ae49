"""Where plans are evaluated: the CPU, or another device that PyTorch finds on this machine."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from bayes_mbrl.algorithms.base import Agent
from bayes_mbrl.errors import UserError


def available() -> list[str]:
    """Names of the devices that exist here."""
    names = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return names + ["mps"] * torch.backends.mps.is_available()


def find_device(name: str) -> torch.device:
    """The device called `name`; "cuda" is the first of its kind. Raises UserError naming those that exist."""
    here = available()
    known = {
        **{other: other for other in reversed(here)},
        **{other.partition(":")[0]: other for other in reversed(here)},
    }
    if name not in known:
        raise UserError(f"device {name!r} does not exist here: device is one of {', '.join(here)}")
    return torch.device(known[name])


@dataclasses.dataclass(frozen=True, eq=False)
class OnDevice(Agent):
    """An agent whose tensors are on a device, for an environment whose tensors are on the CPU."""

    agent: Agent
    device: torch.device

    def act(self, observation: Tensor, memory: Any, *, generator: torch.Generator) -> tuple[Tensor, Any]:
        """See `Agent.act`. The device's random numbers of a step follow from one number of the generator."""
        seed = int(torch.randint(2**62, (), generator=generator))
        action, memory = self.agent.act(
            observation.to(self.device), memory, generator=generator_on(self.device).manual_seed(seed)
        )
        return action.to(observation.device), memory


def generator_on(device: torch.device) -> torch.Generator:
    """A generator of the device's own random numbers."""
    return torch.Generator(device)
