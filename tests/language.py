"""Small language models, and the published story of a trained one."""

import struct

import numpy as np
import torch

from kanlib import store
from kanlib.networks.llama import Llama, Shape

#: Where the Llama of 260 thousand parameters lies beside the project.
WEIGHTS = store.ROOT.parent / "shared" / "weights" / "stories260K"
BEGUN = 1
END = "<|endoftext|>"
#: A tokeniser of few words, after the bytes.
LEARNT = [b" ", b"a", b"b", b"c", b"ab", b" ab", b"bc", b","]
#: The best merge is that of b and c.
SCORES = [-9.0, -9.0, -9.0, -9.0, -2.0, -3.0, -1.0, -9.0]
PIECES = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(bytes([i]) for i in range(256)), *LEARNT]
N = 259
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


def written_llama(file, model, header=None, extra=()):
    """A checkpoint as llama2.c writes it."""
    shape, state = model.shape, model.state_dict()
    blocks = ["attention_norm", *(f"attention.{w}" for w in ("wq", "wk", "wv", "wo")), "ffn_norm"]
    blocks += [f"feed_forward.{w}" for w in ("w1", "w2", "w3")]
    parts = [state["tok_embeddings.weight"]]
    parts += [state[f"layers.{i}.{block}.weight"] for block in blocks for i in range(shape.n_layers)]
    parts += [state["norm.weight"], model.turns, *extra]
    sizes = [shape.dim, shape.hidden_dim, shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.n_tokens]
    header = np.array(header or [*sizes[:5], -sizes[5] if extra else sizes[5], shape.context], "<i4")
    with file.open("wb") as out:
        out.write(header.tobytes() + b"".join(part.numpy().astype("<f4").tobytes() for part in parts))
    return file


def written_tokens(file, pieces, scores):
    spelt = [b"<0x%02X>" % (i - 3) if 3 <= i < N else piece for i, piece in enumerate(pieces)]
    parts = [struct.pack("<fi", s, len(p)) + p for s, p in zip(scores, spelt, strict=True)]
    file.write_bytes(struct.pack("<i", 9) + b"".join(parts))
    return file


def small_speaker(folder, seed=0):
    """A folder with a random Llama, whose tokens are bytes and few words, and its tokeniser."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Llama(Shape(16, 20, 2, 4, 2, len(PIECES), 16)).eval().requires_grad_(False)
    written_llama(folder / "small.bin", model, extra=[model.output.weight])
    written_tokens(folder / "tok.bin", PIECES, [0.0] * N + SCORES)
    return folder


def small_gpt2(transformers, folder, seed=0, head=True):
    """A folder with a random GPT-2 of two layers and two heads, and a tokeniser of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {piece: i for i, piece in enumerate([END, *"abcdefghijklmnopqrstuvwxyz ."])}
    made = Tokenizer(models.WordLevel(letters, unk_token=END))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END, eos_token=END).save_pretrained(
        folder
    )
    config = transformers.GPT2Config(
        vocab_size=len(letters), n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (transformers.GPT2LMHeadModel if head else transformers.GPT2Model)(config)
    model.save_pretrained(folder)
    return folder
