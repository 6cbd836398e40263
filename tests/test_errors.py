import pytest

from kanlib.errors import BadInputError, cause, nearest, shown, spoken, unknown


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (0.5, "0.5"),
        ("line\nbreak\x1b[2J", r"'line\nbreak\x1b[2J'"),
        ("x" * 5000, "'" + "x" * 59 + "…"),
        (int("9" * 4000), "9" * 60 + "…"),
        (10**5000, "a int beyond all bounds"),
        (nested(100_000), "a list beyond all bounds"),
    ],
    ids=range(7),
)
def test_what_a_stranger_gave_is_shown_on_one_short_line(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("digest"), "KeyError: 'digest'"),
        (ValueError(), "ValueError"),
        (RuntimeError("\n\n  first\nsecond"), "RuntimeError: first"),
        (OSError("x" * 500), "OSError: " + "x" * 111 + "…"),
    ],
)
def test_what_a_library_says_is_its_kind_and_its_first_line(error, text):
    assert cause(error) == text


def test_a_command_ends_with_the_sentence_alone():
    with pytest.raises(SystemExit, match="the sentence"), spoken():
        raise BadInputError("the sentence")
    with pytest.raises(KeyError), spoken():
        raise KeyError


def test_in_a_notebook_the_sentence_stands_alone():
    assert BadInputError("the sentence")._render_traceback_() == ["BadInputError: the sentence"]


def test_the_nearest_name_is_suggested_or_all_are_listed():
    assert nearest("gird", ["seed", "grid"]) == "grid"
    assert str(unknown("knob", "gird", ["seed", "grid"], "it")) == "knob gird is unknown to it; did you mean grid?"
    assert (
        str(unknown("knob", "zzz", ["seed", "grid"], "it")) == "knob zzz is unknown to it; there are grid, seed."
    )
