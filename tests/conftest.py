"""Fixtures that more than one test file uses."""

from types import SimpleNamespace

import pytest
import torch
from threadpoolctl import threadpool_limits

from kanlib.kan.fitting import fit
from kanlib.masks import Split
from kanlib.networks import models
from tests.helpers import knobs
from tests.small_project import copied, snakemake


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """The tensors of the tests are too small to share between threads."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture
def same_global_rng():
    """Fails a test that moves torch's global random state."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="session")
def resnet():
    """A ResNet-18 for small images in evaluation mode, with batch norms that are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.classifier("torchvision/resnet18", 10, small_images=True)[0]
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(std=0.1)
    return models.with_weights(model, model.state_dict()).requires_grad_(False)


@pytest.fixture(scope="session")
def fitted():
    """Two examples with smooth responses to three components, and KANs fitted to them."""
    source = torch.Generator().manual_seed(0)

    def true(s):
        first = torch.expm1(0.3 * s[:, 0]) - torch.tanh(s[:, 1] + s[:, 2])
        return torch.stack([first, (s[:, 0] - s[:, 2]).sin()])

    masks = [torch.randn(n, 3, generator=source) for n in (300, 150, 300)]
    data, validation, test = (Split(s, true(s)) for s in masks)
    settings = knobs(hidden=[3], penalties=[1e-5, 1e-4], restarts=2, iterations=80)
    found = fit(data, validation, settings)
    return SimpleNamespace(fit=data, test=test, true=true, kan=found.kan, found=found)


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A copy of the project in which the default setup is small and the book is built.

    Its folder is called as a user may call one.
    """
    copy = copied(tmp_path_factory.mktemp("project") / "a [b] {c} d'e")
    result = snakemake(copy, "book")
    assert result.returncode == 0, result.stdout + result.stderr
    return copy
