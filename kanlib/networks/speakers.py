"""Which language model speaks: a Llama of llama2.c's format, or a model of transformers from a local place.

Nothing is downloaded: a name of transformers is looked up where its models were put before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kanlib import store
from kanlib.errors import BadInputError, cause, shown
from kanlib.networks import llama, tokens
from kanlib.networks.patterns import plain
from kanlib.networks.texts import bounds

_HEADS = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Speaker:
    """A language model with its tokeniser.

    Attributes:
        model: in evaluation mode, fp32; its parameters ask for no gradients.
        encoder: the model's own tokeniser, which has ``encode`` and ``decode``.
        beginning: the token before a text.
        hash: SHA-256 of the weights.
    """

    model: nn.Module
    encoder: Any
    beginning: int
    hash: str

    def pieces(self, row: Sequence[int]) -> list[str]:
        """How each token of a text reads; that of a beginning is empty."""
        return ["" if token == self.beginning else self.encoder.decode([token]) for token in row]


def speaker(name: str) -> Speaker:
    """The model of that name.

    Args:
        name: ``llama2c:<folder>``, which holds one checkpoint ``*.bin`` beside its tokeniser ``tok*.bin``; or
            ``transformers/<name or folder>``. Folders are seen from the project's root.

    Raises:
        BadInputError: another name; nothing readable there; transformers is absent, or its model has no language
            head, no beginning of a text or another vocabulary than its tokeniser.
    """
    if name.startswith("llama2c:"):
        return _of_llama2c(store.ROOT / name.removeprefix("llama2c:"))
    if name.startswith("transformers/"):
        return _of_transformers(name.removeprefix("transformers/"))
    raise BadInputError(
        f"the language model {shown(name)} is of no known kind, expected llama2c:<folder> or "
        "transformers/<name or folder>; name one."
    )


def _of_llama2c(folder: Path) -> Speaker:
    files = sorted(folder.glob("*.bin"))
    tokenisers = [file for file in files if file.name.startswith("tok")]
    checkpoints = [file for file in files if file not in tokenisers]
    if len(checkpoints) != 1 or len(tokenisers) != 1:
        raise BadInputError(
            f"the folder {plain(str(folder))} holds {len(checkpoints)} checkpoints and {len(tokenisers)} "
            "tokenisers, expected one file *.bin and one tok*.bin; take both from the model's source."
        )
    model, encoder = llama.read(checkpoints[0]), tokens.read(tokenisers[0])
    _check_vocabulary(len(encoder), model)
    return Speaker(model, encoder, tokens.BEGINNING, store.tensors_hash(_own(model)))


def _of_transformers(name: str) -> Speaker:
    try:
        import transformers
    except ImportError:
        raise BadInputError(
            f"the language model transformers/{plain(name)} needs transformers, which is not installed; "
            "install the extra: pip install -e '.[language]'."
        ) from None
    folder = store.ROOT / name
    place = str(folder) if folder.is_dir() else name
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(place, local_files_only=True)
        _check_head(config.architectures or [], name)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            place, config=config, local_files_only=True, dtype=torch.float32, use_safetensors=True
        )
        encoder = transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
    except BadInputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BadInputError(
            f"the language model transformers/{plain(name)} cannot be read ({cause(error)}), expected a folder or "
            "a name whose safetensors and tokeniser are on this machine; fetch them first."
        ) from error
    model.config.use_cache = False
    beginning = encoder.bos_token_id if encoder.bos_token_id is not None else encoder.eos_token_id
    if beginning is None:
        raise BadInputError(
            f"the tokeniser of {plain(name)} has no token for the beginning of a text, expected bos_token or "
            "eos_token; set it."
        )
    _check_vocabulary(len(encoder), model)
    model = model.eval().requires_grad_(False)
    return Speaker(model, encoder, beginning, store.tensors_hash(_own(model)))


def _check_head(kinds: Sequence[str], name: str) -> None:
    if not any(kind.endswith(_HEADS) for kind in kinds):
        raise BadInputError(
            f"the model {plain(name)} is a {', '.join(map(plain, kinds)) or 'model of no said kind'}, which has "
            "no language head, expected one that says which token comes next; take a …ForCausalLM or …LMHeadModel."
        )


def _check_vocabulary(n: int, model: nn.Module) -> None:
    vocabulary, _ = bounds(model)
    if n > vocabulary:
        raise BadInputError(
            f"the tokeniser knows {n} tokens and the model {vocabulary}, expected no more than it; take the "
            "tokeniser that belongs to the model."
        )


def _own(model: nn.Module) -> dict[str, torch.Tensor]:
    """Its weights, those that are shared once."""
    return {name: value.detach() for name, value in model.named_parameters()}
