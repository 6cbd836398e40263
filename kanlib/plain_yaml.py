"""YAML as people write it by hand: text to mappings, lists and single values, and nothing else.

Of plain words those are no text that YAML 1.2 takes for decimal numbers, ``true``, ``false`` and ``null``. What
older versions guess beside them (``yes``, ``0300``, ``1:30``, ``1_000``, dates) is text. What makes a file do
something or grow (tags, anchors and their aliases, merge keys) is refused.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from kanlib.errors import cause, shown

_MOST_LEVELS = 10
_MOST_DIGITS = 100
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def parsed(raw: bytes) -> Any:
    """The one document of a file, as ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool`` and ``None``.

    Args:
        raw: UTF-8.

    Raises:
        ValueError: it is not YAML, or not of this kind; it says in which line and why.
    """
    try:
        return _document(yaml.parse(raw.decode("utf-8-sig"), yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(line + str(error.problem)[:120]) from error
    # PyYAML converts the numbers of escapes and directives unchecked.
    except (yaml.YAMLError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(cause(error)) from error


def _document(events: Iterator[yaml.Event]) -> Any:
    next(events)
    if isinstance(next(events), yaml.StreamEndEvent):
        return None
    value = _value(next(events), events, _MOST_LEVELS)
    next(events)
    if not isinstance(after := next(events), yaml.StreamEndEvent):
        raise _refused(after, "a second document begins")
    return value


def _value(event: yaml.Event, events: Iterator[yaml.Event], levels: int) -> Any:
    """The value that begins with this event, whose other events are taken from ``events``."""
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
        raise _refused(event, "anchors (&), aliases (*) and tags (!) are not used here; quote such text")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if levels == 0:
        raise _refused(event, f"more than {_MOST_LEVELS} levels")
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_value(item, events, levels - 1))
        return items
    found: dict[str, Any] = {}
    while not isinstance(key := next(events), yaml.MappingEndEvent):
        name = _name(key, events)
        if name in found:
            raise _refused(key, f"{shown(name)} stands twice")
        found[name] = _value(next(events), events, levels - 1)
    return found


def _name(key: yaml.Event, events: Iterator[yaml.Event]) -> str:
    if isinstance(key, yaml.CollectionStartEvent):
        raise _refused(key, "a mapping or list is no name")
    name = _value(key, events, 0)
    if not isinstance(name, str) or name == "<<":
        raise _refused(key, f"{shown(name)} is no name")
    return name


def _scalar(event: yaml.ScalarEvent) -> Any:
    text = event.value
    if event.style:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if not _NUMBER.fullmatch(text):
        return text
    if len(text) > _MOST_DIGITS:
        raise _refused(event, f"a number of {len(text)} digits")
    return int(text) if re.fullmatch(r"[-+]?[0-9]+", text) else float(text)


def _refused(event: yaml.Event, what: str) -> ValueError:
    return ValueError((f"line {event.start_mark.line + 1}: " if event.start_mark else "") + what)
