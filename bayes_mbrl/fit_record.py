"""What a fit tells about itself, as tensors by name: `losses` of an optimiser, `energy` and `diverging` of a sampler.

Everything in the fit's info that is a number or a tensor, but for the draws: the posterior has those. A sampler's
posterior has them chain after chain, so [E, ...] is [chain, draw, ...] for `num_chains` chains.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor


def fit_record(info: Any) -> dict[str, Tensor]:
    """{name: tensor} of a fit's info, a dataclass; also `final_loss`, and of chains `num_chains` and `tree_depth`."""
    fields = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    record = {
        name: value.detach() if isinstance(value, Tensor) else torch.tensor(value)
        for name, value in fields.items()
        if isinstance(value, Tensor | int | float)
    }
    record["final_loss"] = torch.tensor(float(info.final_loss))
    if draws := fields.get("draws"):
        record["num_chains"] = torch.tensor(len(next(iter(draws.values()))))
    if hasattr(info, "tree_depth"):
        record["tree_depth"] = info.tree_depth
    return record


def save_tensors(tensors: Mapping[str, Tensor], path: pathlib.Path) -> None:
    """Write them as safetensors."""
    safetensors.torch.save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: pathlib.Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote. Raises ValueError when the file is damaged."""
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
