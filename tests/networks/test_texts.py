import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.networks import texts
from kanlib.networks.examples import choose_texts
from kanlib.networks.language import mean_over_tokens, next_token
from kanlib.networks.texts import documents, of_tokens, prompts
from kanlib.setups import Perturbation
from tests.language import small_llama, tokens_like


class Letters:
    """A token a letter, after one of a beginning; ``th`` is a letter of its own."""

    def encode(self, text):
        return [1, *(29 if letter == "þ" else ord(letter) % 28 for letter in text.replace("th", "þ"))]


def test_documents_are_padded_and_all_tokens_but_the_first_predicted():
    found = documents(["abc", "a"], Letters())
    assert found.tokens.tolist() == [[1, 13, 14, 15], [1, 13, 0, 0]]
    assert found.predicted.tolist() == [[False, True, True, True], [False, True, False, False]]
    assert found.rows.tolist() == [0, 1]
    assert len(found) == 2


def test_prompts_are_given_and_their_continuations_predicted():
    found = prompts(["ab", "a"], ["cd", "b"], Letters())
    assert found.starts.tolist() == [3, 2]
    assert found.tokens[found.predicted].tolist() == [15, 16, 14]


def test_prompts_may_have_several_continuations():
    found = prompts(["ab", "a"], [["cd", "c"], ["b", "bcd"]], Letters())
    assert found.tokens.shape == (2, 2, 5)
    assert found.starts.tolist() == [[3, 3], [2, 2]]
    assert found.lengths.tolist() == [[5, 4], [3, 5]]
    assert found.predicted.sum(-1).tolist() == [[2, 1], [1, 3]]


def test_some_of_the_texts_are_not_padded_more_than_they_need():
    found = documents(["abc", "a", "b"], Letters()).of(torch.tensor([2, 1]))
    assert found.tokens.tolist() == [[1, 14], [1, 13]]
    assert documents(["abc"], Letters()).of(slice(0)).tokens.shape == (0, 0)


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("abc\nde\n", lambda: documents(["abc", "de"], Letters())),
        ("abc\tde\nf\tg", lambda: prompts(["abc", "f"], ["de", "g"], Letters())),
        ("abc\td\te\n", lambda: prompts(["abc"], [["d", "e"]], Letters())),
        ("\ufeffabc\r\nde\r\n", lambda: documents(["abc", "de"], Letters())),
    ],
)
def test_a_file_has_a_text_a_line(tmp_path, text, like):
    (tmp_path / "texts.txt").write_bytes(text.encode())
    found, expected = texts.read(tmp_path / "texts.txt", Letters()), like()
    for name in ("tokens", "starts", "lengths"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"abc\n\nd", "text 2 is '', expected a text that is not empty; write one, or leave it out"),
        (b"", "text 1 is ''"),
        (b"abc\td\nd", "line 2 of .* has 0 tabs, expected 1 as the first has; correct it"),
        (b"\xff\xfe", r"the texts .* cannot be read \(UnicodeDecodeError.*a text a line; name another file"),
        (None, r"cannot be read \(FileNotFoundError"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "texts.txt").write_bytes(content)
    with pytest.raises(BadInputError, match=sentence):
        texts.read(tmp_path / "texts.txt", Letters())


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda m: documents([""], Letters(), m), "text 1 is '', expected a text that is not empty"),
        (lambda m: documents(["a", None], Letters(), m), "text 2 is None, expected a text that is not empty"),
        (lambda m: documents([], Letters(), m), "there are no texts, expected one or more"),
        (lambda m: documents(["a" * 12], Letters(), m), "text 1 has 13 tokens, expected at most 12, the context"),
        (
            lambda m: of_tokens([[1, 2], [3, 30]], model=m),
            "text 2 holds token 30, which is outside .* 0 to 29; take",
        ),
        (
            lambda m: of_tokens([[1, -2]]),
            "text 1 holds token -2, which is outside the vocabulary, expected 0 or more",
        ),
        (
            lambda m: of_tokens([[1]]),
            "text 1 has 1 tokens that are given and 0 to predict, expected one or more of",
        ),
        (lambda m: of_tokens([[1, 2]], [0]), "text 1 has 0 tokens that are given and 2 to predict"),
        (
            lambda m: prompts(["at"], ["h"], Letters(), m),
            "prompt 1 ends in other tokens where 'h' follows, expected",
        ),
        (lambda m: prompts(["a"], [""], Letters(), m), "a continuation of prompt 1 is empty, expected one word"),
        (lambda m: prompts([""], ["a"], Letters(), m), "prompt 1 is '', expected a text that is not empty"),
        (
            lambda m: prompts(["a", "b"], ["c"], Letters(), m),
            "there are 2 prompts, and continuations of 1, expected",
        ),
        (
            lambda m: prompts(["a", "b"], [["c"], ["d", "e"]], Letters(), m),
            "prompt 2 has 2 continuations, expected 1",
        ),
        (lambda m: prompts(["a"], [[]], Letters(), m), "prompt 1 has 0 continuations, expected some"),
        (
            lambda m: prompts(["a", "b"], ["c", ["d"]], Letters(), m),
            "some prompts have a text as their continuation",
        ),
        (
            lambda m: prompts(["a", "b"], [["c", "d"], ["e", "f" * 12]], Letters(), m),
            "prompt 2 with 'f+' has 14 tokens, expected at most 12",
        ),
    ],
)
def test_texts_that_no_model_takes_are_refused(made, sentence):
    with pytest.raises(BadInputError, match=sentence):
        made(small_llama())


@pytest.fixture
def some():
    model = small_llama()
    return model, of_tokens(tokens_like(model, 40, 9).tolist(), model=model)


def asked(**knobs):
    return Perturbation(setup="s", **{"choose": "any", "n_examples": 6} | knobs)


def margins(model, found):
    return next_token(found)(model(found.tokens), found.rows)


def test_development_and_reported_texts_never_meet(some):
    model, found = some
    for seed in range(5):
        pools = [choose_texts(model, found, asked(n_examples=20, seed=seed), development=d) for d in (True, False)]
        assert not set(pools[0].tolist()) & set(pools[1].tolist())
    by_knob = choose_texts(model, found, asked(example_set="development"))
    assert torch.equal(by_knob, choose_texts(model, found, asked(), development=True))


def test_texts_are_chosen_by_what_is_read_of_them(some):
    model, found = some
    wrong = choose_texts(model, found, asked(choose="misclassified"))
    assert (margins(model, found.of(wrong)) < 0).all()
    right = choose_texts(model, found, asked(choose="correct", n_examples=1), read=lambda t: lambda o, k: 1.0 - k)
    assert torch.equal(right, choose_texts(model, found, asked(n_examples=1)))
    nearest = choose_texts(
        model,
        found,
        asked(choose="smallest_margin", n_examples=9),
        read=lambda t: lambda o, k: -margins(model, t)[k],
    )
    values = -margins(model, found.of(nearest))
    assert (values > 0).all()
    assert torch.equal(values, values.sort().values)


def test_texts_are_named(some):
    assert choose_texts(*some, asked(examples=[3, 1])).tolist() == [3, 1]
    with pytest.raises(BadInputError, match=r"examples is \[40\], expected different positions from 0 to 39"):
        choose_texts(*some, asked(examples=[40]))


def test_texts_have_no_class(some):
    with pytest.raises(BadInputError, match="only_class is cat, but texts have no class; leave it out"):
        choose_texts(*some, asked(only_class="cat"))


def test_too_few_texts_are_refused(some):
    with pytest.raises(BadInputError, match=r"n_examples is 21, but there are 20 to draw from \(any\)"):
        choose_texts(*some, asked(n_examples=21))


def test_what_is_no_number_chooses_no_text(some):
    model, found = some
    model.norm.weight.data[0] = torch.nan
    with pytest.raises(BadInputError, match="what is read of a text is no number"):
        choose_texts(model, found, asked(choose="correct"), read=mean_over_tokens)
