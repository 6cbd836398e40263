"""The figure of README."""

import re
from xml.etree import ElementTree

import pytest

pytest.importorskip("vl_convert", reason="needs the extra book")
from book import front_figure
from kanlib import store


def test_the_figure_is_what_the_data_say_now():
    assert front_figure.TARGET.read_text(encoding="utf8") == front_figure.svg()


def test_it_stands_alone_in_the_readme():
    root = ElementTree.fromstring(front_figure.TARGET.read_text(encoding="utf8"))  # noqa: S314 (ours)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"<script|<image|href=", front_figure.TARGET.read_text(encoding="utf8"))
    readme = (store.ROOT / "README.md").read_text(encoding="utf8")
    assert f"]({front_figure.TARGET.relative_to(store.ROOT).as_posix()})" in readme
    assert len(readme.splitlines()) <= 80
