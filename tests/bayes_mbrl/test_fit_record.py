"""What fits tell about themselves survives the disk, for every kind of info."""

import math
import pathlib

import pytest
import torch

from bayes_mbrl.fit_record import fit_record, load_tensors, save_tensors
from bayes_mbrl.inference.exact_linear import EvidenceInfo
from bayes_mbrl.inference.laplace import LaplaceInfo
from bayes_mbrl.inference.nuts import NutsInfo
from bayes_mbrl.inference.optimise import FitInfo
from bayes_mbrl.inference.sghmc import ChainsInfo

LOSSES = torch.arange(20.0, 0.0, -1.0)


def _nuts() -> NutsInfo:
    number = torch.arange(6.0).view(2, 3)
    return NutsInfo(
        {"w": torch.zeros(2, 3, 4, 5)}, number, number + 1, number / 6, torch.tensor([[1, 3, 7], [1023, 1, 2]]),
        number > 4, torch.tensor([0.1, 0.2]),
    )  # fmt: skip


def test_every_number_and_tensor_but_the_draws() -> None:
    record = fit_record(_nuts())
    assert set(record) == {
        "log_joint", "energy", "acceptance", "num_leapfrog_steps", "diverging", "step_size", "num_chains",
        "tree_depth", "final_loss",
    }  # fmt: skip
    assert int(record["num_chains"]) == 2
    assert record["tree_depth"].tolist() == [[1, 2, 3], [10, 1, 2]]
    assert float(record["final_loss"]) == -2.5


def test_other_kinds() -> None:
    assert float(fit_record(FitInfo(LOSSES))["final_loss"]) == 1.5
    assert float(fit_record(LaplaceInfo(LOSSES, log_evidence=-3.0))["log_evidence"]) == -3.0
    assert math.isnan(float(fit_record(LaplaceInfo(LOSSES))["log_evidence"]))
    assert float(fit_record(EvidenceInfo(-7.0))["final_loss"]) == 7.0
    chains = fit_record(ChainsInfo(LOSSES, draws={"w": torch.zeros(4, 10, 2)}, temperature=torch.ones(4)))
    assert int(chains["num_chains"]) == 4
    assert "divergence" not in chains


def test_saved_and_loaded_they_are_equal(tmp_path: pathlib.Path) -> None:
    record = fit_record(_nuts())
    save_tensors(record, tmp_path / "fit.safetensors")
    loaded = load_tensors(tmp_path / "fit.safetensors")
    assert loaded.keys() == record.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in record.items())


def test_a_damaged_file_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "fit.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"fit\.safetensors is not a complete safetensors file"):
        load_tensors(tmp_path / "fit.safetensors")
