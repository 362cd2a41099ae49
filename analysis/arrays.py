"""Arrays in, of whatever library: NumPy's or torch's, of any strides, read-only or not.

For functions that work in torch `as_tensor` and `as_floats`, through which gradients flow; for those that work in NumPy
`as_array`, which leaves them behind.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def as_tensor(values: ArrayLike) -> Tensor:
    """A tensor as it is; anything else as a tensor of its dtype, which shares its memory where it can: to be read only.

    Raises TypeError for what torch has no dtype for, such as text.
    """
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))


def as_floats(values: ArrayLike) -> Tensor:
    """`as_tensor`, whole numbers and truth values as float64."""
    tensor = as_tensor(values)
    return tensor if tensor.is_floating_point() else tensor.double()


def as_array(values: ArrayLike) -> NDArray[np.float64]:
    """As float64, on the CPU, without gradients."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    array: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return array
