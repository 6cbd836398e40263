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


def same_in_transformers(transformers, model):
    """The Llama of transformers with the weights of ours; its rotary pairs lie half a head apart."""
    shape, state = model.shape, model.state_dict()
    config = transformers.LlamaConfig(
        vocab_size=shape.n_tokens,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        use_cache=False,
    )
    names = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    within = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    within |= {f"attention.w{k}": f"self_attn.{k}_proj" for k in "qkvo"}
    within |= {f"feed_forward.w{k}": f"mlp.{to}_proj" for k, to in ((1, "gate"), (2, "down"), (3, "up"))}
    names |= {f"layers.{i}.{a}": f"model.layers.{i}.{b}" for i in range(shape.n_layers) for a, b in within.items()}
    weights = {}
    for name, value in state.items():
        layer = name.removesuffix(".weight")
        if layer.endswith(("wq", "wk")):
            heads = shape.n_heads if layer.endswith("wq") else shape.n_kv_heads
            value = value.view(heads, -1, 2, shape.dim).transpose(1, 2).reshape(value.shape)
        weights[f"{names[layer]}.weight"] = value
    other = transformers.LlamaForCausalLM(config)
    other.load_state_dict(weights)
    return other.eval().requires_grad_(False)
