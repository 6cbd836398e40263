"""The order of the notebooks and of the book. `make book` calls it; `snakemake -n book` says what it would do.

A notebook's place in the order, and what it depends on, are read off the notebook itself; only where the network
comes in, which a recording can stand for, is said here.
"""

import json
import os
from contextlib import ExitStack
from functools import cache
from pathlib import Path

from kanlib import files, setup_files, setups, shards, sources, store
from kanlib.errors import spoken

DEFAULT = "digits_resnet18"
SETUPS = str(config.get("setups", DEFAULT)).split() or [""]
# The table of contents has the pages of the default setup in any case.
LISTED = list(dict.fromkeys([DEFAULT, *SETUPS]))
NOTEBOOKS = {file.stem: file for file in sources.notebooks(store.NOTEBOOKS)}
# Setups whose responses come with the project need neither weights nor data.
FROZEN = {name for name in LISTED if setups.Perturbation.from_setup(name).source == "frozen"}
# Nobody has recorded these yet: their page says how to.
PENDING = {name for name in FROZEN if not store.recording(name).exists()}
# Chapters of those setups alone whose file has their section. Each can do with a recording of its own.
ASKED_FOR = {name: setups.of_notebook(name) for name in NOTEBOOKS if setups.of_notebook(name).asked_for}
# Into how many shards examples are split, of the notebooks that treat each example alike.
N_SHARDS = int(config.setdefault("shards", 1))
SHARDED = [name for name in NOTEBOOKS if N_SHARDS > 1 and issubclass(setups.of_notebook(name), setups.OfExamples)]
# Whose knobs a chapter reads beside its own.
READ = {name: sources.sections(file, setups.STAGES) for name, file in NOTEBOOKS.items()}
NOT_SOURCES = {"setups", "__pycache__", ".ipynb_checkpoints"}


# Artifacts are written whole, so that a run that was killed is taken up where it stopped: Snakemake's own lock, which
# it would leave behind, is off (profiles/default), and one that ends with its process stands in for it.
RUN = ExitStack()


onstart:
    with spoken():
        RUN.enter_context(files.alone(store.ARTIFACTS))


wildcard_constraints:
    setup=setup_files.NAME,
    shard=shards.NAME,


def relative(path):
    return str(path.relative_to(store.ROOT))


def artifact(kind):
    return relative(store.path("{setup}", kind))


def of_shard(kind):
    return relative(store.path(setups.shard_folder("{setup}", "{shard}"), kind))


@cache
def shards_of(setup):
    p = setups.Perturbation.from_setup(setup)
    return shards.plan(p.n_asked, p.block, N_SHARDS)


def knobs(notebook, setup):
    """What an artifact is determined by; how many shards there are beside a shard does not change it."""
    left_out = {"n_examples"} if notebook in SHARDED else set()
    others = {name: setups.STAGES[name].from_setup(setup).model_dump() for name in READ[notebook]}
    return setups.of_notebook(notebook).from_setup(setup).model_dump(exclude=left_out), others


def threads(notebook):
    """Those that its bits depend on: chapters that do not wait for each other, and shards, run side by side."""
    return lambda wildcards: setups.of_notebook(notebook).from_setup(wildcards.setup).threads


def recorded(setup, notebook):
    """The recording that stands for the network in that chapter of a setup; None: the network is asked."""
    stage = ASKED_FOR[notebook].from_setup(setup)
    return store.recording(setup, stage.section) if getattr(stage, "source", "live") == "frozen" else None


def inputs(notebook):
    """What a notebook reads; what asks the network reads the model, or the recording of a frozen setup."""
    loads, saves = sources.artifacts(NOTEBOOKS[notebook])

    def of(wildcards):
        setup = wildcards.setup
        if notebook in ASKED_FOR:
            recording, live = recorded(setup, notebook), ASKED_FOR[notebook].live_from
            return [relative(recording)] if recording else [relative(store.path(setup, live))] if live else []
        if "responses" in saves:
            return [relative(store.recording(setup) if setup in FROZEN else store.path(setup, "model"))]
        place = of_shard if notebook in SHARDED else artifact
        return [place(kind).format(**wildcards) for kind in loads]

    return of


def can_be_had(setup, notebook):
    """Whether the setup asks for that chapter, and the recording that it reads has been made."""
    if ASKED_FOR[notebook].section not in setups.read(setup):
        return False
    recording = recorded(setup, notebook)
    return recording is None or recording.exists()


def pages(setup):
    more = [notebook for notebook in ASKED_FOR if can_be_had(setup, notebook)]
    if setup in PENDING:
        return more or ["pending"]
    left_out = set(ASKED_FOR) | ({"00_training"} if setup in FROZEN else set())
    return [notebook for notebook in NOTEBOOKS if notebook not in left_out] + more


def page(setup, name):
    return f"book/setups/{setup}/{name}." + ("md" if name == "pending" else "ipynb")


rule all:
    input:
        [page(setup, name) for setup in SETUPS for name in pages(setup)],
        [
            artifact(kind).format(setup=setup)
            for notebook in SHARDED
            for kind in sources.artifacts(NOTEBOOKS[notebook])[1]
            for setup in SETUPS
            if setup not in PENDING
        ],


for notebook, template in NOTEBOOKS.items():
    place = of_shard if notebook in SHARDED else artifact
    executed = f"{notebook}.ipynb"

    rule:
        name:
            notebook
        input:
            inputs(notebook),
            [relative(module) for module in sources.reached(template)],
            template=relative(template),
        output:
            # update(): what was there before stays if the notebook fails.
            [update(place(kind)) for kind in sources.artifacts(template)[1]],
            notebook=update(
                f"_artifacts/{{setup}}/shards/{{shard}}/{executed}"
                if notebook in SHARDED
                else f"book/setups/{{setup}}/{executed}"
            ),
        params:
            knobs=lambda wildcards, notebook=notebook: knobs(notebook, wildcards.setup),
            shard=lambda wildcards: wildcards.get("shard", ""),
        threads: threads(notebook)
        # The first chapters are what others wait for.
        priority: len(NOTEBOOKS) - list(NOTEBOOKS).index(notebook)
        message:
            "{wildcards.setup}: " + notebook + (", examples {wildcards.shard}" if notebook in SHARDED else "")
        # The notebook's progress bars go straight through. ipykernel warns that its sockets, which are local, are
        # not encrypted.
        shell:
            "python -m book.execute {input.template:q} {output.notebook:q} {wildcards.setup:q} {config[shards]} {params.shard}"
            " 3>&2 2> >(grep -v IPKernelApp >&2)"


for notebook in SHARDED:
    loads, saves = sources.artifacts(NOTEBOOKS[notebook])
    for kind in saves:

        rule:
            name:
                f"{kind}_of_all"
            input:
                lambda wildcards, kind=kind: [
                    of_shard(kind).format(setup=wildcards.setup, shard=shard) for shard in shards_of(wildcards.setup)
                ],
                # Whose hashes its record says.
                [artifact(other) for other in loads if other in setups.sharded_kinds()],
            output:
                update(artifact(kind)),
            params:
                kind=kind,
                shards=lambda wildcards: shards_of(wildcards.setup),
            message:
                "{wildcards.setup}: {params.kind} of {params.shards[0]} and all other shards"
            shell:
                "python -m kanlib.merging {wildcards.setup:q} {params.kind} {params.shards}"

    rule:
        name:
            f"{notebook}_page"
        input:
            lambda wildcards, notebook=notebook: "_artifacts/{0}/shards/{1}/{2}.ipynb".format(
                wildcards.setup, shards_of(wildcards.setup)[0], notebook
            ),
        output:
            f"book/setups/{{setup}}/{notebook}.ipynb",
        localrule: True
        message:
            "{wildcards.setup}: the page of its first shard"
        shell:
            "cp {input:q} {output:q}"


# What `make record` asks, apart from language models, which are found where they lie.
rule classifiers:
    input:
        [relative(store.path(setup, "model")) for setup in SETUPS if setups.has_classifier(setup)],


rule pending:
    input:
        "book/pending.md.in",
    output:
        "book/setups/{setup}/pending.md",
    shell:
        "python -m book.contents pending {input:q} {output:q} {wildcards.setup:q}"


rule toc:
    input:
        "book/_toc.yml",
    output:
        "_build/toc.yml",
    params:
        pages=json.dumps({setup: pages(setup) for setup in LISTED}),
    shell:
        "python -m book.contents toc {input:q} {output:q} {params.pages:q}"


rule book:
    input:
        rules.all.input,
        [str(f) for f in Path("book").rglob("*.*") if f.is_file() and not NOT_SOURCES & set(f.parts)],
        [relative(module) for module in sources.modules().values()],
        "_config.yml",
        [str(file) for file in [*Path("data").glob("*.json"), *Path("benchmarks").glob("*.py")]],
        toc=rules.toc.output,
    output:
        update("_build/html/index.html"),
    params:
        addresses=[os.environ.get(name, "") for name in ("BOOK_URL", "BOOK_REPOSITORY")],
    message:
        "building the book"
    # Built beside the old one and then put in its place: a build that fails leaves the old book standing. All
    # pages anew: those that paste another page's numbers are not rebuilt when the numbers change.
    shell:
        "rm -rf _build/next"
        " && python -m book.build build book --config _config.yml --toc \"$PWD\"/{input.toc:q} --path-output _build/next"
        " --all -W --keep-going -q > /dev/null"
        " && rm -rf _build/html && mv _build/next/_build/html _build/html && rm -rf _build/next"
