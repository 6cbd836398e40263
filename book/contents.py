"""What the book is made of besides prose: its table of contents, and pages for setups that nobody recorded yet."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from kanlib.errors import spoken
from kanlib.files import write_whole
from kanlib.setups import Training


def toc(template: str, pages: Mapping[str, Sequence[str]]) -> str:
    """The table of contents in YAML: ``template`` with a part for each setup, whose ``pages`` these are.

    The template has an empty part for the first setup; every other one gets a part after it.
    """
    whole = yaml.safe_load(template)
    at = next(i for i, part in enumerate(whole["parts"]) if not part["chapters"])
    captions = {next(iter(pages)): whole["parts"].pop(at)["caption"]}
    whole["parts"][at:at] = [
        {
            "caption": captions.get(setup, setup),
            "chapters": [{"file": f"setups/{setup}/{page}"} for page in of_setup],
        }
        for setup, of_setup in pages.items()
    ]
    return yaml.safe_dump(whole, sort_keys=False)


def pending(template: str, setup: str) -> str:
    """The page that stands for the chapters of a setup which nobody recorded."""
    return template.format(**Training.from_setup(setup).model_dump())


if __name__ == "__main__":
    what, source, target, argument = sys.argv[1:]
    text = Path(source).read_text(encoding="utf8")
    with spoken():
        made = toc(text, json.loads(argument)) if what == "toc" else pending(text, argument)
        write_whole(Path(target), made.encode())
