"""The one function of it that the probe uses."""

from __future__ import annotations

from .. import Tensor, computed


def conv2d(image: Tensor, kernel: Tensor, padding: int) -> Tensor:
    assert padding == 1
    return computed("convolution", (image, kernel))
