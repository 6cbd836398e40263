import torch

from benchmarks.newton_kaczmarz import INNER, REACH, NewtonKaczmarz, _on_grid
from kanlib.masks import Split, gaussian
from kanlib.metrics import pearson


def split_of(n, seed):
    masks = gaussian(n, 3, 0.7, seed, "test")
    total = masks.sum(1)
    return Split(masks, torch.stack([torch.tanh(total), 5 + 3 * total.square()]))


def test_sums_through_a_function_are_learnt():
    data, test = split_of(800, 1), split_of(300, 2)
    model = NewtonKaczmarz().fit(data)
    assert (pearson(model.predict(test.masks), test.responses) > 0.95).all()


def test_a_whole_step_meets_its_response_almost():
    data = split_of(50, 3)
    model = NewtonKaczmarz().fit(data)
    target = model.predict(data.masks[:1])[:, 0] + 0.01 * data.responses.std(1)
    y = ((target - model._mean[:, 0]) / model._std[:, 0]).numpy()
    model._step(*_on_grid(data.masks[0].double().numpy(), REACH, INNER), y, 1.0)
    torch.testing.assert_close(model.predict(data.masks[:1])[:, 0], target, rtol=0, atol=1e-3)
