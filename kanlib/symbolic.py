"""Algorithm 2: a closed form for every edge of a KAN, and the KAN as one expression.

``library`` backend: every edge is matched, all edges of all examples at once, against polynomials and
against ``c·f(a·x + b) + e·x + d`` for the functions in :data:`LIBRARY`; the shortest form that reaches the
asked R² is taken, else the best one. Deterministic. The error is weighted by where the edge's inputs lie.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import sympy
import torch
from torch import Tensor
from tqdm import tqdm

from kanlib.errors import BadInputError
from kanlib.kan import KAN

X = sympy.Symbol("x", real=True)

#: Function name → (torch function, sympy function); the ``f`` of ``c·f(a·x + b) + e·x + d``.
LIBRARY = {
    "exp": (torch.exp, sympy.exp),
    "sin": (torch.sin, sympy.sin),
    "tanh": (torch.tanh, sympy.tanh),
    "gaussian": (lambda z: torch.exp(-z * z), lambda z: sympy.exp(-(z**2))),
    "lorentzian": (lambda z: 1 / (1 + z * z), lambda z: 1 / (1 + z**2)),
    "softplus": (lambda z: torch.log1p(torch.exp(z)), lambda z: sympy.log(1 + sympy.exp(z))),
}
_POINTS = 201
_OVERHANG = 0.1  # the domain reaches this share of the inputs' range beyond them, so that tails stay tame
_FLOOR = 0.1  # weight that is spread evenly over the domain, for the same reason
_NAMES = {"Add", "Mul", "Pow", "Integer", "Rational", "exp", "sin", "tanh", "log"}


@dataclass(frozen=True)
class ClosedForm:
    """One edge: ``expression`` in :data:`X`, its weighted ``r2`` and its ``complexity`` (operations + leaves)."""

    expression: sympy.Expr
    r2: float

    def values(self, x: Tensor) -> Tensor:
        """The function at points ``x``, any shape (fp64)."""
        out = sympy.lambdify(X, self.expression, "numpy")(x.double().numpy())
        return torch.from_numpy(np.broadcast_to(out, x.shape).copy())

    @cached_property
    def complexity(self) -> int:
        """Operations and leaves, as sympy counts them."""
        return int(self.expression.count_ops()) + sum(
            1 for n in sympy.preorder_traversal(self.expression) if not n.args
        )


@dataclass(frozen=True)
class SymbolicKAN:
    """A KAN whose edges are closed forms.

    Attributes:
        edges: ``edges[layer][i][o]`` leads from node i to sum o of the next layer.
        products: for each layer the number of product nodes it ends in, see :class:`kanlib.kan.KAN`.
        bias: added to the output.
    """

    edges: Sequence[Sequence[Sequence[ClosedForm]]]
    products: Sequence[int]
    bias: float

    @cached_property
    def symbols(self) -> tuple[sympy.Symbol, ...]:
        """σ_1, …, σ_m."""
        return sympy.symbols(f"sigma_1:{len(self.edges[0]) + 1}", real=True)

    @cached_property
    def hidden(self) -> list[list[sympy.Expr]]:
        """What each layer puts out, as expressions in what enters it (``h_1, …``; σ for the first layer)."""
        out = []
        for layer, (edges, q) in enumerate(zip(self.edges, self.products, strict=True)):
            nodes = self.symbols if layer == 0 else sympy.symbols(f"h_1:{len(edges) + 1}", real=True)
            sums = [
                sum((edges[i][o].expression.subs(X, node) for i, node in enumerate(nodes)), sympy.Float(0))
                for o in range(len(edges[0]))
            ]
            out.append(_multiplied(sums, q))
        return out

    @cached_property
    def expression(self) -> sympy.Expr:
        """``ĝ(σ)``, the whole surrogate as one expression."""
        values = list(self.symbols)
        for layer, outputs in enumerate(self.hidden):
            names = self.symbols if layer == 0 else sympy.symbols(f"h_1:{len(self.edges[layer]) + 1}", real=True)
            values = [output.subs(dict(zip(names, values, strict=True))) for output in outputs]
        return values[0] + self.bias

    def __call__(self, masks: Tensor) -> Tensor:
        """``ĝ(σ)`` ``[N]`` (fp64) at masks ``[N, m]``, edge by edge."""
        h = masks.double()
        for edges, q in zip(self.edges, self.products, strict=True):
            columns = zip(*edges, strict=True)
            sums = [sum(form.values(h[:, i]) for i, form in enumerate(column)) for column in columns]
            h = torch.stack(_multiplied(sums, q), 1)
        return h[:, 0] + self.bias

    def to_json(self) -> dict:
        """A JSON value from which :meth:`from_json` restores every number exactly."""
        return {
            "bias": self.bias,
            "products": list(self.products),
            "edges": [
                [[{"srepr": sympy.srepr(f.expression), "r2": f.r2} for f in row] for row in layer]
                for layer in self.edges
            ],
        }

    @classmethod
    def from_json(cls, value: dict) -> "SymbolicKAN":
        """Read :meth:`to_json`; nothing is evaluated but constructors of numbers and known functions."""
        edges = [
            [[ClosedForm(parse(f["srepr"]), f["r2"]) for f in row] for row in layer] for layer in value["edges"]
        ]
        return cls(edges, value["products"], value["bias"])


def _multiplied(sums: list, q: int) -> list:
    """The last 2q sums multiplied in pairs of neighbours, after those that stand alone."""
    alone = len(sums) - 2 * q
    return [*sums[:alone], *(a * b for a, b in zip(sums[alone::2], sums[alone + 1 :: 2], strict=True))]


def symbolic_kans(kan: KAN, masks: Tensor, *, r2: float = 0.9995, max_degree: int = 9) -> list[SymbolicKAN]:
    """Algorithm 2 for every example: replace each edge function ``φ_e`` of ``kan`` by a closed form.

    Args:
        kan: E fitted KANs.
        masks: the fit masks ``[N, m]``; they tell where each edge's inputs lie.
        r2: edge R² at which the shortest closed form is taken.
        max_degree: highest degree of the polynomials among the candidates.
    """
    inputs = kan.activations(masks)
    forms: list[list] = [[] for _ in kan.bias]
    for layer, coef in enumerate(kan.coefs):
        n_examples, n_out, n_in, _ = coef.shape
        points, weights = _domain(inputs[layer])
        values = kan.edges(layer, points.to(coef)).double()

        def of_edges(of_nodes: Tensor, n_out: int = n_out) -> Tensor:
            return of_nodes.repeat_interleave(n_out, dim=1).flatten(0, 1)

        flat = symbolize(of_edges(points), values.flatten(0, 2), of_edges(weights), r2=r2, max_degree=max_degree)
        for e in range(n_examples):
            of = flat[e * n_in * n_out : (e + 1) * n_in * n_out]
            forms[e].append([of[i * n_out : (i + 1) * n_out] for i in range(n_in)])
    return [SymbolicKAN(edges, kan.products, float(bias)) for edges, bias in zip(forms, kan.bias, strict=True)]


def symbolize(x: Tensor, y: Tensor, weights: Tensor, *, r2: float, max_degree: int) -> list[ClosedForm]:
    """The shortest closed form of each edge with weighted R² of at least ``r2``, else the best one.

    Args:
        x: points ``[n, points]``, each row evenly spaced and rising (fp64).
        y: the edge functions there.
        weights: non-negative, each row sums to 1.
        r2: the R² that suffices.
        max_degree: highest degree of the polynomials.

    Raises:
        BadInputError: a value that is not finite (the edge is named).
    """
    if not y.isfinite().all():
        raise BadInputError(
            f"edge {int((~y.isfinite()).any(1).nonzero()[0])} is not finite on its domain; refit the KAN."
        )
    middle, half = (x[:, -1] + x[:, 0]) / 2, (x[:, -1] - x[:, 0]) / 2
    u = torch.linspace(-1, 1, x.shape[1], dtype=torch.float64)
    families = [partial(_polynomials, degree) for degree in range(max_degree + 1)]
    families += [partial(_wrapped, name) for name in LIBRARY]
    candidates = [
        family(u, y, weights, middle, half)
        for family in tqdm(families, "closed forms", unit="family", mininterval=1)
    ]
    best = []
    for edge in range(len(y)):
        scores = [(float(score[edge]), build) for score, build in candidates]
        enough = [(score, build) for score, build in scores if score >= r2]
        if enough:
            forms = [ClosedForm(build(edge), score) for score, build in enough]
            best.append(min(forms, key=lambda form: (form.complexity, -form.r2)))
        else:
            score, build = max(scores, key=lambda pair: pair[0])
            best.append(ClosedForm(build(edge), score))
    return best


def parse(text: str) -> sympy.Expr:
    """The expression of a ``sympy.srepr`` string, read without evaluating code.

    Raises:
        BadInputError: the text holds anything but numbers, symbols and the functions this module writes.
    """

    def build(node: ast.AST):
        match node:
            case ast.Expression(body=body):
                return build(body)
            # Text reaches only the two that take it literally: sympy evaluates what other constructors are given.
            case ast.Call(func=ast.Name(id="Symbol" | "Float" as name), args=[ast.Constant(value=str() as value)]):
                return getattr(sympy, name)(value, **{k.arg: build(k.value) for k in node.keywords})
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _NAMES:
                return getattr(sympy, name)(*map(build, args))
            case ast.Constant(value=int() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -build(operand)
        raise TypeError(ast.unparse(node))

    try:
        return build(ast.parse(text, mode="eval"))
    except (SyntaxError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"a stored expression begins {text[:40]!r}, expected sympy constructors; run 03_symbolic again."
        ) from error


def latex(expression: sympy.Expr, digits: int = 3) -> str:
    """LaTeX with constants rounded to ``digits`` significant ones, for display only."""
    rounded = expression.xreplace({f: sympy.Float(f, digits) for f in expression.atoms(sympy.Float)})
    return sympy.latex(rounded, full_prec=False)


def latex_lines(form: SymbolicKAN, layer: int, digits: int = 3) -> str:
    """One layer of ``form`` as aligned equations, a line for each term, for display only."""
    edges, q = form.edges[layer], form.products[layer]
    last = layer % len(form.edges) == len(form.edges) - 1
    nodes = form.symbols if layer % len(form.edges) == 0 else sympy.symbols(f"h_1:{len(edges) + 1}", real=True)
    sums = [
        [latex(row[o].expression.subs(X, node), digits) for row, node in zip(edges, nodes, strict=True)]
        for o in range(len(edges[0]))
    ]
    if last:
        sums[0].append(latex(sympy.Float(form.bias), digits))
    text = [r" \\ &\quad + ".join(terms).replace("+ -", "- ") for terms in sums]
    alone = len(text) - 2 * q
    # Brackets that may break across lines.
    factors = [
        rf"\bigl({one}\bigr) \\ &\quad \times \bigl({other}\bigr)"
        for one, other in zip(text[alone::2], text[alone + 1 :: 2], strict=True)
    ]
    left = [r"\hat g"] if last else [f"h_{{{o + 1}}}" for o in range(len(form.hidden[layer]))]
    lines = [f"{name} &= {right}" for name, right in zip(left, [*text[:alone], *factors], strict=True)]
    return r"\begin{aligned}" + r" \\ ".join(lines) + r"\end{aligned}"


def _domain(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Even points ``[E, in, points]`` over each node's inputs ``[E, in, N]``, and their density as weights."""
    low, high = inputs.double().amin(2), inputs.double().amax(2)
    pad = _OVERHANG * (high - low).clamp_min(1e-6)
    low, high = low - pad, high + pad
    u = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    points = low[..., None] + (high - low)[..., None] * u
    bins = ((inputs.double() - low[..., None]) / (high - low)[..., None] * (_POINTS - 1)).round().long()
    density = torch.zeros(points.shape, dtype=torch.float64)
    density.scatter_add_(2, bins, torch.ones_like(bins, dtype=torch.float64))
    density /= density.sum(-1, keepdim=True)
    return points, (1 - _FLOOR) * density + _FLOOR / _POINTS


def _r2(residual: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    centred = y - (weights * y).sum(-1, keepdim=True)
    total = (weights * centred.square()).sum(-1)
    # A constant edge is met exactly by degree 0, up to rounding.
    floor = 1e-20 * (weights * y.square()).sum(-1) + 1e-300
    return 1 - ((weights * residual.square()).sum(-1) / total.clamp_min(floor)).where(
        total > floor, torch.zeros(()).double()
    )


def _polynomials(degree, u, y, weights, middle, half):
    powers = torch.from_numpy(np.polynomial.chebyshev.chebvander(u.numpy(), degree))
    root = weights.sqrt()
    solution = torch.linalg.lstsq(root[..., None] * powers, (root * y)[..., None]).solution[..., 0]
    score = _r2(y - solution @ powers.T, y, weights)

    def build(edge: int) -> sympy.Expr:
        series = np.polynomial.Chebyshev(
            solution[edge].numpy(), [float(middle[edge] - half[edge]), float(middle[edge] + half[edge])]
        )
        coefficients = series.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef
        return sum((sympy.Float(c) * X**p for p, c in enumerate(coefficients)), sympy.Float(0))

    return score, build


def _wrapped(name, u, y, weights, middle, half):
    torch_function, sympy_function = LIBRARY[name]
    slope = torch.cat([s * torch.logspace(-1, 1, 13, dtype=torch.float64) for s in (1, -1)])
    shift = torch.linspace(-6, 6, 25, dtype=torch.float64)
    a, b = (v.flatten() for v in torch.meshgrid(slope, shift, indexing="ij"))
    value = torch_function(a[:, None] * u + b[:, None])
    gain, _ = _gain(value[None], u, y, weights)
    chosen = gain.argmax(1)
    a, b = a[chosen], b[chosen]
    # Pattern search around the best grid point; c, e and d follow by least squares at every step.
    steps = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=torch.float64)
    da, db = (v.flatten() for v in torch.meshgrid(steps, steps, indexing="ij"))
    width = 1.0
    rows = torch.arange(len(y))
    for _ in range(24):
        near_a, near_b = a[:, None] * (1 + 0.3 * width * da), b[:, None] + 0.5 * width * db
        gain, _ = _gain(torch_function(near_a[..., None] * u + near_b[..., None]), u, y, weights)
        chosen = gain.argmax(1)
        a, b = near_a[rows, chosen], near_b[rows, chosen]
        width *= 0.75
    _, (c, e, d) = _gain(torch_function(a[:, None, None] * u + b[:, None, None]), u, y, weights)
    c, e, d = c[:, 0], e[:, 0], d[:, 0]
    fitted = c[:, None] * torch_function(a[:, None] * u + b[:, None]) + e[:, None] * u + d[:, None]
    score = _r2(y - fitted, y, weights)

    def build(edge: int) -> sympy.Expr:
        A, B, C, E, D, M, H = (float(v[edge]) for v in (a, b, c, e, d, middle, half))
        inner = sympy.Float(A / H) * X + sympy.Float(B - A * M / H)
        return sympy.Float(C) * sympy_function(inner) + sympy.Float(E / H) * X + sympy.Float(D - E * M / H)

    return score, build


def _gain(value: Tensor, u: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Weighted variance of ``y [n, P]`` that ``value [n or 1, C, P]`` explains beyond a line: ``[n, C]``.

    Also the coefficients ``c, e, d`` of ``c·value + e·u + d``.
    """

    def moment(product: Tensor, by: Tensor = weights) -> Tensor:
        # [n, C]: shared candidates are one matrix product, private ones a batched one.
        if product.shape[0] == 1:
            return by @ product[0].T
        return (product @ by[..., None])[..., 0]

    weighted_y = weights * y
    mean_u = (weights @ u)[:, None]
    var_u = (weights @ u.square())[:, None] - mean_u.square()
    mean_y = weighted_y.sum(1, keepdim=True)
    cov_uy = (weighted_y @ u)[:, None] - mean_u * mean_y
    mean_f = moment(value)
    cov_fu = moment(value * u) - mean_f * mean_u
    cov_fy = moment(value, weighted_y) - mean_f * mean_y
    var_f = moment(value.square()) - mean_f.square()
    rest_f = var_f - cov_fu.square() / var_u
    rest_fy = cov_fy - cov_fu * cov_uy / var_u
    # Where a line explains the candidate to rounding, it is no candidate.
    usable = rest_f > 1e-9 * var_f.clamp_min(1e-300)
    c = torch.where(usable, rest_fy / rest_f.where(usable, torch.ones_like(rest_f)), torch.zeros_like(rest_f))
    e = (cov_uy - c * cov_fu) / var_u
    d = mean_y - c * mean_f - e * mean_u
    return c * rest_fy, (c, e, d)
