"""The way to pykan and back, and pykan's own fit."""

import contextlib
import io
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.kan import fitting
from kanlib.kan.kan import KAN
from kanlib.kan.splines import knots
from kanlib.masks import Split


def to_pykan(kan: KAN) -> list[Any]:
    """A ``kan.MultKAN`` for each KAN, with which pykan's plots, pruning and symbolic tools work.

    Random states are left as found and nothing is written.
    """
    models = []
    for e in range(len(kan.bias)):
        model = _new(kan.widths, grid=kan.grids[0].shape[2] - 1, k=kan.order)
        for layer, grid, coef in zip(model.act_fun, kan.grids, kan.coefs, strict=True):
            layer.grid.data = knots(grid[e], kan.order)
            layer.coef.data = coef[e, :, :, 1:].transpose(0, 1).contiguous()
            layer.scale_base.data = coef[e, :, :, 0].T.contiguous()
            layer.scale_sp.data = torch.ones_like(layer.scale_base)
            layer.mask.data = torch.ones_like(layer.scale_base)
        model.node_bias[-1].data = kan.bias[e : e + 1].clone()
        models.append(model.to(kan.bias.device))
    return models


def from_pykan(models: Sequence[Any]) -> KAN:
    """KANs that compute what these pykan models of one shape compute; pruned edges become 0.

    Raises:
        BadInputError: the models differ in shape, or one has what a :class:`KAN` has no place for: symbolic edges,
            a base function other than silu, products, a bias inside, several outputs or grids of other making.
    """
    read = [_read(number + 1, model) for number, model in enumerate(models)]
    if (
        len({(tuple(c.shape for c in coefs), model.k) for (_, coefs, _), model in zip(read, models, strict=True)})
        > 1
    ):
        raise BadInputError("the pykan models differ in shape, expected one; convert them one by one.")
    grids, coefs, biases = zip(*read, strict=True)
    return KAN(
        tuple(torch.stack(layer) for layer in zip(*grids, strict=True)),
        tuple(torch.stack(layer) for layer in zip(*coefs, strict=True)),
        torch.stack(biases),
        models[0].k,
    )


class Knobs(fitting.Knobs, Protocol):
    """What pykan's fit is told; of the others it heeds ``hidden``, ``grid``, ``spline_order`` and ``seed``."""

    @property
    def pykan_steps(self) -> int:
        """LBFGS steps."""
        ...


def fit(data: Split, knobs: Knobs) -> KAN:
    """Fit by pykan's own LBFGS, one example after the other.

    With pykan's defaults: no penalty, and grids that follow the data. Responses are standardised for the fit.

    Args:
        data: masks ``[N, m]`` and responses ``[E, N]``.
        knobs: see :class:`Knobs`.
    """
    x, y, seed, steps = data.masks, data.responses, knobs.seed, knobs.pykan_steps
    mean, deviation = y.mean(1), y.std(1)
    models = []
    for e in tqdm(range(len(y)), "pykan fits", unit="fit", mininterval=1):
        width = [x.shape[1], *knobs.hidden, 1]
        model = _new(width, grid=knobs.grid, k=knobs.spline_order, seed=seed, symbolic_enabled=False)
        target = ((y[e] - mean[e]) / deviation[e])[:, None]
        given = {"train_input": x, "train_label": target, "test_input": x[:2], "test_label": target[:2]}
        with quietly():
            torch.manual_seed(seed)
            model.fit(given, opt="LBFGS", steps=steps, log=steps)
        models.append(model)
    kan = from_pykan(models)
    last = kan.coefs[-1] * deviation[:, None, None, None]
    return KAN(kan.grids, (*kan.coefs[:-1], last), kan.bias * deviation + mean, kan.order)


def _new(width: Sequence, **settings) -> Any:
    from kan import MultKAN  # slow to import, and an extra

    with quietly():
        return MultKAN(list(width), auto_save=False, **settings)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """A context whose working directory, terminal and global random states pykan may have."""
    states = random.getstate(), np.random.get_state(), Path.cwd()  # noqa: NPY002 (the global state is pykan's)
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.random.fork_rng(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(states[2])
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _read(number: int, model: Any) -> tuple[list[Tensor], list[Tensor], Tensor]:
    def refuse(what: str) -> BadInputError:
        return BadInputError(f"pykan model {number} has {what}, which a KAN has no place for; convert it without.")

    if model.base_fun_name != "silu":
        raise refuse(f"the base function {model.base_fun_name}")
    if any(products for _, products in model.width):
        raise refuse("products")
    if model.width_in[-1] != 1:
        raise refuse(f"{model.width_in[-1]} outputs")
    grids, coefs = [], []
    bias = torch.zeros(())
    for depth, layer in enumerate(model.act_fun):
        if model.symbolic_enabled and bool((model.symbolic_fun[depth].mask != 0).any()):
            raise refuse("symbolic edges")
        last = depth == model.depth - 1
        # A bias of the output is a KAN's own; one before another layer is not.
        inside = [] if last else [model.node_bias[depth], model.subnode_bias[depth]]
        if any(bool((b != 0).any()) for b in inside):
            raise refuse("a bias inside")
        grid = layer.grid.data[:, layer.k : -layer.k]
        if not torch.allclose(knots(grid, layer.k), layer.grid.data, atol=1e-5):
            raise refuse("a grid that is not evenly extended")
        scale = model.subnode_scale[depth].data * model.node_scale[depth].data
        base, spline = (
            (weight.data * layer.mask.data * scale).T[..., None] for weight in (layer.scale_base, layer.scale_sp)
        )
        grids.append(grid.clone())
        coefs.append(torch.cat([base, spline * layer.coef.data.transpose(0, 1)], 2))
        if last:
            bias = model.node_scale[depth].data * model.subnode_bias[depth].data + model.node_bias[depth].data
    return grids, coefs, bias.flatten()[0].clone()
