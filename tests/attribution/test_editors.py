import pickle

import pytest
import torch

from kanlib.attribution import METHODS, Coar, Editor, best, edit, edit_by_pairs, scores, screen
from kanlib.errors import BadInputError
from kanlib.masks import Split
from kanlib.networks.edited import masks_for
from kanlib.setups import Editing
from tests.helpers import randn

M, E = 14, 9
P = Editing(n_fit=400, n_validation=100, n_test=60, share=0.2, directions=3, screened=6, trade_off=0.5)
W = randn(E, M, seed=1)


def answered(masks):
    """What a network would answer whose responses are linear, but for one pair of the first image."""
    removed = -masks.double()
    out = -W @ removed.T
    out[0] += 4 * removed[:, 2] * removed[:, 5]
    return out


@pytest.fixture(scope="module")
def editor():
    masks = masks_for(P, M)
    effects = {name: answered(sigma) for name, sigma in masks.items()} | {"gradient": W + 1}
    return Editor(P, masks, effects)


TARGETS, REFERENCES = [0, 3], [5, 6, 7]


def test_every_method_has_its_own_weights(editor):
    splits = {name: Split(editor.masks[name], editor.effects[name]) for name in ("fit", "validation")}
    coar = Coar().fit(splits["fit"], splits["validation"]).weights
    torch.testing.assert_close(editor.weights["coar"], coar)
    torch.testing.assert_close(editor.weights["leave_one_out"], W)
    torch.testing.assert_close(editor.weights["gradient"], W + 1)


@pytest.mark.parametrize("objective", ["raise", "lower"])
def test_edits_by_weights_are_those_of_the_rows_that_were_asked_for(editor, objective):
    unit = editor.unit(TARGETS, REFERENCES, objective)
    for method, w in editor.weights.items():
        direct = edit(w, TARGETS, REFERENCES, 3, objective)
        found = unit.by(method, 3)
        assert found.removed == direct.removed
        assert (found.targets, found.references) == pytest.approx((direct.targets, direct.references))


def test_pairs_choose_among_what_coar_screened_and_know_what_linear_models_do_not(editor):
    unit = editor.unit([0], REFERENCES)
    screened = screen(scores(editor.weights["coar"], [0], REFERENCES), P.screened)
    for method in ("singles", "greedy", "exact", "exact_filters"):
        found = unit.by(method, 3)
        assert set(found.removed) <= set(screened.tolist())
        direct = edit_by_pairs(
            unit.models[method], 3, trade_off=P.trade_off, exact=method.startswith("exact"), seconds=P.seconds
        )
        assert found.removed == direct.removed
    assert not unit.models["singles"].pairs.any()
    assert unit.models["exact_filters"].pairs.any()
    assert all(-1 <= value <= 1 for value in unit.fits.values())
    assert unit.fits["exact"] >= unit.fits["coar"] - 0.05


def test_chance_is_drawn_for_each_unit_by_the_seed(editor):
    one, again, other = (editor.unit(t, REFERENCES).weights["random"] for t in ([0], [0], [1]))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_a_unit_of_one_method_is_all_that_method_needs_and_travels(editor, method):
    unit = editor.unit(TARGETS, REFERENCES)
    less = pickle.loads(pickle.dumps(unit.of(method)))  # noqa: S301
    assert less.by(method, 2) == unit.by(method, 2)
    assert len(less.weights) + len(less.models) == 1


@pytest.mark.parametrize(
    ("gains", "losses", "at"),
    [
        ([0.1, 0.5, 0.9], [0.0, 0.02, 0.5], 1),
        ([0.1, 0.5, 0.9], [0.3, 0.2, 0.5], 1),
        ([-0.9, -1.0, 0.0], [0.0, 0.0, 0.021], 0),
        ([0.2, 0.2], [0.0, 0.0], 0),
    ],
)
def test_the_best_edit_gains_most_among_those_that_lose_little(gains, losses, at):
    assert best(torch.tensor(gains), torch.tensor(losses), 0.02) == at


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda e: e.unit([0], [0]), "1 of 1 target examples are the reference set itself, expected none"),
        (lambda e: e.unit([0], REFERENCES).by("coar", M + 1), "15 of 14 components were asked for"),
        (lambda e: e.unit([0], REFERENCES).by("exact", 7), "7 of 6 screened components were asked for"),
        (
            lambda e: Editor(P.model_copy(update={"screened": 15}), e.masks, e.effects).unit([0], REFERENCES),
            "15 of 14 components were asked for",
        ),
        (
            lambda e: Editor(P.model_copy(update={"directions": 10}), e.masks, e.effects).unit([0], REFERENCES),
            "10 directions were asked for, expected 1 to 9",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(editor, call, sentence):
    with pytest.raises(BadInputError) as error:
        call(editor)
    assert sentence in str(error.value)
    assert str(error.value).count(". ") == 0
