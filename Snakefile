"""The order of the notebooks and of the book. `make book` calls it; `snakemake -n book` says what it would do.

A notebook's place in the order, and what it depends on, are read off the notebook itself; only where the network
comes in, which a recording can stand for, is said here.
"""

from pathlib import Path

import yaml

from kanlib import setups, sources, store
from kanlib.networks import answers

DEFAULT = "digits_resnet18"
SETUPS = config.get("setups", DEFAULT).split()
NOTEBOOKS = {file.stem: file for file in sources.notebooks(store.NOTEBOOKS)}
# Setups whose responses come with the project need neither weights nor data.
FROZEN = {name for name in SETUPS if setups.Perturbation.from_setup(name).source == "frozen"}
# Nobody has recorded these yet: their page says how to.
PENDING = {name for name in FROZEN if not answers.path(name).exists()}
NOT_SOURCES = {"setups", "__pycache__", ".ipynb_checkpoints"}


def relative(path):
    return str(path.relative_to(store.ROOT))


def artifact(kind):
    return relative(store.path("{setup}", kind))


def inputs(notebook):
    """What a notebook reads; 01_perturbation reads the model, or the recording of a frozen setup."""
    loads, saves = sources.artifacts(NOTEBOOKS[notebook])

    def of(wildcards):
        if "responses" in saves:
            setup = wildcards.setup
            return [relative(answers.path(setup) if setup in FROZEN else store.path(setup, "model"))]
        return [artifact(kind).format(setup=wildcards.setup) for kind in loads]

    return of


def pages(setup):
    if setup in PENDING:
        return ["pending"]
    return [notebook for notebook in NOTEBOOKS if not (setup in FROZEN and notebook == "00_training")]


def page(setup, name):
    return f"book/setups/{setup}/{name}." + ("md" if name == "pending" else "ipynb")


rule all:
    input:
        [page(setup, name) for setup in SETUPS for name in pages(setup)],


for notebook, template in NOTEBOOKS.items():

    rule:
        name:
            notebook
        input:
            inputs(notebook),
            [relative(module) for module in sources.reached(template)],
            template=relative(template),
        output:
            # update(): what was there before stays if the notebook fails.
            [update(artifact(kind)) for kind in sources.artifacts(template)[1]],
            notebook=update(f"book/setups/{{setup}}/{notebook}.ipynb"),
        params:
            knobs=lambda wildcards, stage=setups.of_notebook(notebook): stage.from_setup(wildcards.setup).model_dump(),
        threads: workflow.cores
        message:
            "{wildcards.setup}: " + notebook
        # The notebook's progress bars go to its stderr, and from there through a pipe to ours. ipykernel warns
        # that its sockets, which are local, are not encrypted.
        shell:
            "papermill {input.template} {output.notebook} -p setup {wildcards.setup} -k python3"
            " --no-request-save-on-cell-execute --autosave-cell-every 0"
            " --no-progress-bar --log-level WARNING --stderr-file >(cat >&2) 2> >(grep -v IPKernelApp >&2)"


rule pending:
    input:
        "book/pending.md.in",
    output:
        "book/setups/{setup}/pending.md",
    run:
        made = setups.Training.from_setup(wildcards.setup)
        text = Path(input[0]).read_text(encoding="utf8")
        Path(output[0]).write_text(text.format(**made.model_dump()), encoding="utf8")


rule toc:
    input:
        "book/_toc.yml",
    output:
        "_build/toc.yml",
    params:
        pages={setup: pages(setup) for setup in dict.fromkeys([DEFAULT, *SETUPS])},
    run:
        # book/_toc.yml has an empty part for the default setup; every other one gets a part after it.
        toc = yaml.safe_load(Path(input[0]).read_text(encoding="utf8"))
        at = next(i for i, part in enumerate(toc["parts"]) if not part["chapters"])
        captions = {DEFAULT: toc["parts"].pop(at)["caption"]}
        toc["parts"][at:at] = [
            {
                "caption": captions.get(setup, setup),
                "chapters": [{"file": f"setups/{setup}/{notebook}"} for notebook in notebooks],
            }
            for setup, notebooks in params.pages.items()
        ]
        Path(output[0]).write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf8")


rule book:
    input:
        rules.all.input,
        [str(f) for f in Path("book").rglob("*.*") if f.is_file() and not NOT_SOURCES & set(f.parts)],
        [relative(module) for module in sources.modules().values()],
        "_config.yml",
        [str(file) for file in Path("data").glob("*.json")],
        toc=rules.toc.output,
    output:
        update("_build/html/index.html"),
    message:
        "building the book"
    # Built beside the old one and then put in its place: a build that fails leaves the old book standing. All
    # pages anew: those that paste another page's numbers are not rebuilt when the numbers change.
    shell:
        "rm -rf _build/next"
        " && jupyter-book build book --config _config.yml --toc \"$PWD/{input.toc}\" --path-output _build/next"
        " --all -W --keep-going -q > /dev/null"
        " && rm -rf _build/html && mv _build/next/_build/html _build/html && rm -rf _build/next"
