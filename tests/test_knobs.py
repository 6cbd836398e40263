import pytest
from pydantic import BaseModel, ConfigDict

from kanlib import knobs
from kanlib.errors import BadInputError


class Model(BaseModel):
    """Some knobs."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    size: knobs.Size = 1
    weight: knobs.Weight = 1.0
    text: knobs.Text = ""
    sizes: list[knobs.Size] = []


def validated(**values):
    return knobs.validated(Model, values, "the test")


def test_values_within_bounds_make_the_model():
    assert validated(size=1000, weight=2, text="é ü\u00a0x" * 600, sizes=[1]) == Model(
        size=1000, weight=2.0, text="é ü\u00a0x" * 600, sizes=[1]
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"size": 1001},
            r"^size is 1001 in the test: input should be less than or equal to 1000; correct it there\.$",
        ),
        ({"size": 10**6000}, "size is a int beyond all bounds .*less than or equal to 1000"),
        ({"size": -(10**6000)}, "size is a int beyond all bounds .*greater than or equal to 1"),
        ({"size": "9" * 10_000}, r"size is '9+… .*valid integer"),
        ({"size": True}, "size is True .*valid integer"),
        ({"size": [[[[1]]]]}, r"size is \[\[\[\[1\]\]\]\] .*valid integer"),
        ({"weight": 10**6000}, "weight is a int beyond all bounds .*valid number"),
        ({"weight": float("nan")}, "weight is nan .*finite number"),
        ({"sizes": [1, 0]}, r"sizes\.1 is 0 .*greater than or equal to 1"),
        ({"sizes": [[1] * 10_000]}, r"sizes\.0 is \[1, 1, .*… in the test: .*valid integer"),
        ({"text": "a\0b"}, r"text is 'a\\x00b' .*: input should have no control characters"),
        ({"text": "a\nb"}, r"text is 'a\\nb' .*no control characters"),
        ({"text": "\ud800"}, r"text is '\\ud800' .*unicode"),
        ({"text": "x" * 5000}, r"text is 'x+… .*at most 4096 characters"),
        ({"siez": 3}, r"parameter siez is unknown to the test; did you mean size\?"),
        ({"x" * 5000: 3}, r"parameter 'x+… is unknown to the test; there are size"),
        ({"\x1b[2J": 3}, r"parameter '\\x1b\[2J' is unknown"),
    ],
)
def test_a_bad_value_is_refused_in_a_short_sentence(values, sentence):
    with pytest.raises(BadInputError, match=sentence) as refused:
        validated(**values)
    assert len(str(refused.value)) < 300
