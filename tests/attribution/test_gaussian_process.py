import torch

from kanlib import metrics
from kanlib.attribution.gaussian_process import GaussianProcess
from kanlib.masks import Split, every_removal, gaussian
from kanlib.setups import Surrogate

KNOBS = Surrogate()


def true(s):
    return torch.stack([torch.tanh(s[:, 0]) * s[:, 1] + s[:, 2], s[:, 0] ** 2]).double()


def fitted(masks):
    return GaussianProcess(KNOBS).fit(Split(masks, true(masks)), Split(masks[:1], true(masks[:1])))


def test_it_takes_any_masks():
    train, test = gaussian(150, 3, 1.0, 0, "fit"), gaussian(50, 3, 1.0, 0, "test")
    found = fitted(train)
    assert found.failed == {}
    assert (metrics.normalised_mse(found.predict(test), true(test)) < 0.02).all()
    assert (found.predict(torch.zeros(1, 3)) == 0).all()


def test_removals_are_predicted_from_most_of_them(same_global_rng):
    every = every_removal(6)
    found = fitted(every[torch.randperm(64, generator=torch.Generator().manual_seed(0))[:51]])
    torch.testing.assert_close(found.predict(every), true(every), rtol=0, atol=1e-2)


def test_an_example_that_it_fails_on_is_nan_and_the_others_are_not(monkeypatch):
    posterior = GaussianProcess._posterior

    def half(self, x, y, at_rest):
        if y[0] > 0:
            raise ValueError("not this one")
        return posterior(self, x, y, at_rest)

    monkeypatch.setattr(GaussianProcess, "_posterior", half)
    masks = gaussian(40, 3, 1.0, 0, "fit")
    up = masks[:, 0] * masks[0, 0]
    found = GaussianProcess(KNOBS).fit(Split(masks, torch.stack([up, -up])), Split(masks[:0], up[None, :0]))
    predicted = found.predict(masks)
    assert list(found.failed) == [1]
    assert predicted[0].isnan().all()
    assert predicted[1].isfinite().all()
