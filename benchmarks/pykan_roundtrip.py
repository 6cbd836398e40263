"""Claim: our KANs handed to pykan, and pykan's models taken over, compute the same on random inputs."""

import torch

from kanlib import claims
from kanlib.kan import KAN
from kanlib.pykan import from_pykan, quietly, to_pykan
from kanlib.setups import generator

WIDTHS = ([8, [5, 0], [1, 0]], [8, [4, 2], [1, 0]], [12, [6, 2], [4, 0], [1, 0]])


def ours(width: list, order: int) -> KAN:
    """Random KANs with uneven grids."""
    source = generator(0, "roundtrip", str(width), order)
    nodes = [width[0], *(h + q for h, q in width[1:])]
    sums = [h + 2 * q for h, q in width[1:]]
    layers = list(zip(sums, nodes, strict=False))
    grids = tuple((torch.rand(4, i, 6, generator=source) + 0.3).cumsum(-1) - 2.5 for _, i in layers)
    coefs = tuple(0.3 * torch.randn(4, o, i, 6 + order, generator=source) for o, i in layers)
    return KAN(grids, coefs, tuple(q for _, q in width[1:]), torch.randn(4, generator=source), order)


def theirs(width: list, order: int) -> object:
    """A pykan model as pykan starts it, its grids laid over data."""
    from kan import MultKAN  # slow to import

    with quietly():
        model = MultKAN([list(w) if isinstance(w, list) else w for w in width], grid=5, k=order, auto_save=False)
        model.update_grid_from_samples(torch.randn(500, width[0]))
    return model


def main() -> None:
    errors = []
    with torch.no_grad():
        for width in WIDTHS:
            for order in (3, 5):
                x = torch.randn(2000, width[0], generator=generator(0, "inputs", width[0]))
                kan, model = ours(width, order), theirs(width, order)
                pairs = zip(kan(x), to_pykan(kan), strict=True)
                for here, there in [
                    *((h, m(x)[:, 0]) for h, m in pairs),
                    (from_pykan([model])(x)[0], model(x)[:, 0]),
                ]:
                    errors.append(float((here - there).abs().max() / there.std()))
    claims.record(
        [
            claims.Claim(
                id="kan.pykan_roundtrip_error",
                statement="Largest difference between a KAN and its pykan counterpart, either way, over the "
                f"standard deviation of the output ({len(errors)} networks, 2000 random inputs each, fp32)",
                value=max(errors),
                low=min(errors),
                high=max(errors),
                target="<= 1e-5",
                command="python benchmarks/pykan_roundtrip.py",
                cost="fast",
                device="cpu",
            )
        ]
    )


if __name__ == "__main__":
    main()
