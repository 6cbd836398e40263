"""What is said: surrogates side by side, interaction coefficients, their averages, and how sure they are.

Example: a linear surrogate, coefficients up to order 3 at σ = 0, and averaged over the masks::

    predicted = fitted("linear", Surrogate(), fit, validation).predict(test.masks)
    index, at_rest = of_kan(kan, 3)          # subsets S, and L_S [E, n_S]; of_symbolic for one symbolic KAN
    level, errors = smoothed_of_surrogate(kan, 8, fit.scale, 3)
    averaged = bias_corrected(level, Batch(faithful), fit, 3)
    fidelity(averaged, reference, index)     # beside the network's own, as a table

Example: the five components to remove so that the first image is classified rightly and the others stay::

    coar = Coar().fit(fit, validation)
    found = edit(coar.weights, targets=[0], references=range(1, 51), k=5)
    found.removed, found.targets, found.mask(m)   # which, the predicted change, and the mask to ask a network with

Example: the fewest components whose removal changes a class, by the closed form, and how far off the network is::

    smallest_flips(faithful, clean).masks    # proved smallest; clean are the margins of the intact network
    Radii.of(test.responses - Batch(faithful)(test.masks), test.masks).over(-end, end)

Example: patches, training images and components of one prediction, each as the players of a game::

    what = prediction(Views(), model, data)
    by_perturbation(what.games["data"], Views())["Shapley"].values    # what groups of training images are worth
    Game(value, players).hessians(weights)       # of any differentiable value of weights [N, m]
"""

from kanlib.attribution.asking import informative, n_coefficients, trial
from kanlib.attribution.averages import bias_corrected, smoothed, smoothed_of_network, smoothed_of_surrogate
from kanlib.attribution.baselines import BASELINES
from kanlib.attribution.certainty import certainty_table, fidelity, resampled, significance
from kanlib.attribution.coar import Coar, of_singles, spanned
from kanlib.attribution.coefficients import (
    derivative_errors,
    of_expression,
    of_kan,
    of_symbolic,
    pair_matrix,
    similarity_order,
)
from kanlib.attribution.conformal import Radii
from kanlib.attribution.data import Retrained, grouped, per_group, tracin
from kanlib.attribution.editing import (
    Edit,
    edit,
    edit_by_pairs,
    misclassified,
    of_class,
    scores,
    screen,
)
from kanlib.attribution.editors import METHODS, Editor, Unit, best
from kanlib.attribution.flips import Flips, smallest_flips, steady_within
from kanlib.attribution.games import Game, by_definition, deletion, every_set, leave_one_out, pointwise, worth
from kanlib.attribution.inputs import along, integrated_hessians
from kanlib.attribution.pair_signs import pair_bounds, sign_holds_within
from kanlib.attribution.pairs import Pairs
from kanlib.attribution.predictions import prediction
from kanlib.attribution.regimes import Trials, budgeted, held_out, in_order, of_size
from kanlib.attribution.regions import Regions, regions
from kanlib.attribution.screened import Screened
from kanlib.attribution.surrogates import SURROGATES, Surrogate, fitted
from kanlib.attribution.views import ROWS, Cell, agreement, by_fits, by_gradients, by_perturbation

__all__ = [
    "BASELINES",
    "METHODS",
    "ROWS",
    "SURROGATES",
    "Cell",
    "Coar",
    "Edit",
    "Editor",
    "Flips",
    "Game",
    "Pairs",
    "Radii",
    "Regions",
    "Retrained",
    "Screened",
    "Surrogate",
    "Trials",
    "Unit",
    "agreement",
    "along",
    "best",
    "bias_corrected",
    "budgeted",
    "by_definition",
    "by_fits",
    "by_gradients",
    "by_perturbation",
    "certainty_table",
    "deletion",
    "derivative_errors",
    "edit",
    "edit_by_pairs",
    "every_set",
    "fidelity",
    "fitted",
    "grouped",
    "held_out",
    "in_order",
    "informative",
    "integrated_hessians",
    "leave_one_out",
    "misclassified",
    "n_coefficients",
    "of_class",
    "of_expression",
    "of_kan",
    "of_singles",
    "of_size",
    "of_symbolic",
    "pair_bounds",
    "pair_matrix",
    "per_group",
    "pointwise",
    "prediction",
    "regions",
    "resampled",
    "scores",
    "screen",
    "sign_holds_within",
    "significance",
    "similarity_order",
    "smallest_flips",
    "smoothed",
    "smoothed_of_network",
    "smoothed_of_surrogate",
    "spanned",
    "steady_within",
    "tracin",
    "trial",
    "worth",
]
