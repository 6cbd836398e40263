import pytest
import torch
import yaml

from kanlib import setups, store
from kanlib.errors import BadInputError
from kanlib.masks import Split, removals, subsets
from kanlib.networks import prompting
from kanlib.networks.language import next_token
from kanlib.networks.probe import Probe
from kanlib.networks.prompting import beyond_the_sum, prompted
from kanlib.networks.speakers import speaker
from kanlib.setups import Language
from tests.language import small_speaker

SMALL = {
    "model": "llama2c:llama",
    "n_stories": 60,
    "shortest": 4,
    "longest": 8,
    "choose": "any",
    "n_examples": 3,
    "n_development": 2,
    "n_fit": 30,
    "n_validation": 7,
    "n_test": 8,
    "n_reference": 11,
    "batch_size": 6,
}
M = 10


@pytest.fixture
def rewrite(tmp_path, monkeypatch):
    """Write the small setup, with changes, and give its knobs."""
    for name in ("setups", "responses"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(setups, "FOLDER", tmp_path / "setups")
    monkeypatch.setattr(store, "RESPONSES", tmp_path / "responses")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(prompting, "_BLOCK", 10)
    small_speaker(tmp_path / "llama")

    def write(**changes):
        whole = {"threads": 1, "language": SMALL | changes}
        (tmp_path / "setups" / "small.yaml").write_text(yaml.safe_dump(whole), encoding="utf8")
        return Language.from_setup("small")

    return write


def test_answers_are_those_of_the_model(rewrite):
    p = rewrite()
    found, _ = prompted(p)
    speaks = speaker(p.model)
    texts = prompting.prompts(speaks, p)
    probe = Probe(speaks.model, found.components, texts.tokens, texts.rows, output_function=next_token(texts))
    responses, clean = probe.responses(found.splits["fit"].masks, None)
    torch.testing.assert_close(found.splits["fit"].responses, responses, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(found.clean, clean)
    slopes = probe.gradients(found.reference, None)
    assert found.gradient.shape == (5, 11, M)
    torch.testing.assert_close(found.gradient, slopes, rtol=2e-3, atol=1e-3)
    assert found.splits["removed"].masks.shape == (M * (M + 1) // 2, M)


def test_prompts_are_beginnings_of_stories_and_development_apart(rewrite):
    p = rewrite()
    speaks = speaker(p.model)
    texts = prompting.prompts(speaks, p)
    assert ((texts.starts >= 4) & (texts.starts <= 8)).all()
    assert (texts.lengths == texts.starts + 1).all()
    reported, development = prompted(p)[0].parts()
    assert (len(reported.pieces), len(development.pieces)) == (3, 2)
    assert not {tuple(row) for row in reported.pieces} & {tuple(row) for row in development.pieces}
    assert [len(row) for row in reported.pieces + development.pieces] == texts.lengths.tolist()


def test_what_is_said_without_a_pair_is_what_the_model_says(rewrite):
    p = rewrite()
    found, speaks = prompted(p)[0], speaker(p.model)
    texts = prompting.prompts(speaks, p)
    n, start = int(texts.lengths[0]), int(texts.starts[0])
    tokens = texts.tokens[:1, :n]
    log_p = speaks.model(tokens)[0].log_softmax(-1)
    told = torch.stack([log_p[t - 1, tokens[0, t]] for t in range(1, n)])
    torch.testing.assert_close(found.told[0, 0, 1:n], told, rtol=2e-3, atol=2e-3)
    assert not found.told[0, :, n:].any()
    _, likeliest = found.likely[0][0][0]
    assert likeliest == pytest.approx(float(log_p[start - 1].max().exp()), abs=1e-5)
    beyond = beyond_the_sum(found.splits["removed"], M)
    pairs = [s for s in subsets(M, 2) if len(s) == 2]
    assert tuple(found.pair[0].tolist()) == pairs[int(beyond[0].abs().argmax())]


def test_a_sum_has_nothing_beyond_it():
    masks = removals(3, subsets(3, 2))
    weights = torch.tensor([[1.0, 2.0, -3.0]])
    assert not beyond_the_sum(Split(masks, weights @ masks.T), 3).any()
    product = (masks[:, 0] * masks[:, 2])[None]
    assert beyond_the_sum(Split(masks, product), 3).tolist() == [[0.0, 1.0, 0.0]]


def test_a_recording_says_the_same_as_the_model_and_may_be_asked_for_less(rewrite):
    live = prompted(rewrite())[0]
    kept = prompting.record("small")
    assert kept.name == "small.language.safetensors"
    frozen = prompted(rewrite(source="frozen"))[0]
    assert all(torch.equal(split.responses, live.splits[k].responses) for k, split in frozen.splits.items())
    assert torch.equal(frozen.gradient, live.gradient)
    assert frozen.pieces == live.pieces
    assert [[[*map(tuple, some)] for some in one] for one in frozen.likely] == live.likely
    less = prompted(rewrite(source="frozen", n_examples=2, n_development=1, n_fit=20, n_reference=5))[0]
    assert torch.equal(less.splits["fit"].responses, live.splits["fit"].responses[[0, 1, 3], :20])
    assert torch.equal(less.gradient, live.gradient[[0, 1, 3], :5])
    assert less.reported == 2


def test_a_recording_is_gone_on_with_where_it_stopped(rewrite, monkeypatch):
    rewrite()
    kept = prompting.record("small")
    whole, asked = kept.read_bytes(), []
    responses = Probe.responses
    monkeypatch.setattr(
        Probe, "responses", lambda s, sigma, *a: (asked.append(len(sigma)), responses(s, sigma, *a))[1]
    )
    prompting.record("small")
    assert asked == []
    rewrite(n_fit=40)
    prompting.record("small")
    assert asked == [10]
    store.remove(kept)
    rewrite()
    prompting.record("small")
    assert kept.read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_examples": 4}, "3 reported and 2 development prompts were recorded, expected 4 and 2; lower"),
        (
            {"n_fit": 31},
            "31 masks of fit were asked for, but 30 were recorded; lower n_fit, or set source to live",
        ),
        ({"scale": 0.5}, "scale is 0.5, but 1.0 was recorded; take that, or set source to live"),
        ({"longest": 9}, "longest is 9, but 8 was recorded; take that"),
    ],
)
def test_what_was_not_recorded_is_refused(rewrite, changes, sentence):
    rewrite()
    prompting.record("small")
    with pytest.raises(BadInputError, match=sentence):
        prompted(rewrite(source="frozen", **changes))


def test_without_a_recording_the_command_is_said(rewrite):
    with pytest.raises(BadInputError, match=r"small.language.safetensors is missing.* make record SETUPS=small"):
        prompted(rewrite(source="frozen"))


def test_a_recording_of_another_model_is_not_gone_on_with(rewrite, tmp_path):
    rewrite()
    prompting.record("small")
    for file in (tmp_path / "llama").iterdir():
        file.unlink()
    (tmp_path / "llama").rmdir()
    small_speaker(tmp_path / "llama", seed=1)
    with pytest.raises(BadInputError, match=r"was recorded with other (tokens|inputs); move it away"):
        prompting.record("small")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"longest": 16}, "prompts of 4 to 16 tokens were asked for, expected fewer than 16, the context"),
        ({"shortest": 9}, "prompts of 9 to 8 tokens were asked for"),
        ({"n_examples": 60}, "n_examples is 60, but there are"),
        ({"model": "nobody"}, "the language model 'nobody' is of no known kind"),
    ],
)
def test_prompts_that_cannot_be_had_are_refused(rewrite, changes, sentence):
    with pytest.raises(BadInputError, match=sentence):
        prompted(rewrite(**changes))
