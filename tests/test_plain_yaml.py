import math

import pytest

from kanlib import plain_yaml
from kanlib.errors import shown


def parsed(text):
    return plain_yaml.parsed(text.encode())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# a comment", None),
        ("---", None),
        ("a: 1\r\n", {"a": 1}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: {b: [1, {c: d}], e: []}", {"a": {"b": [1, {"c": "d"}], "e": []}}),
        ("- 1\n- é", [1, "é"]),
        ("a: '1'\nb: \"true\"\nc: |\n  2\n'd': ''", {"a": "1", "b": "true", "c": "2\n", "d": ""}),
    ],
)
def test_mappings_lists_and_single_values_are_read(text, value):
    assert parsed(text) == value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("0.5", 0.5),
        ("5.", 5.0),
        ("-.5", -0.5),
        ("5e-4", 5e-4),
        ("1E+3", 1e3),
        ("3.0e-4", 3e-4),
        ("1e999", math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("Null", None),
        ("", None),
    ],
)
def test_numbers_truths_and_nothing_are_those_of_yaml_1_2(word, value):
    found = parsed(f"[{word}, x]")[0] if word else parsed("a:")["a"]
    assert found == value
    assert type(found) is type(value)


NUMBERS = ("0300", "00", "-01.5", "1_000", "0x1F", "0o17", "0b1", ".inf", "-.INF", ".nan", "٣", "1e", ".", "1.5.2")
TIMES = ("1:30", "1:30.5", "2020-01-01", "2020-01-01T00:00:00Z")
WORDS = ("yes", "No", "on", "OFF", "y", "tRUE", "nUll", "=", "-x")


@pytest.mark.parametrize("word", [*NUMBERS, *TIMES, *WORDS])
def test_what_looks_like_something_else_is_text(word):
    assert parsed(f"a: {word}") == {"a": word}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &x [1]\nb: *x", r"line 1: anchors"),
        ("b: *x", r"line 1: .*aliases"),
        ("a: 1\nb: !!int '3'", r"line 2: .*tags"),
        ("!!python/object/apply:os.system [ls]", "tags"),
        ("a: ! 3", "tags"),
        ("!!str a: 3", "tags"),
        ("a: [layer1.0, !layer1]", "quote such text"),
        ("a:\n- !layer1.0", "quote such text"),
        ("&x a: 3", "anchors"),
        ("a: 1\n<<: {b: 1}", "line 2: '<<' is no name"),
        ("a: 1\nb: 2\na: 3", "line 3: 'a' stands twice"),
        ("a: {b: 1, 'b': 2}", "line 1: 'b' stands twice"),
        ("1: 2", "1 is no name"),
        ("true: 2", "True is no name"),
        ("{? : 2}", "None is no name"),
        ("[a]: 2", "a mapping or list is no name"),
        ("? {a: 1}\n: 2", "a mapping or list is no name"),
        ("a: 1\n---\nb: 2", "line 2: a second document"),
        ("a: " + "9" * 5000, "line 1: a number of 5000 digits"),
        ("a: 0." + "9" * 5000, "a number of 5002 digits"),
        ("[" * 20_000, "more than 10 levels"),
        ("{a: " * 20_000, "more than 10 levels"),
        ("- " * 20_000, "more than 10 levels"),
        ("? " * 20_000, "is no name"),
        ("a: [", r"line 1: expected the node content"),
        ("a: b: c", "line 1: mapping values are not allowed here"),
        ("a:\n\tb: 3", "line 2: found character"),
        ("a: 1\0", "unacceptable character #x0000"),
        ("a: \x07", "unacceptable character #x0007"),
        ('a: "\\UFFFFFFFF"', "OverflowError"),
        ('a: "\\U00110000"', r"chr\(\)"),
        ("%YAML 2.0\n--- {}", "incompatible"),
    ],
    ids=shown,
)
def test_what_a_setup_may_not_say_is_refused_with_its_line(text, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        parsed(text)
    assert len(str(refused.value)) < 200


def test_ten_levels_are_read():
    assert parsed("[" * 10 + "]" * 10) == [[[[[[[[[[]]]]]]]]]]


@pytest.mark.parametrize("raw", ["a: é".encode("latin1"), "a: 1".encode("utf-16"), b"\xff\xfe\x00\x80\x81"])
def test_bytes_that_are_no_utf8_are_refused(raw):
    with pytest.raises(ValueError, match=r"'utf-8' codec can't decode"):
        plain_yaml.parsed(raw)
