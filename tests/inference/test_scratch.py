import torch

from bayes_mbrl.inference.scratch import NO_SCRATCH, Buffers


def test_no_scratch_lets_torch_allocate() -> None:
    assert NO_SCRATCH.take("a", (2, 3), torch.ones(1)) is None
    assert not NO_SCRATCH.reuses


def test_a_buffer_is_used_again_and_grows() -> None:
    scratch, like = Buffers(), torch.ones(1)
    first = scratch.take("a", (4, 3), like)
    smaller = scratch.take("a", (2, 5), like)
    assert first.shape == (4, 3)
    assert smaller.shape == (2, 5)
    assert smaller.is_contiguous()
    assert first.data_ptr() == smaller.data_ptr()
    assert scratch.take("b", (2, 5), like).data_ptr() != first.data_ptr()
    assert scratch.take("a", (40, 3), like).shape == (40, 3)
    assert scratch.take("a", (4, 3), like.double()).dtype == torch.float64
