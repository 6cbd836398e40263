"""Vectors that are made of known features."""

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(scope="session")
def known():
    """24 directions ``[24, 12]`` and 6,000 vectors, each the sum of 2 of them with sizes from 1 to 2."""
    source = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(24, 12, generator=source), dim=-1)
    which = torch.rand(6000, 24, generator=source).topk(2).indices
    sizes = 1 + torch.rand(6000, 2, generator=source)
    z = torch.zeros(6000, 24).scatter(1, which, sizes)
    return directions, z @ directions
