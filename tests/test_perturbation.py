import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from kanlib import perturbation
from kanlib.components import gated
from kanlib.errors import BadInputError
from kanlib.images import Images, Labelled
from kanlib.perturbation import OUTPUT_FUNCTIONS, choose_examples, masks, responses
from kanlib.setups import Perturbation

BLOCKS = ["layer1.0", "layer1.1", "layer2.0", "layer3.1", "layer4.0"]
LABELS = torch.tensor([3, 7])
both_sites = pytest.mark.parametrize("site", ["branch", "output"])


@pytest.fixture
def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sigma():
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def classified():
    """200 images that are their own logits over 3 classes, and the model that reads them off; a fifth is wrong."""
    source = torch.Generator().manual_seed(3)
    labels = torch.randint(3, (200,), generator=source)
    logits = torch.rand(200, 3, generator=source)
    wrong = torch.rand(200, generator=source) < 0.2
    logits[torch.arange(200), torch.where(wrong, (labels + 1) % 3, labels)] += 2
    model = nn.Linear(3, 3, bias=False)
    nn.init.eye_(model.weight)
    return model, Images(None, Labelled(labels, logits.__getitem__), ("ant", "bee", "cat")), ~wrong


def asked(**knobs):
    return Perturbation.from_setup("digits_resnet18", knobs)


def chosen(classified, development=None, **knobs):
    model, data, _ = classified
    return choose_examples(model, data, asked(**knobs), development=development)


def test_masks_are_gaussian_with_the_asked_scale(same_global_rng):
    sigma = masks(4000, 3, 0.5, 0, "fit")
    assert (sigma.shape, sigma.dtype) == ((4000, 3), torch.float32)
    assert stats.kstest(sigma.flatten().numpy() / 0.5, "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(sigma.T.numpy()) - np.eye(3)).max() < 0.05


def test_the_scale_only_scales():
    torch.testing.assert_close(masks(9, 3, 2.5, 0, "fit"), 2.5 * masks(9, 3, 1.0, 0, "fit"))


def test_each_split_and_seed_has_masks_of_its_own():
    streams = [masks(20, 4, 1.0, seed, split) for seed in (0, 1) for split in perturbation.SPLITS]
    rows = {tuple(row) for stream in streams for row in stream.tolist()}
    assert len(rows) == 8 * 20


def test_masks_are_drawn_again_alike():
    assert torch.equal(masks(20, 4, 1.0, 0, "fit"), masks(20, 4, 1.0, 0, "fit"))


@pytest.mark.parametrize(("n", "more", "m"), [(16, 32, 8), (10, 11, 3), (1, 2, 5), (500, 501, 9), (3, 1000, 7)])
def test_growing_a_split_appends_to_it(n, more, m):
    assert torch.equal(masks(more, m, 1.0, 0, "fit")[:n], masks(n, m, 1.0, 0, "fit"))


@pytest.fixture
def correct():
    return torch.rand(200, generator=torch.Generator().manual_seed(3)) < 0.8


def test_only_correctly_classified_examples_are_chosen_and_each_once(classified):
    found = chosen(classified, n_examples=30)
    assert classified[2][found].all()
    assert len(set(found.tolist())) == 30


def test_misclassified_examples_are_chosen_where_asked_for(classified):
    assert not classified[2][chosen(classified, n_examples=10, choose="misclassified")].any()


def test_any_examples_are_both(classified):
    found = classified[2][chosen(classified, n_examples=80, choose="any")]
    assert found.any()
    assert not found.all()


def test_the_smallest_margins_come_first(classified):
    _, data, correct = classified
    found = chosen(classified, n_examples=5, choose="smallest_margin")
    pool = chosen(classified, n_examples=int(correct[chosen(classified, n_examples=100, choose="any")].sum()))
    logits = data.test.read(pool)
    own = logits.gather(1, data.test.labels[pool, None])[:, 0]
    margins = own - logits.scatter(1, data.test.labels[pool, None], -torch.inf).amax(1)
    assert set(found.tolist()) == set(pool[margins.argsort()[:5]].tolist())


def test_examples_of_one_class_are_of_that_class(classified):
    found = chosen(classified, n_examples=12, only_class="bee")
    assert (classified[1].test.labels[found] == 1).all()


def test_an_unknown_class_suggests_the_nearest(classified):
    with pytest.raises(BadInputError, match=r"only_class be is unknown to 3 classes; did you mean bee\?"):
        chosen(classified, only_class="be")


def test_a_class_without_examples_is_refused(classified):
    model, data, _ = classified
    without = Images(None, data.test, (*data.classes, "dog"))
    with pytest.raises(BadInputError, match=r"there are 0 to draw from \(correct, class dog\)"):
        choose_examples(model, without, asked(only_class="dog"))


def test_no_more_candidates_are_looked_at_than_asked_for(classified):
    model, data, _ = classified
    read = []

    def reading(positions):
        read.extend(positions.tolist())
        return data.test.read(positions)

    few = Images(None, Labelled(data.test.labels, reading), data.classes)
    choose_examples(model, few, asked(n_examples=3, n_candidates=20))
    assert len(read) == 20


def test_development_and_reported_examples_never_meet(classified):
    for seed in range(5):
        pools = [set(chosen(classified, d, n_examples=70, seed=seed).tolist()) for d in (True, False)]
        assert not pools[0] & pools[1]


def test_development_and_reported_examples_do_not_meet_under_another_model(classified):
    model, data, _ = classified
    reported = chosen(classified, n_examples=60)
    other = Images(None, Labelled(data.test.labels, lambda at: data.test.read(at).roll(1, 1)), data.classes)
    development = choose_examples(model, other, asked(n_examples=10, choose="any"), development=True)
    assert not set(reported.tolist()) & set(development.tolist())


def test_the_example_set_is_what_the_knob_says(classified):
    for kind in ("reported", "development"):
        same = chosen(classified, kind == "development", n_examples=9)
        assert torch.equal(chosen(classified, n_examples=9, example_set=kind), same)


def test_more_examples_extend_fewer(classified):
    few, many = (chosen(classified, True, n_examples=n) for n in (5, 40))
    assert torch.equal(many[:5], few)


def test_too_few_correct_examples_are_refused(classified):
    with pytest.raises(BadInputError, match=r"n_examples is 101, but there are \d\d to draw from \(correct\)"):
        chosen(classified, n_examples=101)


def test_named_examples_are_taken_as_they_are(classified):
    assert chosen(classified, examples=[5, 0, 3]).tolist() == [5, 0, 3]


@pytest.mark.parametrize("positions", [[200, 1], [2, 2]])
def test_named_examples_beyond_the_split_or_named_twice_are_refused(classified, positions):
    with pytest.raises(BadInputError, match="expected different positions from 0 to 199"):
        chosen(classified, examples=positions)


def test_one_component_is_scaled_at_a_time():
    sweep = perturbation.one_at_a_time(3, reach=2.0, points=5)
    assert sweep.shape == (15, 3)
    assert (sweep != 0).sum(1).max() == 1
    assert sweep[:5, 0].tolist() == [-2, -1, 0, 1, 2]


def test_output_functions_are_what_they_say():
    logits = np.array([[1.0, -2.0, 0.5], [3.0, 3.5, -1.0]])
    labels = [0, 2]
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true = {
        "margin": [1.0 - 0.5, -1.0 - 3.5],
        "logit": [1.0, -1.0],
        "prob": [prob[0, 0], prob[1, 2]],
        "log_prob": np.log([prob[0, 0], prob[1, 2]]),
        "loss": -np.log([prob[0, 0], prob[1, 2]]),
    }
    assert OUTPUT_FUNCTIONS.keys() == true.keys()
    for name, f in OUTPUT_FUNCTIONS.items():
        np.testing.assert_allclose(f(torch.tensor(logits), torch.tensor(labels)), true[name], rtol=1e-12)


def test_output_functions_take_any_leading_shape():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2], [3, 0, 1]])
    for f in OUTPUT_FUNCTIONS.values():
        whole = f(logits, labels)
        assert whole.shape == (2, 3)
        torch.testing.assert_close(whole[1, 2], f(logits[1, 2], labels[1, 2]))


@both_sites
def test_responses_are_the_centred_output_mask_by_mask(resnet, images, sigma, site):
    y, clean = responses(resnet, BLOCKS, images, LABELS, sigma, site=site, batch_size=3)
    assert y.shape == (2, 7)
    for e in range(2):
        plain = resnet(images[e : e + 1])[0]
        label = LABELS[e]
        others = torch.cat([plain[:label], plain[label + 1 :]])
        torch.testing.assert_close(clean[e], plain[label] - others.max())
        for i, mask in enumerate(sigma):
            with gated(resnet, BLOCKS, site) as gates:
                logits = gates(images[e : e + 1], mask[None])[0]
            margin = logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max()
            torch.testing.assert_close(y[e, i], margin - clean[e], atol=1e-4, rtol=1e-4)


def test_the_asked_output_function_is_read(resnet, images, sigma):
    y, clean = responses(resnet, BLOCKS, images, LABELS, sigma, output_function="log_prob", batch_size=4)
    loss, clean_loss = responses(resnet, BLOCKS, images, LABELS, sigma, output_function="loss", batch_size=4)
    assert torch.equal(y, -loss)
    torch.testing.assert_close(clean, resnet(images).log_softmax(1)[[0, 1], LABELS])
    assert torch.equal(clean, -clean_loss)


@both_sites
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_response_to_no_perturbation_is_exactly_zero(resnet, images, sigma, site, batch_size):
    mixed = torch.cat([sigma[:2], torch.zeros(3, 5), sigma[2:]])
    y, _ = responses(resnet, BLOCKS, images, LABELS, mixed, site=site, batch_size=batch_size)
    assert torch.equal(y[:, 2:5], torch.zeros(2, 3))
    assert (y[:, :2] != 0).all()


@both_sites
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_a_response_does_not_depend_on_the_other_masks(resnet, images, sigma, site, batch_size):
    def recorded(masks):
        return responses(resnet, BLOCKS, images, LABELS, masks, site=site, batch_size=batch_size)[0]

    whole = recorded(sigma)
    assert torch.equal(recorded(sigma), whole)
    assert torch.equal(recorded(sigma[3:]), whole[:, 3:])
    assert torch.equal(recorded(sigma.flip(0)).flip(1), whole)
    assert torch.equal(recorded(torch.cat([sigma[:1] * 9, sigma]))[:, 1:], whole)


def test_a_response_does_not_depend_on_the_other_examples(resnet, images, sigma):
    whole, _ = responses(resnet, BLOCKS, images, LABELS, sigma, batch_size=4)
    alone, _ = responses(resnet, BLOCKS, images[1:], LABELS[1:], sigma, batch_size=4)
    assert torch.equal(alone[0], whole[1])


def test_the_batch_size_changes_rounding_only(resnet, images, sigma):
    one, _ = responses(resnet, BLOCKS, images, LABELS, sigma, batch_size=1)
    for batch_size in (3, 7, 20):
        many, _ = responses(resnet, BLOCKS, images, LABELS, sigma, batch_size=batch_size)
        torch.testing.assert_close(many, one, atol=1e-4, rtol=1e-4)


def test_no_masks_give_no_responses(resnet, images, sigma):
    y, clean = responses(resnet, BLOCKS, images, LABELS, sigma[:0], batch_size=4)
    assert (y.shape, clean.shape) == ((2, 0), (2,))


def test_responses_leave_the_model_without_gates(resnet, images, sigma):
    responses(resnet, BLOCKS, images, LABELS, sigma, batch_size=7)
    assert not any(module._forward_hooks for module in resnet.modules())


def test_weights_that_are_not_finite_are_refused(resnet, images, sigma):
    broken = copy.deepcopy(resnet)
    broken.fc.weight[3, 0] = torch.nan
    with pytest.raises(BadInputError, match=r"response of example 1 to mask 1 is nan"):
        responses(broken, BLOCKS, images, LABELS, sigma, batch_size=4)


def test_a_response_that_is_not_finite_is_refused_by_example_and_mask(resnet, images, sigma):
    sigma[4, 2] = torch.inf
    with pytest.raises(BadInputError, match=r"response of example 1 to mask 5 is nan.* scale"):
        responses(resnet, BLOCKS, images, LABELS, sigma, batch_size=4)


def test_tf32_is_for_cuda_only(resnet, images, sigma):
    with pytest.raises(BadInputError, match=r"precision tf32 is CUDA's, but the device is cpu"):
        responses(resnet, BLOCKS, images, LABELS, sigma, precision="tf32")


def test_switches_of_precision_are_as_before_afterwards(resnet, images, sigma):
    before = torch.backends.cudnn.allow_tf32
    responses(resnet, BLOCKS, images, LABELS, sigma, precision="bf16")
    assert torch.backends.cudnn.allow_tf32 == before
    assert not torch.is_autocast_enabled("cpu")
