import pytest
import torch

from bayes_mbrl.inference.layers import affine
from bayes_mbrl.inference.scratch import NO_SCRATCH, Buffers, Scratch


@pytest.mark.parametrize("scratch", [NO_SCRATCH, Buffers()], ids=["new", "buffers"])
def test_affine_with_and_without_a_sample_axis(scratch: Scratch, generator: torch.Generator) -> None:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight, bias = normal(5, 3), normal(4, 3, 2), normal(4, 2)
    own = normal(4, 5, 3)
    torch.testing.assert_close(affine(x, weight[0], bias[0], scratch=scratch), x @ weight[0] + bias[0])
    shared = affine(x, weight, bias, scratch=scratch)
    torch.testing.assert_close(shared, torch.einsum("nd,kdo->kno", x, weight) + bias[:, None])
    torch.testing.assert_close(
        affine(own, weight, bias, scratch=scratch), torch.einsum("knd,kdo->kno", own, weight) + bias[:, None]
    )
