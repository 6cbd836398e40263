import pytest
import torch
from torch import nn

from kanlib.attribution.games import Game
from kanlib.attribution.predictions import prediction
from kanlib.attribution.views import ROWS, Cell, agreement, by_fits, by_gradients, by_perturbation, splits
from kanlib.errors import BadInputError
from kanlib.networks.images import Images, Labelled
from kanlib.setups import Views

P = Views(
    side=2, groups=5, path_steps=300, hessian_steps=100, n_fit=300, n_validation=60, n_test=60, hidden=[3], grid=3,
    steps=200, components=["0", "2"],
)  # fmt: skip


def labelled(n, seed):
    x = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Labelled(torch.arange(n) % 3, lambda positions: x[positions])


def network():
    torch.manual_seed(0)
    return (
        nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Flatten(),
            nn.Linear(192, 3),
        )
        .eval()
        .requires_grad_(False)
    )


def what(p=P, train=True, model=None):
    data = Images(labelled(40, 1) if train else None, labelled(6, 2), ("a", "b", "c"))
    return prediction(p, model or network(), data)


@pytest.fixture(scope="module")
def cells():
    pytest.importorskip("shapiq", reason="needs the extra peers")
    found = what()
    return found, {
        view: by_perturbation(game, P) | by_gradients(game, P, found.smooth.get(view)) | by_fits(game, P)
        for view, game in found.games.items()
    }


def test_a_prediction_is_three_games_with_the_same_rows(cells):
    found, views = cells
    assert list(views) == ["features", "data", "components"]
    assert found.missing == {}
    for view, rows in views.items():
        m = found.games[view].m
        assert set(rows) == set(ROWS) - {"TracIn"}
        for row, cell in rows.items():
            assert cell.values.shape == ((m, m) if row.endswith("pairs") else (m,)), (view, row)
            assert cell.note


def test_features_and_components_begin_at_the_same_prediction(cells):
    found, _ = cells
    features, components = (
        found.games[view](torch.ones(1, found.games[view].m)) for view in ("features", "components")
    )
    torch.testing.assert_close(features, components, atol=1e-5, rtol=1e-5)


def test_rows_add_up_to_what_all_are_worth(cells):
    found, views = cells
    for view, rows in views.items():
        for row in ("Shapley", "integrated gradients"):
            whole = found.games[view].whole()
            assert float(rows[row].values.sum()) == pytest.approx(whole, abs=5e-3 * max(1, abs(whole))), (
                view,
                row,
            )


def test_straight_pieces_are_smoothed_for_second_derivatives_alone(cells):
    _, views = cells
    assert views["features"]["mixed partials, pairs"].note == "softplus for ReLU"
    assert bool(views["features"]["mixed partials, pairs"].values.any())
    assert views["components"]["mixed partials, pairs"].note == "exact"
    assert views["data"]["mixed partials, pairs"].note == "exact"


def test_agreement_is_of_rows_of_one_kind(cells):
    _, views = cells
    names, ranks = agreement(views["data"])
    assert "Shapley" in names
    assert "KAN, pairs" not in names
    torch.testing.assert_close(ranks.diagonal(), torch.ones(len(names)).double())
    torch.testing.assert_close(ranks, ranks.T)
    names, ranks = agreement(views["features"], pairs=True)
    assert names == [row for row in views["features"] if row.endswith("pairs")]
    assert ranks.shape == (4, 4)
    assert agreement({"a": Cell(torch.tensor([1.0, 2, 3]), ""), "b": Cell(torch.tensor([3.0, 2, 1]), "")})[1][
        0, 1
    ] == pytest.approx(-1)


def test_a_linear_game_is_found_by_both_fits():
    weights = torch.tensor([1.0, -2, 0.5, 0])
    found = by_fits(Game(lambda w: w @ weights, list("abcd")), P)
    for row in ("linear, on sets", "linear, on weights"):
        torch.testing.assert_close(found[row].values, weights.double(), atol=1e-2, rtol=0)
        assert found[row].score > 0.999
    assert found["KAN"].score > 0.95


def test_masks_do_not_meet():
    fit, validation, test = splits(Game(lambda w: w.sum(1), list("abcd")), P, scaled=True)
    assert len({tuple(row) for s in (fit, validation, test) for row in s.masks.tolist()}) == 420


def test_without_training_images_the_view_of_data_is_left_out_with_its_reason():
    found = what(train=False)
    assert list(found.games) == ["features", "components"]
    assert found.missing["data"].startswith("the data have no training images, expected some for the view of data")
    assert found.remembered is None


def test_without_a_last_linear_layer_too():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval().requires_grad_(False)
    found = what(P.model_copy(update={"components": ["0"]}), model=model)
    assert "no linear module" in found.missing["data"]
    assert found.smooth == {}


def test_a_game_that_nobody_moves_is_refused():
    with pytest.raises(BadInputError, match="the value of the game of 2 players does not move with them"):
        splits(Game(lambda w: 0 * w.sum(1), ["a", "b"]), P, scaled=False)
