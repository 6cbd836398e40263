"""The component mixer: sliders for σ, on a page without a kernel or in a running notebook."""

import json
from collections.abc import Sequence

import ipywidgets as widgets
import torch
from IPython.display import HTML
from sklearn.linear_model import LinearRegression

from kanlib.networks import Live
from kanlib.notation import vega
from kanlib.store import Artifact
from kanlib.symbolic import SymbolicKAN

_RECORDED = 500  # test masks that go with the page
_DIGITS = 3  # of those masks and responses, after the point
_REACH = 2.0  # of a slider, to either side


def panel(forms: Sequence[SymbolicKAN], recorded: Artifact) -> HTML:
    """Controls for the masks of E examples, drawn by ``book/_ext/mixer.js`` where that is loaded.

    The page holds, for each example: its closed form, layer by layer, with every digit of its constants; COAR's
    weights, fitted here to the fit masks; and the true responses to the first test masks, of which the mixer shows
    the nearest one. Contributions are not written into the page: the browser takes them from the closed form, as

    ``c_i = ĝ(σ_i e_i) − ĝ(0)`` and ``c_ij = ĝ(σ_i e_i + σ_j e_j) − ĝ(0) − c_i − c_j``.

    Args:
        forms: closed forms of all examples of ``recorded``, with any number of layers.
        recorded: the responses, as 01_perturbation writes them.
    """
    fit, test = ((recorded[f"masks.{s}"].double(), recorded[f"responses.{s}"].double()) for s in ("fit", "test"))
    linear = LinearRegression().fit(fit[0].numpy(), fit[1].T.numpy())
    masks, responses = (v[..., :_RECORDED].round(decimals=_DIGITS) for v in (test[0].T, test[1]))
    content = {
        "components": recorded.record["names"],
        "masks": masks.T.tolist(),
        "examples": [
            {
                "name": f"{e + 1}: {label}",
                "layers": [[vega(output) for output in layer] for layer in form.hidden],
                "weights": linear.coef_[e].tolist(),
                "intercept": float(linear.intercept_[e]),
                "responses": responses[e].tolist(),
            }
            for e, (form, label) in enumerate(zip(forms, recorded.record["label_names"], strict=True))
        ],
    }
    # "<" as an escape, so that no name can close the script element.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return HTML(
        f'<div class="mixer"><script type="application/json">{text}</script>'
        "<p>In the built book there are sliders here.</p></div>"
    )


def live(forms: Sequence[SymbolicKAN], network: Live) -> widgets.VBox:
    """Sliders for a running notebook, where the network itself answers beside the closed form.

    Args:
        forms: closed forms of all examples.
        network: what they are of; a recording answers to recorded masks only, so it is refused.

    Raises:
        BadInputError: the network is a recording.
    """
    names = [(f"{e + 1}: {label}", e) for e, label in enumerate(network.label_names)]
    example = widgets.Dropdown(options=names, description="example")
    settings = {"min": -_REACH, "max": _REACH, "step": 0.05, "continuous_update": False}
    sliders = [widgets.FloatSlider(description=name, **settings) for name in network.names]
    answer = widgets.HTML()

    def ask(_: dict | None = None) -> None:
        e, sigma = example.value, torch.tensor([[slider.value for slider in sliders]])
        true = network.responses("mixer", sigma, first=e + 1)[0][e].item()
        answer.value = f"closed form {forms[e](sigma).item():.3f}, network {true:.3f}"

    ask()
    for control in (example, *sliders):
        control.observe(ask, "value")
    return widgets.VBox([example, *sliders, answer])
