"""The book as a NeuroLibre submission, ``_build/neurolibre``: ``make neurolibre`` calls it after ``make book``.

NeuroLibre builds ``content/`` by Jupyter Book 1 in the environment of ``binder/``, and prints ``paper.md`` with
``paper.bib``. What is laid out is a repository of its own: the pages with their executed notebooks, the library
and data that they are made with, and a paper made from ``CITATION.cff`` and the introduction. There is no
``data_requirement.json``, since no data have to be downloaded.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from kanlib.errors import BadInputError, spoken
from kanlib.files import write_whole

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "_build" / "neurolibre"
#: What the pages quote or are computed with, besides ``book`` and artifacts.
WITH = (
    "kanlib",
    "benchmarks",
    "data",
    "notebooks",
    "tests/examples",
    "binder",
    "pyproject.toml",
    "requirements.lock",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
)
#: What ``content`` holds besides pages and chapters.
BESIDES = ("_ext", "_static", "references.bib")
TAGS = ("component attribution", "Kolmogorov–Arnold networks", "symbolic regression", "interpretability", "Python")
REPO2DATA = "repo2data>=2.6.0"  # NeuroLibre calls it in every environment
#: A role of MyST, ``{name}`content```.
ROLE = re.compile(r"\{([\w:]+)\}`([^`]*)`")


def main() -> None:
    """Lay out the book that was built last.

    Raises:
        BadInputError: none was built.
    """
    toc = ROOT / "_build" / "toc.yml"
    if not toc.exists():
        raise BadInputError("_build/toc.yml is missing, expected a built book; run make neurolibre.")
    lay_out(ROOT, toc.read_text(encoding="utf8"), TARGET)


def lay_out(project: Path, toc: str, target: Path) -> None:
    """Make ``target``, anew, of what ``project`` holds and of the pages that a table of contents lists."""
    shutil.rmtree(target, ignore_errors=True)
    for name in WITH:
        _copy(project / name, target / name)
    for name in [*BESIDES, *(page.name for page in (project / "book").glob("*.md"))]:
        _copy(project / "book" / name, target / "content" / name)
    chapters = [Path(chapter["file"]) for part in yaml.safe_load(toc)["parts"] for chapter in part["chapters"]]
    for setup in dict.fromkeys(page.parent for page in chapters if page.parts[0] == "setups"):
        _copy(project / "book" / setup, target / "content" / setup)
        if (made := project / "_artifacts" / setup.name).exists():  # a setup that nobody recorded has none
            _copy(made, target / "_artifacts" / setup.name)
    _copy(project / "book/references.bib", target / "paper.bib")
    requirements = target / "binder/requirements.txt"
    cited = yaml.safe_load((project / "CITATION.cff").read_text(encoding="utf8"))
    texts = {
        target / "README.md": f"# {cited['title']}\n\nA NeuroLibre submission, laid out by `make neurolibre`.\n",
        target / "content/_toc.yml": toc,
        target / "content/_config.yml": config((project / "_config.yml").read_text(encoding="utf8")),
        requirements: f"{requirements.read_text(encoding='utf8')}{REPO2DATA}\n",
        target / "paper.md": paper(cited, (project / "book/introduction.md").read_text(encoding="utf8")),
    }
    for file, text in texts.items():
        write_whole(file, text.encode())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    else:
        shutil.copy(source, target)


def config(text: str) -> str:
    """The book's settings, its extensions being where ``content/_config.yml`` finds them."""
    settings = yaml.safe_load(text)
    extensions = settings["sphinx"]["local_extensions"]
    settings["sphinx"]["local_extensions"] = {name: Path(at).name for name, at in extensions.items()}
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def paper(cited: dict, introduction: str) -> str:
    """The paper: who wrote what and when, and a summary."""
    places = list(dict.fromkeys(author.get("affiliation", "none given") for author in cited["authors"]))
    front: dict[str, Any] = {
        "title": cited["title"],
        "tags": list(TAGS),
        "authors": [
            {
                "name": author.get("name") or f"{author['given-names']} {author['family-names']}",
                **({"orcid": author["orcid"].rpartition("/")[2]} if "orcid" in author else {}),
                "affiliation": places.index(author.get("affiliation", "none given")) + 1,
            }
            for author in cited["authors"]
        ],
        "affiliations": [{"name": place, "index": i} for i, place in enumerate(places, 1)],
        "date": f"{cited['date-released']:%d %B %Y}",
        "bibliography": "paper.bib",
    }
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n# Summary\n\n{summary(introduction)}\n\n# References\n"


def summary(introduction: str) -> str:
    """The paragraphs of a page of MyST that can stand in a paper, as Pandoc reads them.

    Left out are headings, and paragraphs that paste a figure from a run or refer to another page.
    """
    blocks = [block.strip() for block in re.split(r"\n\s*\n", introduction)]
    kept = [
        block
        for block in blocks
        if block
        and not block.startswith(("#", ":::", "```", "(", "<!--"))
        and {role for role, _ in ROLE.findall(block)} <= {"cite"}
    ]
    return ROLE.sub(lambda cite: f"[@{re.sub(', *', '; @', cite[2])}]", "\n\n".join(kept))


if __name__ == "__main__":
    with spoken():
        main()
    sys.stdout.write(f"The submission is laid out in {TARGET}\n")
