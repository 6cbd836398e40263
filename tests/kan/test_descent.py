import pytest
import torch

from kanlib.kan.descent import Observed, Schedule, best_of, descend
from kanlib.machine import generator
from tests.helpers import randn

SCHEDULE = Schedule(steps=400, minibatch=20, rate=0.05)


def straight(parameters, inputs):
    """Linear models, C of them."""
    return (parameters[0] @ inputs)[:, 0]


def problem(n_examples=2, noise=0.0):
    """Three inputs, responses that are linear in them, to fit and to validate."""
    slopes = randn(n_examples, 3, seed=5)
    both = []
    for seed, n in ((0, 100), (1, 50)):
        inputs = randn(3, n, seed=seed)
        both.append(Observed(inputs, slopes @ inputs + 3 + noise * randn(n_examples, n, seed=seed + 2)))
    return slopes, *both


def start(n_models=2):
    return [randn(n_models, 1, 3, seed=9)]


def test_without_decay_linear_models_become_least_squares():
    slopes, data, validation = problem()
    found = descend(straight, start(), data, validation, torch.zeros(2).double(), SCHEDULE, generator(0))
    torch.testing.assert_close(found.parameters[0][:, 0], slopes, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found.bias, torch.full((2, 1), 3.0).double(), rtol=1e-2, atol=1e-2)


def test_the_error_that_is_reported_is_that_of_the_models():
    _, data, validation = problem(noise=1.0)
    found = descend(straight, start(), data, validation, torch.zeros(2).double(), SCHEDULE, generator(0))
    residual = straight(found.parameters, validation.inputs) + found.bias - validation.y
    torch.testing.assert_close(found.error, residual.square().mean(1))
    assert ((found.step > 0) & (found.step <= SCHEDULE.steps)).all()


def test_decay_shrinks_each_model_by_its_own_and_leaves_the_bias():
    _, data, validation = problem()
    same = (
        Observed(data.inputs, data.y[:1].expand(2, -1)),
        Observed(validation.inputs, validation.y[:1].expand(2, -1)),
    )
    both = [start(1)[0].expand(2, -1, -1)]
    found = descend(straight, both, *same, torch.tensor([0.0, 5.0]).double(), SCHEDULE, generator(0))
    free, decayed = found.parameters[0].norm(dim=(1, 2))
    assert decayed < 0.9 * free
    assert (found.bias - 3).abs().max() < 0.3


def test_the_step_that_validation_likes_best_is_kept():
    _, data, validation = problem()
    # Validation says the opposite, so that every step makes it worse.
    against = Observed(validation.inputs, -validation.y)
    found = descend(straight, start(), data, against, torch.zeros(2).double(), SCHEDULE, generator(0))
    assert (found.step <= 0.4 * SCHEDULE.steps).all()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_enough_to_return_something(steps):
    _, data, validation = problem()
    schedule = Schedule(steps, minibatch=1000, rate=0.05)
    found = descend(straight, start(), data, validation, torch.zeros(2).double(), schedule, generator(0))
    assert found.error.isfinite().all()


def best(data, validation, members=2, at_once=64, seed=0):
    starts = [[parameters] for parameters in start(3)[0]]
    return best_of(straight, starts, data, validation, [0.0, 1.0], members, SCHEDULE, seed, "", at_once)


def test_members_are_the_best_candidates_of_their_example():
    _, data, validation = problem(noise=1.0)
    (two, chosen), (every, order) = best(data, validation), best(data, validation, members=10)
    assert (len(two.error), len(every.error)) == (4, 12)
    errors = every.error.view(2, 6)
    assert (errors.diff(dim=1) >= 0).all()
    torch.testing.assert_close(two.error.view(2, 2), errors[:, :2])
    assert chosen.view(2, 2).tolist() == order.view(2, 6)[:, :2].tolist()
    assert all(sorted(of_one) == list(range(6)) for of_one in order.view(2, 6).tolist())


def test_an_example_is_trained_as_if_alone_and_in_batches_of_any_size():
    _, data, validation = problem(noise=1.0)
    whole = best(data, validation)[0].parameters[0]
    torch.testing.assert_close(best(data, validation, at_once=1)[0].parameters[0], whole)
    second = slice(1, 2)
    alone = best(*(Observed(o.inputs, o.y[second]) for o in (data, validation)))[0].parameters[0]
    torch.testing.assert_close(alone, whole[2:])


def test_equal_seeds_give_equal_models_and_others_others():
    _, data, validation = problem(noise=1.0)
    one, same, other = (best(data, validation, seed=seed)[0].parameters[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
