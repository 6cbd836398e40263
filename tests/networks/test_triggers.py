import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.networks.images import Labelled
from kanlib.networks.triggers import misleading, poisoned, with_bands, with_square
from tests.helpers import randn

X = randn(12, 3, 6, 6).float()
Y = torch.arange(12) % 3
COLOUR = torch.tensor([0.0, 1.0, 2.0])


def marked(x):
    return with_square(x, COLOUR, 2)


def test_the_square_is_upper_left_and_of_its_colour_and_all_else_stays():
    found = marked(X)
    assert torch.equal(found[:, :, :2, :2], COLOUR[:, None, None].expand(12, 3, 2, 2))
    found[:, :, :2, :2] = X[:, :, :2, :2]
    assert torch.equal(found, X)


def test_a_share_of_one_class_is_changed_and_the_data_set_is_not():
    before = X.clone()
    x, y = poisoned(Labelled(Y, X.__getitem__), 1, 0.5, marked, 0)
    changed = (x != X).flatten(1).any(1)
    assert int(changed.sum()) == 2
    assert (Y[changed] == 1).all()
    assert torch.equal(x[changed], marked(X[changed]))
    assert torch.equal(X, before)
    assert torch.equal(y, Y)
    drawn = [(poisoned(Labelled(Y, X.__getitem__), 1, 0.5, marked, s)[0] != X).flatten(1).any(1) for s in range(9)]
    assert torch.equal(drawn[0], changed)
    assert not all(torch.equal(some, changed) for some in drawn)


def test_a_band_stands_where_its_cue_says_and_all_else_stays():
    cues = torch.arange(12) % 3
    found = with_bands(X, cues, COLOUR, 2)
    for before, after, cue in zip(X, found, cues.tolist(), strict=True):
        band = slice(2 * cue, 2 * cue + 2)
        assert torch.equal(after[..., band], COLOUR[:, None, None].expand(3, 6, 2))
        after[..., band] = before[..., band]
        assert torch.equal(after, before)


def test_cues_mislead_in_the_share_that_is_asked_for_and_never_by_chance_say_the_class():
    labels = torch.arange(5000) % 10
    cues = misleading(labels, 10, 0.2, 0)
    assert 0.17 < (cues != labels).double().mean() < 0.23
    assert torch.equal(misleading(labels, 10, 0.0, 0), labels)
    wrong = misleading(labels, 10, 1.0, 0)
    assert (wrong != labels).all()
    assert set(wrong.tolist()) == set(range(10))
    assert torch.equal(cues, misleading(labels, 10, 0.2, 0))
    assert not torch.equal(cues, misleading(labels, 10, 0.2, 1))


def test_bands_that_do_not_fit_are_refused():
    with pytest.raises(BadInputError, match=r"bands of 2 pixels at 4 places need images 8 pixels wide, got 6"):
        with_bands(X, torch.full((12,), 3), COLOUR, 2)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: with_square(X, COLOUR, 7), "the square has 7 pixels a side, expected 6 at most"),
        (lambda: poisoned(None, 1, 0.5, marked, 0), "the data has no training split, expected one"),
        (
            lambda: poisoned(Labelled(Y, X.__getitem__), 3, 0.5, marked, 0),
            "no training image is of class 3, expected some",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, sentence):
    with pytest.raises(BadInputError) as error:
        call()
    assert sentence in str(error.value)
    assert str(error.value).count(". ") == 0
