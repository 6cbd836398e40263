import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.networks.language import mean_over_tokens
from kanlib.networks.stories import sampled
from kanlib.networks.texts import of_tokens
from tests.language import PUBLISHED, small_llama


def test_stories_are_seeded_and_do_not_depend_on_their_number_or_batch():
    model = small_llama()
    whole = sampled(model, 7, seed=3)
    assert sampled(model, 4, seed=3) == whole[:4]
    assert sampled(model, 7, seed=3, batch_size=2) == whole
    assert sampled(model, 7, seed=4) != whole


def test_a_story_ends_before_the_next_begins():
    for story in sampled(small_llama(), 200):
        assert story[0] == 1
        assert 1 not in story[1:]
        assert 1 <= len(story) <= 12
    assert max(map(len, sampled(small_llama(), 50, most=5))) == 5


def test_tokens_are_drawn_with_the_probabilities_of_the_model():
    model, n = small_llama(), 4000
    stories = sampled(model, n, most=2, temperature=0.5, batch_size=1000)
    counts = torch.tensor([story[1] if len(story) > 1 else 1 for story in stories]).bincount(minlength=30)
    p = (model(torch.tensor([[1]]))[0, -1] / 0.5).softmax(-1)
    assert ((counts / n - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"n": 0}, "0 stories of 12 tokens at temperature 1"),
        ({"most": 13}, "3 stories of 13 tokens"),
        ({"most": 1}, "3 stories of 1 tokens"),
        (
            {"temperature": -0.5},
            r"at temperature -0.5 were asked for, 100 at a time, expected 1 or more of 2 to 12",
        ),
        ({"temperature": float("nan")}, "at temperature nan"),
        ({"batch_size": 0}, "0 at a time"),
    ],
)
def test_stories_that_cannot_be_written_are_refused(knobs, said):
    with pytest.raises(BadInputError, match=said):
        sampled(small_llama(), **{"n": 3} | knobs)


def test_the_likeliest_story_is_the_published_one(stories260k):
    model, tokeniser = stories260k
    (story,) = sampled(model, 1, temperature=0, most=257)
    assert tokeniser.decode(story) == PUBLISHED


def test_the_loss_on_sampled_stories_is_the_entropy_of_what_they_are_drawn_from(stories260k):
    model, _ = stories260k
    texts = of_tokens(sampled(model, 40, most=200), model=model)
    with torch.inference_mode():
        logits = model(texts.tokens)
        losses = mean_over_tokens(texts, "loss")(logits, texts.rows)
    n = texts.predicted.sum(-1)
    loss = float((losses * n).sum() / n.sum())
    p = logits[:, :-1].softmax(-1)
    kept = texts.predicted[:, 1:]
    entropies = (-p * p.log()).sum(-1)
    tokens = -p.log().gather(-1, texts.tokens[:, 1:, None])[..., 0]
    error = (tokens - entropies)[kept]
    print(f"loss on {int(n.sum()):,} sampled tokens: {loss:.3f} nats, entropy {float(entropies[kept].mean()):.3f}")
    assert abs(float(error.mean())) < 4 * float(error.std()) / len(error) ** 0.5
    # Published of stories of people: 1.297.
    assert 1.0 < loss < 1.6
