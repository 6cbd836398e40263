import pytest
import torch

from kanlib import store
from kanlib.errors import BadInputError
from kanlib.networks.components import find
from kanlib.networks.speakers import speaker
from kanlib.networks.stories import sampled
from kanlib.networks.texts import documents, prompts
from tests.language import small_gpt2, small_speaker


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    return transformers, tmp_path_factory.mktemp("models")


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROOT", tmp_path)
    small_speaker(tmp_path / "llama")
    return speaker("llama2c:llama")


def test_a_llama_speaks_with_its_own_tokeniser(small):
    tokens = small.encoder.encode("ab c")
    assert small.pieces(tokens) == ["", " ab", " ", "c"]
    assert small.model.shape.n_tokens == len(small.encoder)
    assert not small.model.training
    assert speaker("llama2c:llama").hash == small.hash


def test_a_model_of_transformers_speaks(gpt2):
    speaks = speaker(f"transformers/{small_gpt2(gpt2[0], gpt2[1] / 'whole')}")
    assert speaks.beginning == 0
    assert speaks.pieces([0, *speaks.encoder.encode("ab")]) == ["", "a", "b"]
    assert not any(weight.requires_grad for weight in speaks.model.parameters())
    assert find(speaks.model, ["transformer.h.*.attn[*]", "transformer.h.*.mlp"]) == [
        f"transformer.h.{i}.{part}" for i in range(2) for part in ("attn[0]", "attn[1]", "mlp")
    ]
    stories = sampled(speaks.model, 5, most=9, beginning=speaks.beginning)
    assert sampled(speaks.model, 2, most=9, beginning=speaks.beginning) == stories[:2]
    assert all(story[0] == 0 and 0 not in story[1:] and len(story) <= 9 for story in stories)


def test_stories_of_a_model_without_kept_keys_are_those_of_one_with_them(small):
    class Plain(torch.nn.Module):
        """The Llama behind a module that keeps nothing."""

        def __init__(self, model):
            super().__init__()
            self.model, self.shape = model, model.shape

        def forward(self, tokens):
            return self.model(tokens)

    assert sampled(Plain(small.model), 6, seed=2) == sampled(small.model, 6, seed=2)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpt2", "the language model 'gpt2' is of no known kind, expected llama2c:<folder> or transformers/"),
        ("llama2c:nowhere", "holds 0 checkpoints and 0 tokenisers, expected one file"),
    ],
)
def test_a_name_that_is_none_is_refused(name, sentence):
    with pytest.raises(BadInputError, match=sentence):
        speaker(name)


def test_a_model_without_a_language_head_is_refused(gpt2):
    folder = small_gpt2(gpt2[0], gpt2[1] / "headless", head=False)
    with pytest.raises(BadInputError, match="is a GPT2Model, which has no language head, expected one that says"):
        speaker(f"transformers/{folder}")


def test_a_model_that_is_not_on_this_machine_is_not_downloaded(gpt2, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInputError, match=r"transformers/no/such-model cannot be read \(.*fetch them first"):
        speaker("transformers/no/such-model")


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(BadInputError, match=r"needs transformers, which is not installed; install the extra"):
        speaker("transformers/gpt2")


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda s: documents([""], s.encoder, s.model), "text 1 is '', expected a text that is not empty"),
        (lambda s: documents(["a" * 40], s.encoder, s.model), "has 42 tokens, expected at most 16, the context"),
        (
            lambda s: prompts(["b"], ["c"], s.encoder, s.model),
            "prompt 1 ends in other tokens where 'c' follows, expected those that it has alone",
        ),
    ],
)
def test_texts_that_a_speaker_cannot_take_are_refused(small, ask, sentence):
    with pytest.raises(BadInputError, match=sentence):
        ask(small)
