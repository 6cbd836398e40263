"""The component mixer and the story of two components: sliders for σ, without a kernel or in a notebook."""

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import torch
from IPython.display import HTML
from torch import Tensor

from kanlib.attribution.surrogates import Linear
from kanlib.charts import data_url, script_json
from kanlib.errors import BadInputError, shown
from kanlib.masks import Split
from kanlib.networks.answers import Answers
from kanlib.setups import Perturbation, Surrogate
from kanlib.store import Artifact
from kanlib.symbolic.notation import vega
from kanlib.symbolic.symbolic_kan import SymbolicKAN

_SHOWN_MASKS = 500  # test masks that go with the page
_DECIMALS = 3  # of their numbers and of the responses to them
_REACH = 2.0  # of a slider, to either side


def panel(symbolic: Sequence[SymbolicKAN], recorded: Artifact, network: Answers) -> HTML:
    """Controls for the masks of E examples, drawn by ``book/_ext/mixer.js`` where that is loaded.

    The page holds, for each example: its closed form, layer by layer, with every digit of its constants; the
    weights of COAR's ``w·σ``, fitted here to the fit masks; its image where that is at hand; and true responses,
    to the sets whose removal the network answered to and to the first test masks: the mixer shows the nearest.
    Contributions are not written into the page: the browser takes them from the closed form, as

    ``c_i = ĝ(σ_i e_i) − ĝ(0)`` and ``c_ij = ĝ(σ_i e_i + σ_j e_j) − ĝ(0) − c_i − c_j``.

    Args:
        symbolic: symbolic KANs of all examples of ``recorded``, with any number of layers.
        recorded: the responses, as 01_perturbation writes them.
        network: that they are of.

    Raises:
        BadInputError: the closed forms are of other examples or components than the responses, the responses are
            of another network, there are no masks, or a closed form holds what a browser does not evaluate.
    """
    content = _content(symbolic, recorded, network)
    test = Split.read(recorded, "test").part(_SHOWN_MASKS).to(torch.float64)
    masks, responses = (v.round(decimals=_DECIMALS) for v in (test.masks, test.responses))
    removed = network.removals()
    content |= {"masks": masks.tolist(), "removed": [_set(row) for row in removed.masks]}
    for e, example in enumerate(content["examples"]):
        example |= {"responses": responses[e].tolist(), "removed": removed.responses[e].tolist()}
    return _box("mixer", content)


def story(symbolic: Sequence[SymbolicKAN], recorded: Artifact, network: Answers) -> HTML:
    """Two of those sliders, and what network, linear model and closed form say over the whole plane of the two.

    The two components are those of the setup's recorded grid, and the network's answers those of the grid: the
    page has them to the last digit, and ``book/_ext/story.js`` interpolates between its points. Where the network
    was not asked on a grid, the page says so.

    Args, errors: as for :func:`panel`.
    """
    grid = network.grid()
    if not len(grid.masks):
        return HTML("<p>Of this setup the network was not asked on a grid over two components.</p>")
    content = _content(symbolic, recorded, network)
    steps = grid.masks.unique()
    content |= {"pair": grid.masks.any(0).nonzero().flatten().tolist(), "steps": steps.tolist()}
    # Rows as in pair_grid, whichever of the two was named first.
    order = sorted(range(len(grid.masks)), key=lambda n: grid.masks[n, content["pair"]].tolist())
    for e, example in enumerate(content["examples"]):
        example["grid"] = grid.responses[e, order].tolist()
    return _box("story", content)


def live(symbolic: Sequence[SymbolicKAN], network: Answers) -> widgets.VBox:
    """Sliders for a running notebook, where the network itself answers beside the closed form.

    Args:
        symbolic: symbolic KANs of all examples.
        network: what they are of.

    Raises:
        BadInputError: the network is a recording, which answers to recorded masks only.
    """
    names = [(f"{e + 1}: {label}", e) for e, label in enumerate(network.label_names)]
    example = widgets.Dropdown(options=names, description="example")
    looks = {"min": -_REACH, "max": _REACH, "step": 0.05, "continuous_update": False}
    sliders = [widgets.FloatSlider(description=name, **looks) for name in network.components]
    answer = widgets.HTML()

    def ask(_: dict | None = None) -> None:
        e, sigma = example.value, torch.tensor([[slider.value for slider in sliders]])
        true = network.responses("mixer", sigma, slice(e, e + 1))[0].item()
        answer.value = f"closed form {symbolic[e](sigma).item():.3f}, network {true:.3f}"

    ask()
    for control in (example, *sliders):
        control.observe(ask, "value")
    return widgets.VBox([example, *sliders, answer])


def _content(symbolic: Sequence[SymbolicKAN], recorded: Artifact, network: Answers) -> dict[str, Any]:
    """What both pages hold of every example."""
    fit, test = Split.read(recorded, "fit").to(torch.float64), Split.read(recorded, "test")
    n, m = len(fit.responses), fit.masks.shape[1]
    widths = [len(one.symbols) for one in symbolic]
    if widths != [m] * n:
        raise BadInputError(
            f"there are {len(widths)} closed forms of {shown(sorted(set(widths)))} components, expected {n} of "
            f"{m} as the responses; run 03_symbolic again."
        )
    if not (len(fit.masks) and len(test.masks)):
        raise recorded.wrong("it holds no fit masks, or no test masks")
    if recorded.said("inputs", dict).get("network") != network.made_from.hash:
        raise BadInputError(
            "the responses are not those of the network that is there now; run 01_perturbation again."
        )
    linear = Linear(Surrogate()).fit(fit, test).model.coef_
    clean = recorded.tensor("clean", (n,)).tolist()
    return {
        "components": recorded.record["names"],
        "output": Perturbation.of(recorded).output_function,
        "examples": [
            {
                "label": label,
                "image": None if network.images is None else data_url(network.images[e]),
                "clean": clean[e],
                "layers": [[vega(output) for output in layer] for layer in one.hidden],
                "weights": linear[e].tolist(),
            }
            for e, (one, label) in enumerate(zip(symbolic, recorded.record["label_names"], strict=True))
        ],
    }


def _set(mask: Tensor) -> str:
    """A mask that removes a set as the letters that say of each component whether it is in it."""
    return "".join("1" if value else "0" for value in mask.tolist())


def _box(kind: str, content: dict[str, Any]) -> HTML:
    return HTML(
        f'<div class="{kind}"><script type="application/json">{script_json(content)}</script>'
        "<p>In the built book there are sliders here.</p></div>"
    )
