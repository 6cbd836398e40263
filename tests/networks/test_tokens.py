import struct

import pytest

from kanlib.errors import BadInputError
from kanlib.networks import tokens
from kanlib.networks.tokens import BEGINNING, Tokeniser
from tests.language import LEARNT, PIECES, PUBLISHED, SCORES, N, written_tokens


@pytest.fixture
def tokeniser():
    return Tokeniser(PIECES, [0.0] * N + SCORES)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("ab", [b" ab"]),
        ("abc", [b" ", b"a", b"bc"]),
        ("c,ab", [b" ", b"c", b",", b"ab"]),
        ("é", [b" ", b"\xc3", b"\xa9"]),
    ],
)
def test_neighbours_of_the_best_score_become_one(tokeniser, text, pieces):
    found = tokeniser.encode(text)
    assert found[0] == BEGINNING
    assert [tokeniser.pieces[token] for token in found[1:]] == pieces
    assert tokeniser.decode(found) == text


def test_a_letter_that_was_learnt_is_not_spelt_in_bytes(tokeniser):
    assert tokeniser.encode(",")[-1] == N + LEARNT.index(b",")


def test_beginnings_and_ends_are_no_text(tokeniser):
    ab = N + LEARNT.index(b" ab")
    assert tokeniser.decode([ab]) == " ab"
    assert tokeniser.decode([BEGINNING, ab, ab, 2]) == "ab ab"
    assert tokeniser.decode([]) == ""
    assert tokeniser.decode([3 + 0xC3]) == "\ufffd"


@pytest.mark.parametrize("token", [-1, N + len(LEARNT)])
def test_a_token_outside_the_vocabulary_is_refused(tokeniser, token):
    with pytest.raises(BadInputError, match=f"token {token} is outside the vocabulary, expected 0 to 266"):
        tokeniser.decode([1, token])


def test_half_a_letter_is_refused(tokeniser):
    with pytest.raises(BadInputError, match=r"the text 'a\\ud800' holds '\\ud800', which is no letter of UTF-8"):
        tokeniser.encode("a\ud800")


def test_a_file_is_read_as_it_was_written_tokens(tmp_path, tokeniser):
    found = tokens.read(written_tokens(tmp_path / "t.bin", tokeniser.pieces, tokeniser.scores))
    assert found.pieces == tokeniser.pieces
    assert found.scores == tokeniser.scores
    assert len(found) == len(PIECES)


@pytest.mark.parametrize(
    ("spoilt", "sentence"),
    [
        (lambda file: file.unlink(), r"the tokeniser .* cannot be read \(FileNotFoundError.*; name another file"),
        (
            lambda file: file.write_bytes(file.read_bytes()[:-1]),
            "it ends in the middle of token 266; take it",
        ),
        (lambda file: file.write_bytes(file.read_bytes()[:20]), "it ends in the middle of token 1;"),
        (lambda file: file.write_bytes(b""), "it has 0 tokens, fewer than there are bytes"),
        (lambda file: file.write_bytes(struct.pack("<ifi", 1, 0, -7)), "it ends in the middle of token 0"),
    ],
)
def test_a_file_that_is_no_tokeniser_is_refused(tmp_path, tokeniser, spoilt, sentence):
    file = written_tokens(tmp_path / "t.bin", tokeniser.pieces, tokeniser.scores)
    spoilt(file)
    with pytest.raises(BadInputError, match=sentence):
        tokens.read(file)


def test_the_trained_tokeniser_spells_a_story_and_anything_else(stories260k):
    _, tokeniser = stories260k
    for text in (PUBLISHED, "", "Zoë's naïve ☃", "a  b\n\tc"):
        assert tokeniser.decode(tokeniser.encode(text)) == text
    pieces = [tokeniser.pieces[token] for token in tokeniser.encode("Once upon a time")]
    assert pieces[1:] == [b" Once", b" upon", b" a", b" time"]
