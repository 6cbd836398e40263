"""The order of the notebooks. `make book` calls it; `snakemake --cores 2 -n` says what it would do."""

from kanlib import setups, store

SETUPS = config.get("setups", "digits_resnet18").split()
SECTIONS = {setup: setups.read(setup) for setup in SETUPS}  # refuses a bad setup before anything runs

# What each notebook reads and writes, and which modules its result depends on.
STAGES = {
    "00_training": dict(reads=[], writes=["model"], modules=["models"]),
    "01_perturbation": dict(
        reads=["model"], writes=["responses"], modules=["models", "components", "perturbation"]
    ),
    "02_surrogate": dict(
        reads=["responses"], writes=["surrogates", "scores"], modules=["metrics", "kan", "surrogates"]
    ),
    "03_symbolic": dict(
        reads=["responses", "surrogates", "scores"], writes=["symbolic"], modules=["metrics", "kan", "symbolic"]
    ),
    "04_interactions": dict(
        reads=["model", "responses", "symbolic"],
        writes=["interactions"],
        modules=["models", "components", "perturbation", "symbolic", "interactions"],
    ),
}


def artifact(kind):
    return str(store.path("{setup}", kind).relative_to(store.ROOT))


rule all:
    input:
        expand("book/setups/{setup}/{notebook}.ipynb", setup=SETUPS, notebook=STAGES),


for notebook, stage in STAGES.items():

    rule:
        name:
            notebook
        input:
            [artifact(kind) for kind in stage["reads"]],
            [f"kanlib/{module}.py" for module in stage["modules"]],
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
            " --no-progress-bar --log-level WARNING --stderr-file >(cat >&2) 2> >(grep -v IPKernelApp >&2)"
