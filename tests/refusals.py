"""A plugin of pytest that counts the bad inputs which tests hold against the sentence that they expect.

A test that asks for a :class:`kanlib.errors.BadInputError` with a sentence counts once, right if it passes.
"""

from collections import Counter

import pytest

from kanlib.errors import BadInputError

_RAISES = pytest.raises
_ASKED: set[str] = set()
_COUNTS: Counter[str] = Counter()
_RUNNING: list[str] = []


def _raises(expected, *args, match=None, **more):
    if expected is BadInputError and match is not None and _RUNNING:
        _ASKED.add(_RUNNING[-1])
    return _RAISES(expected, *args, match=match, **more) if match is not None else _RAISES(expected, *args, **more)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    _RUNNING.append(item.nodeid)
    try:
        return (yield)
    finally:
        _RUNNING.pop()


def pytest_runtest_logreport(report):
    if report.when == "call" and report.nodeid in _ASKED:
        _COUNTS["right" if report.passed else "wrong"] += 1


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"bad inputs: {_COUNTS['right']} right, {_COUNTS['wrong']} wrong")


pytest.raises = _raises
