"""Where closed forms come from: the library here, genetic programming (Operon, PySR) or pykan's library.

An engine takes :class:`kanlib.symbolic.edges.Edges` and gives each edge its candidates. Of what it gives, only
what is real and finite on the edge's whole domain goes on, measured here in one way for all.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import sympy
import torch
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.symbolic import library
from kanlib.symbolic.closed_forms import ClosedForm, X
from kanlib.symbolic.edges import Edges
from kanlib.symbolic.grammar import infix

_PYKAN = ["x", "x^2", "x^3", "x^4", "1/x", "1/x^2", "sqrt", "exp", "log", "sin", "tanh", "gaussian"]


class Knobs(Protocol):
    """What Algorithm 2 is told; :class:`kanlib.setups.Symbolic` has the defaults and the ranges."""

    @property
    def backend(self) -> str:
        """A key of :data:`BACKENDS`."""
        ...

    @property
    def block(self) -> int:
        """Examples that are computed together."""
        ...

    @property
    def max_degree(self) -> int:
        """Highest degree of the library's polynomials."""
        ...

    @property
    def evaluations(self) -> int:
        """Of expressions on an edge, by genetic programming."""
        ...

    @property
    def seed(self) -> int:
        """Of genetic programming."""
        ...

    @property
    def r2(self) -> float:
        """Edge R² at which the shortest closed form is taken for the faithful one."""
        ...

    @property
    def max_length(self) -> int:
        """Operations and leaves of an edge of the short form, at most."""
        ...

    @property
    def budget(self) -> float:
        """Validation Pearson that the short form may lose to the KAN."""
        ...

    @property
    def refit_steps(self) -> int:
        """Levenberg–Marquardt steps of the refit at most."""
        ...


def fronts(
    edges: Edges, knobs: Knobs, max_length: float = math.inf, progress: bool = True
) -> list[list[ClosedForm]]:
    """Candidates for each edge, the best constant first.

    Args:
        edges: what is to be met.
        knobs: see :class:`Knobs`.
        max_length: families of the library that are longer than this are not tried.
        progress: whether a bar shows it.

    Raises:
        BadInputError: the backend is unknown or cannot run here.
    """
    backend = knobs.backend
    if backend not in BACKENDS:
        raise BadInputError(f"backend is {backend!r}, expected {', '.join(BACKENDS)}; set backend.")
    if reason := missing(backend):
        raise BadInputError(reason)
    if backend in ("library", "polynomials"):
        return library.fronts(edges, knobs.max_degree, backend == "library", max_length, progress)
    constant = library.fronts(edges, 0, functions=False, progress=progress)
    search = BACKENDS[backend](knobs.evaluations, knobs.seed)
    label = f"closed forms ({backend})"
    bar = tqdm(range(len(edges.y)), label, unit="edge", mininterval=1, disable=not progress)
    return [[constant[e][0], *admissible(search(*_sample(edges, e), e), edges, e)] for e in bar]


def shortest(forms: Iterable[ClosedForm], r2: float) -> ClosedForm:
    """The shortest of these forms with a misfit of at most ``1 − r2``, else the best one."""
    forms = list(forms)
    enough = [form for form in forms if form.known_misfit <= 1 - r2]
    if enough:
        return min(enough, key=lambda form: (form.length, form.known_misfit))
    return min(forms, key=lambda form: form.known_misfit)


def missing(backend: str) -> str:
    """Why a backend cannot run here, in one sentence; empty if it can."""
    module = {"operon": "pyoperon", "pykan": "kan", "pysr": "pysr"}.get(backend)
    if module and find_spec(module) is None:
        extra = {"operon": "operon", "pykan": "paper", "pysr": "pysr"}[backend]
        return f"backend {backend} needs {module}, which is not installed; run pip install 'kanlib[{extra}]'."
    if backend == "pysr" and not _julia():
        return (
            "backend pysr needs Julia, and there is none here; install Julia, or set "
            "PYTHON_JULIAPKG_OFFLINE=no to let PySR download it."
        )
    return ""


def admissible(expressions: Iterable[sympy.Expr], edges: Edges, edge: int) -> list[ClosedForm]:
    """Of these expressions, measured on one edge, those that are real and finite on its whole domain."""
    out = []
    low, high = edges.x_domain[edge, 0].item(), edges.x_domain[edge, -1].item()
    for expression in expressions:
        try:
            form = ClosedForm.of(expression)
        except BadInputError:
            continue  # complex, infinite or unknown: exactly what is to be left out
        if form.finite(low, high):
            out.append(_measured(form, edges, edge))
    return out


def _measured(form: ClosedForm, edges: Edges, edge: int) -> ClosedForm:
    rows = edges.part(edge).rows(form.values(edges.x[edge])[None, :, None])[..., 0]
    r2, misfit = edges.part(edge).quality(rows)
    return ClosedForm(form.template, form.constants, form.offset, r2.item(), misfit.item())


def _sample(edges: Edges, edge: int) -> tuple[np.ndarray, np.ndarray]:
    """The edge at as many points, laid where its inputs lie, for engines that take no weights."""
    x, y, w = (v[edge].numpy() for v in (edges.x_domain, edges.y, edges.weights))
    share = (np.arange(len(x)) + 0.5) / len(x)
    places = np.interp(share, np.cumsum(w) - w / 2, x)
    return places, np.interp(places, x, y)


Search = Callable[[np.ndarray, np.ndarray, int], Iterable[sympy.Expr]]


def _operon(evaluations: int, seed: int) -> Search:
    """Genetic programming with constants fitted by Levenberg–Marquardt; its Pareto front of error and length.

    Source: Burlacu, Kronberger and Kommenda (2020), *Operon C++*.
    """
    from pyoperon.sklearn import SymbolicRegressor

    def search(x: np.ndarray, y: np.ndarray, edge: int) -> Iterable[sympy.Expr]:
        model = SymbolicRegressor(
            allowed_symbols="add,sub,mul,exp,sin,tanh,constant,variable",
            objectives=["mse", "length"],
            population_size=200,
            pool_size=200,
            generations=evaluations,
            max_evaluations=evaluations,
            optimizer_iterations=5,
            max_length=20,
            n_threads=1,
            random_state=_seed(seed, edge),
        )
        scale = max(float(np.abs(y).max()), 1e-300)
        model.fit(x[:, None], y / scale)
        for found in model.pareto_front_:
            try:
                expression = infix(model.get_model_string(found["tree"], 17), "X1")
            except BadInputError:
                continue  # of numbers that are none, or beyond fp64
            yield scale * expression

    return search


def _pysr(evaluations: int, seed: int) -> Search:
    """PySR with its own settings for reproducible runs; its hall of fame.

    Source: Cranmer (2023), *Interpretable machine learning for science with PySR and SymbolicRegression.jl*.
    """
    from pysr import PySRRegressor

    def search(x: np.ndarray, y: np.ndarray, edge: int) -> Iterable[sympy.Expr]:
        model = PySRRegressor(
            binary_operators=["+", "-", "*"],
            unary_operators=["exp", "sin", "tanh"],
            maxsize=20,
            niterations=10_000,
            max_evals=evaluations,
            deterministic=True,
            parallelism="serial",
            random_state=_seed(seed, edge),
            progress=False,
            verbosity=0,
            temp_equation_file=True,
        )
        model.fit(x[:, None], y)
        name = sympy.Symbol("x0")
        return [model.sympy(index).subs(name, X) for index in range(len(model.equations_))]

    return search


def _pykan(evaluations: int, seed: int) -> Search:
    """Pykan's library, ``c·f(a·x + b) + d`` by its own search over a and b; nothing is random.

    Source: Liu et al. (2024), *KAN 2.0*, section 4.
    """
    from kan.utils import SYMBOLIC_LIB, fit_params

    def search(x: np.ndarray, y: np.ndarray, edge: int) -> Iterable[sympy.Expr]:
        points, values = (torch.from_numpy(v).float() for v in (x, y))
        for name in _PYKAN:
            function, written = SYMBOLIC_LIB[name][:2]
            (a, b, c, d), _ = fit_params(points, values, function, verbose=False)
            a, b, c, d = (sympy.Float(v.item()) for v in (a, b, c, d))
            yield c * written(a * X + b) + d

    return search


#: Name → what makes its search from (evaluations, seed); None: not a search edge by edge.
BACKENDS: dict[str, Any] = {
    "library": None,
    "polynomials": None,
    "operon": _operon,
    "pysr": _pysr,
    "pykan": _pykan,
}


def _seed(seed: int, edge: int) -> int:
    return int(torch.randint(2**31, (), generator=generator(seed, "closed forms", edge)))


def _julia() -> bool:
    """Whether Julia is here, or PySR was told that it may fetch it; starts neither."""
    if os.environ.get("PYTHON_JULIAPKG_EXE") or shutil.which("julia"):
        return True
    return os.environ.get("PYTHON_JULIAPKG_OFFLINE") == "no"
