"""Shards: stretches of a setup's examples that are computed on their own, on one machine or on many.

Examples are computed in *blocks* of a fixed number, counted from the first, and a shard is a whole number of them.
So the numbers of an example depend on its block, and neither on how many shards there are nor on who computes
them.
A shard is called by its first and its last example, ``17-32``, counted from 1 as images are.
"""

from kanlib.errors import BadInputError

#: What a shard is called, as a regular expression.
NAME = r"[1-9][0-9]{0,7}-[1-9][0-9]{0,7}"


def plan(n: int, block: int, shards: int) -> list[str]:
    """The shards that n examples are split into: ``shards`` of them as even as whole blocks allow, or fewer.

    Where n grows and ``shards`` with it, those that are there stay what they are.

    Raises:
        BadInputError: ``shards`` is not 1 or more.
    """
    if shards < 1:
        raise BadInputError(f"shards is {shards}, expected 1 or more; set shards.")
    size = block * -(-n // (block * shards))
    return [f"{first + 1}-{min(first + size, n)}" for first in range(0, n, size)]


def rows(shard: str | None, n: int, block: int) -> slice:
    """Where the examples of a shard stand among n of them; ``None``: all.

    Raises:
        BadInputError: it reaches beyond them, or splits a block.
    """
    if shard is None:
        return slice(0, n)
    first, last = (int(end) for end in shard.split("-"))
    if not first <= last <= n:
        raise BadInputError(f"shard is {shard}, expected first-last of {n} examples; correct shard.")
    if (first - 1) % block or (last % block and last < n):
        raise BadInputError(
            f"shard {shard} splits a block of {block} examples, which would change their numbers; let it begin "
            "after a multiple of block, and end with one."
        )
    return slice(first - 1, last)
