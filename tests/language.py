"""Small language models, and the published story of a trained one."""

import torch

from kanlib import store
from kanlib.networks.llama import Llama, Shape

#: Where the Llama of 260 thousand parameters lies beside the project.
WEIGHTS = store.ROOT.parent / "shared" / "weights" / "stories260K"
BEGUN = 1
#: What it says at temperature 0, by llama2.c's doc/stories260K.md (MIT licence).
PUBLISHED = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she "
    "saw a big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She said, \"I want "
    "to play with your ball, but I can't find it.\"\n"
    "Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to do.\"\n"
    "Lily didn't want to help her mom, so she said, \"I'm sorry, mom. I didn't know what to do.\" Her mom said, "
    "\"Don't worry, Lily. We can help you."
)


def small_llama(seed=0):
    """A random Llama of 2 layers, whose 4 heads share 2 keys, for 30 tokens and texts of up to 12."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Llama(Shape(16, 20, 2, 4, 2, 30, 12)).eval().requires_grad_(False)


def tokens_like(model, n, length, seed=0):
    """Random tokens ``[n, length]``, none of which is the last of the vocabulary."""
    return torch.randint(model.shape.n_tokens - 1, (n, length), generator=torch.Generator().manual_seed(seed))
