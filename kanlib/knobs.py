"""What a knob can be: types of values with bounds, and the sentence for a value that is none of its type.

What a setup may ask for is finite everywhere, far beyond what is of use, so that no value reaches an allocation or
an integer of C. A field takes one of these as it is, or says its bounds itself: pydantic ignores a second one.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from kanlib.errors import BadInputError, shown, unknown
from kanlib.setup_files import NAMED

Model = TypeVar("Model", bound=BaseModel)


def _of_one_line(text: str) -> str:
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text):
        raise ValueError("input should have no control characters")
    return text


Text = Annotated[str, Field(max_length=4096), AfterValidator(_of_one_line)]
Pattern = Annotated[str, Field(max_length=300), AfterValidator(_of_one_line)]
#: Of masks, images or steps.
Count = Annotated[int, Field(ge=0, le=10_000_000)]
Positive = Annotated[int, Field(ge=1, le=10_000_000)]
Few = Annotated[int, Field(ge=1, le=10_000)]
Batch = Annotated[int, Field(ge=1, le=1_000_000)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
Classes = Annotated[int, Field(ge=1, le=100_000)]
#: Of what is computed with part by part: nodes, intervals, terms.
Size = Annotated[int, Field(ge=1, le=1000)]
Order = Annotated[int, Field(ge=1, le=4)]
Scale = Annotated[float, Field(ge=1e-6, le=1e3)]
Weight = Annotated[float, Field(ge=0, le=1e6)]


def validated(model: type[Model], values: Mapping[str, Any], place: str) -> Model:
    """These values as a model.

    Args:
        model: the schema.
        values: a stranger's.
        place: where they stand, for the sentence.

    Raises:
        BadInputError: a name that the model does not know, or a value that it does not take.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            raise unknown("parameter", spelled(str(first["loc"][0])), model.model_fields, place) from None
        raise BadInputError(f"{said(first, place)}; correct it there.") from None


def said(wrong: ErrorDetails, place: str) -> str:
    """One of pydantic's errors as the beginning of a sentence: what is wrong and what was expected."""
    name = ".".join(str(part) for part in wrong["loc"]) or "what is given"
    expected = wrong["msg"].removeprefix("Value error, ")
    if wrong["type"] == "string_pattern_mismatch":
        expected = f"input should be {NAMED}"
    return f"{spelled(name)} is {shown(wrong['input'])} in {place}: {expected[0].lower() + expected[1:]}"


def spelled(name: str) -> str:
    """A name that a stranger gave, as it is where a sentence can bear it."""
    return name if name.isprintable() and len(name) <= 100 else shown(name)
