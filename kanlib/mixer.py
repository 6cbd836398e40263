"""The component mixer: sliders for σ, on a page without a kernel or in a running notebook."""

from collections.abc import Sequence

import ipywidgets as widgets
import torch
from IPython.display import HTML
from sklearn.linear_model import LinearRegression

from kanlib.charts import script_json
from kanlib.errors import BadInputError, shown
from kanlib.masks import Split
from kanlib.networks.answers import Answers
from kanlib.store import Artifact
from kanlib.symbolic.notation import vega
from kanlib.symbolic.symbolic_kan import SymbolicKAN

_SHOWN_MASKS = 500  # test masks that go with the page
_DECIMALS = 3  # of their numbers and of the responses to them
_REACH = 2.0  # of a slider, to either side


def panel(symbolic: Sequence[SymbolicKAN], recorded: Artifact) -> HTML:
    """Controls for the masks of E examples, drawn by ``book/_ext/mixer.js`` where that is loaded.

    The page holds, for each example: its closed form, layer by layer, with every digit of its constants; COAR's
    weights, fitted here to the fit masks; and the true responses to the first test masks, of which the mixer shows
    the nearest one. Contributions are not written into the page: the browser takes them from the closed form, as

    ``c_i = ĝ(σ_i e_i) − ĝ(0)`` and ``c_ij = ĝ(σ_i e_i + σ_j e_j) − ĝ(0) − c_i − c_j``.

    Args:
        symbolic: symbolic KANs of all examples of ``recorded``, with any number of layers.
        recorded: the responses, as 01_perturbation writes them.

    Raises:
        BadInputError: the closed forms are of other examples or components than the responses, there are no masks,
            or a closed form holds what a browser does not evaluate.
    """
    fit, test = Split.read(recorded, "fit").to(torch.float64), Split.read(recorded, "test").to(torch.float64)
    n, m = len(fit.responses), fit.masks.shape[1]
    widths = [len(one.symbols) for one in symbolic]
    if widths != [m] * n:
        raise BadInputError(
            f"there are {len(widths)} closed forms of {shown(sorted(set(widths)))} components, expected {n} of "
            f"{m} as the responses; run 03_symbolic again."
        )
    if not (len(fit.masks) and len(test.masks)):
        raise recorded.wrong("it holds no fit masks, or no test masks")
    linear = LinearRegression().fit(fit.masks.numpy(), fit.responses.T.numpy())
    few = test.part(_SHOWN_MASKS)
    masks, responses = (v.round(decimals=_DECIMALS) for v in (few.masks, few.responses))
    content = {
        "components": recorded.record["names"],
        "masks": masks.tolist(),
        "examples": [
            {
                "name": f"{e + 1}: {label}",
                "layers": [[vega(output) for output in layer] for layer in one.hidden],
                "weights": linear.coef_[e].tolist(),
                "intercept": float(linear.intercept_[e]),
                "responses": responses[e].tolist(),
            }
            for e, (one, label) in enumerate(zip(symbolic, recorded.record["label_names"], strict=True))
        ],
    }
    return HTML(
        f'<div class="mixer"><script type="application/json">{script_json(content)}</script>'
        "<p>In the built book there are sliders here.</p></div>"
    )


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
