"""The order of the notebooks and of the book. `make book` calls it; `snakemake -n book` says what it would do."""

from pathlib import Path

import yaml

from kanlib import networks, setups, store

SETUPS = config.get("setups", "digits_resnet18").split()
# Setups whose responses come with the project need neither weights nor data.
FROZEN = {name for name in SETUPS if setups.Perturbation.from_setup(name).source == "frozen"}
# Nobody has recorded these yet: their page says how to.
PENDING = {name for name in FROZEN if not networks.path(name).exists()}
NOT_SOURCES = {"setups", "__pycache__", ".ipynb_checkpoints"}
# What each notebook reads and writes, and which modules its result depends on.
STAGES = {
    "00_training": dict(reads=[], writes=["model"], modules=["images", "models", "training"]),
    "01_perturbation": dict(
        reads=["model"],
        writes=["responses"],
        modules=["images", "models", "components", "perturbation", "references", "networks"],
    ),
    "02_surrogate": dict(
        reads=["responses"],
        writes=["surrogates", "scores", "curve"],
        modules=["metrics", "splines", "kan", "levenberg_marquardt", "fitting", "pykan", "surrogates"],
    ),
    "03_symbolic": dict(
        reads=["responses", "surrogates", "scores"],
        writes=["symbolic"],
        modules=["metrics", "splines", "kan", "closed_forms", "edges", "library", "engines", "symbolic", "refit"]
        + ["shortening", "notation", "jets", "interactions"],
    ),
    "04_interactions": dict(
        reads=["responses", "surrogates", "symbolic"],
        writes=["interactions"],
        modules=["perturbation", "references", "metrics", "splines", "kan", "levenberg_marquardt", "fitting"]
        + ["closed_forms", "symbolic", "notation", "jets", "interactions", "mixer"],
    ),
}


def artifact(kind):
    return str(store.path("{setup}", kind).relative_to(store.ROOT))


def inputs(notebook):
    """What a notebook reads; in place of the model, the recording of a frozen setup."""
    reads = STAGES[notebook]["reads"]

    def of(wildcards):
        if "model" in reads and wildcards.setup in FROZEN:
            return [str(networks.path(wildcards.setup).relative_to(store.ROOT))]
        return [artifact(kind).format(setup=wildcards.setup) for kind in reads]

    return of


def pages(setup):
    if setup in PENDING:
        return ["pending"]
    return [notebook for notebook in STAGES if not (setup in FROZEN and notebook == "00_training")]


def page(setup, name):
    return f"book/setups/{setup}/{name}." + ("md" if name == "pending" else "ipynb")


rule all:
    input:
        [page(setup, name) for setup in SETUPS for name in pages(setup)],


for notebook, stage in STAGES.items():

    rule:
        name:
            notebook
        input:
            inputs(notebook),
            [f"kanlib/{module}.py" for module in [*stage["modules"], "setups", "store", "charts"]],
            template=f"notebooks/{notebook}.ipynb",
        output:
            # update(): what was there before stays if the notebook fails.
            [update(artifact(kind)) for kind in stage["writes"]],
            notebook=update(f"book/setups/{{setup}}/{notebook}.ipynb"),
        params:
            knobs=lambda wildcards, stage=setups.STAGES[notebook[3:]]: stage.from_setup(wildcards.setup).model_dump(),
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
        setups=SETUPS,
    run:
        # book/_toc.yml lists the default setup; every other one gets a part like it.
        toc = yaml.safe_load(Path(input[0]).read_text(encoding="utf8"))
        at = next(i for i, part in enumerate(toc["parts"]) if part["caption"] == "Results")
        toc["parts"][at:at] = [
            {"caption": setup, "chapters": [{"file": f"setups/{setup}/{notebook}"} for notebook in pages(setup)]}
            for setup in SETUPS
            if setup != "digits_resnet18"
        ]
        Path(output[0]).write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf8")


rule book:
    input:
        rules.all.input,
        [str(f) for f in Path("book").rglob("*.*") if f.is_file() and not NOT_SOURCES & set(f.parts)],
        [str(file) for file in Path("kanlib").glob("*.py")],
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
