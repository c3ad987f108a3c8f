# SPDX-License-Identifier: Apache-2.0
"""What the tests of captures on a GPU start from."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from graphrt.capture.cuda_graph import CudaSpace


@pytest.fixture
def space() -> Iterator[CudaSpace]:
    yield CudaSpace(torch.device("cuda"))
    torch.cuda.synchronize()


@pytest.fixture
def x() -> Tensor:
    return torch.zeros(8, device="cuda")
