import pytest
import torch
from torch import nn

from kanlib.errors import BadInputError
from kanlib.networks.examples import choose_examples
from kanlib.networks.images import Images, Labelled
from kanlib.setups import Perturbation


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


@pytest.mark.parametrize("positions", [[10**30, 1], list(range(100_000)), [7] * 5000])
def test_many_or_huge_positions_are_not_said_in_full(classified, positions):
    with pytest.raises(BadInputError, match="expected different positions from 0 to 199") as caught:
        choose_examples(*classified[:2], asked().model_copy(update={"examples": positions}))
    assert len(str(caught.value)) < 200


def test_a_long_class_is_not_said_in_full(classified):
    with pytest.raises(BadInputError, match=r"only_class be\\nbe\\n.* did you mean bee\?") as caught:
        choose_examples(*classified[:2], asked().model_copy(update={"only_class": "be\n" * 5000}))
    assert len(str(caught.value)) < 300


def test_margins_that_are_no_numbers_are_refused_by_position(classified):
    _, data, _ = classified
    logits = data.test.read(torch.arange(200))
    at = int(chosen(classified, n_examples=3)[1])
    logits[at] = torch.inf
    infinite = Images(None, Labelled(data.test.labels, logits.__getitem__), data.classes)
    with pytest.raises(BadInputError, match=rf"margin of test image {at} is no number \(nan\)"):
        choose_examples(nn.Threshold(-9, -9), infinite, asked(n_examples=3))


def test_a_label_without_a_logit_is_refused(classified):
    model, data, _ = classified
    beyond = Images(None, Labelled(data.test.labels + 1, data.test.read), (*data.classes, "dog"))
    with pytest.raises(BadInputError, match="has label 3, but the network has logits for 0 to 2"):
        choose_examples(model, beyond, asked())


def test_one_logit_says_who_is_right_by_its_sign(classified):
    _, data, _ = classified
    model = nn.Linear(3, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    two = Images(None, Labelled(data.test.labels % 2, lambda at: data.test.read(at) - 0.6), ("even", "odd"))
    positive = two.test.read(torch.arange(200)).sum(1) > 0
    right = positive == (two.test.labels == 1)
    found = choose_examples(model, two, asked(n_examples=30))
    assert right[found].all()
    assert not right[choose_examples(model, two, asked(choose="misclassified", n_examples=20))].any()
