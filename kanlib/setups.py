"""Setups: one schema for every knob, shared by setup files and notebooks.

A setup is a YAML file in ``notebooks/setups`` with one section a stage. A notebook's ``parameters`` cell
names the setup and may override single values; what it leaves at ``None`` the file gives, and what the
file leaves out the defaults below give. Unknown names, wrong types and values out of range are refused
here, because papermill only warns.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kanlib import store
from kanlib.errors import BadInputError, unknown

FOLDER = store.ROOT / "notebooks" / "setups"
_IPYTHON = {"In", "Out", "get_ipython", "exit", "quit", "open"}

Backend = Literal["library", "polynomials", "operon", "pysr", "pykan"]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class Stage(BaseModel):
    """The knobs of one notebook. Field descriptions are the comments of its ``parameters`` cell."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    section: ClassVar[str]

    setup: str = Field("digits_resnet18", description="a file in notebooks/setups; gives what is None here")
    run: Annotated[str, Field(pattern=r"^[\w.+-]*\w$")] | None = Field(
        None, description="name of a variant, kept apart; None: the setup itself"
    )
    seed: Count = Field(0, description="the one seed; every generator derives from it")
    threads: Positive = Field(2, description="CPU threads; sums are split by it, so bits depend on it")

    @classmethod
    def from_notebook(cls, namespace: Mapping[str, Any]) -> Self:
        """Check a notebook's parameters, complete them from its setup, and set torch's threads.

        Args:
            namespace: the notebook's ``globals()``, before anything but parameters was assigned.

        Raises:
            BadInputError: unknown setup or parameter, wrong type, value out of range; or values that differ
                from the setup's without a ``run`` of their own, which would overwrite the setup's artifacts.
        """
        again = any(isinstance(value, Stage) for value in namespace.values())
        given = {
            name: value
            for name, value in namespace.items()
            if not (name.startswith("_") or name in _IPYTHON or isinstance(value, ModuleType) or callable(value))
            # In a live notebook whose cells ran before, whatever else they assigned is no parameter.
            and (name in cls.model_fields or not again)
        }
        setup = given.get("setup", cls.model_fields["setup"].default)
        stage, as_in_file = cls.from_setup(setup, given), cls.from_setup(setup)
        changed = [
            name
            for name in cls.model_fields
            if name != "run" and getattr(stage, name) != getattr(as_in_file, name)
        ]
        if changed and stage.folder == stage._setup_folder:
            raise BadInputError(
                f"{changed[0]} differs from setup {setup}, whose artifacts would be overwritten; "
                "set run to another name for this variant."
            )
        if stage.folder != stage._setup_folder and stage.run in names():
            raise BadInputError(
                f"run {stage.run} is the name of a setup, whose artifacts would be lost; choose another name."
            )
        torch.set_num_threads(stage.threads)
        return stage

    @classmethod
    def from_setup(cls, setup: str, overrides: Mapping[str, Any] | None = None) -> Self:
        """The stage's knobs as the setup file gives them, with ``overrides`` (``None`` values do not count)."""
        overrides = dict(overrides or {})
        for name in sorted(overrides.keys() - cls.model_fields.keys()):
            raise unknown("parameter", name, cls.model_fields, cls.section)
        given = {name: value for name, value in overrides.items() if value is not None}
        return _validated(
            cls, section(setup, cls.section) | given | {"setup": setup}, f"the notebook or setup {setup}"
        )

    @classmethod
    def of(cls, artifact: store.Artifact) -> Self:
        """The knobs that an artifact of this stage was made with."""
        return _validated(cls, artifact.record["parameters"], "the record of an artifact")

    def load(self, kind: str, **inputs: store.Artifact) -> store.Artifact:
        """Read this run's artifact of that kind, or the setup's where the run has none of its own.

        Args:
            kind: see :func:`kanlib.store.written_by`.
            inputs: artifacts that it must have been made from.

        Raises:
            BadInputError: as in :func:`kanlib.store.load`, or it was made from other inputs.
        """
        own, of_setup = (store.path(folder, kind) for folder in (self.folder, self._setup_folder))
        artifact = store.load(own if own.exists() or not of_setup.exists() else of_setup)
        for name, expected in inputs.items():
            if artifact.record["inputs"].get(name) != expected.hash:
                raise BadInputError(
                    f"the artifact {kind} of run {self.folder} was not made from the {name} that are there now; "
                    f"run {store.written_by(kind)} again."
                )
        return artifact

    def save(self, kind: str, content: Any, **more: Any) -> None:
        """Write this run's artifact of that kind with these parameters.

        Of ``more``, artifacts are recorded as inputs, by their hash; anything else goes into the record.
        """
        inputs = {name: value.hash for name, value in more.items() if isinstance(value, store.Artifact)}
        store.save(
            store.path(self.folder, kind),
            content,
            kind=kind,
            parameters=self.model_dump(exclude={"run"}),
            inputs=inputs,
            **{name: value for name, value in more.items() if name not in inputs},
        )

    @property
    def folder(self) -> str:
        """Name of the folder of this run's artifacts."""
        return self.run or self._setup_folder

    @property
    def _setup_folder(self) -> str:
        return Path(self.setup).stem


class Training(Stage):
    """Data and classifier."""

    section: ClassVar[str] = "training"

    data: str = Field("digits", description="digits, torchvision/<data set>, or a folder with labels.csv")
    download: bool = Field(False, description="allow torchvision and timm to download data and weights")
    image_size: Positive = Field(32, description="side to which images are resized, in pixels")
    architecture: str = Field(
        "torchvision/resnet18", description="torchvision/<name>, timm/<name> or path/to/file.py:factory"
    )
    weights: str | None = Field(
        None, description="published ones, DEFAULT or another name, or a file; None: train"
    )
    small_images: bool = Field(True, description="3×3 stem and no max-pool (residual networks only)")
    epochs: Positive = Field(6, description="passes over the training split")
    batch_size: Positive = Field(32, description="images a step")
    learning_rate: float = Field(0.05, gt=0, description="peak of the one-cycle schedule of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="of SGD with Nesterov momentum")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the cross-entropy")
    augment: bool = Field(False, description="shift and mirror the training images at random")
    training_sizes: list[Positive] = Field([], description="sides of the images in the first epochs, in pixels")
    precision: Literal["bf16", "fp32"] = Field(
        "bf16", description="of the training steps: bf16 (autocast) or fp32"
    )
    n_classes: Positive | None = Field(None, description="logits of the model; None: one a class of the data")
    n_train: Positive | None = Field(None, description="train on the first n only; None: all")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu")


class Perturbation(Stage):
    """Algorithm 1: components, masks, examples and the output function."""

    section: ClassVar[str] = "perturbation"

    source: Literal["live", "frozen"] = Field(
        "live", description="live: ask the network; frozen: data/responses, recorded before"
    )
    components: list[str] = Field(
        ["layer*.*"], min_length=1, description="patterns over module names, one * a level"
    )
    gate_site: Literal["branch", "output"] = Field("branch", description="what 1 + σ scales: branch or output")
    output_function: Literal["margin", "logit", "log_prob", "prob", "loss"] = Field(
        "margin", description="margin, logit, log_prob, prob or loss of the logits"
    )
    scale: float = Field(1.0, gt=0, description="s of σ ~ N(0, s² I)")
    example_set: Literal["reported", "development"] = Field(
        "reported", description="reported, or development for design decisions"
    )
    choose: Literal["correct", "misclassified", "smallest_margin", "any"] = Field(
        "correct", description="correct, misclassified, smallest_margin or any test images"
    )
    only_class: str | None = Field(None, description="name of the one class that examples are drawn from")
    n_candidates: Positive = Field(1000, description="test images that are looked at, to draw examples from")
    n_examples: Positive = Field(8, description="how many of them")
    examples: list[Count] | None = Field(
        None, min_length=1, description="positions in the test split, instead of drawing"
    )
    n_fit: Positive = Field(4000, description="masks that surrogates are fitted on")
    n_validation: Positive = Field(500, description="masks that choose regularisation, restarts and complexity")
    n_test: Positive = Field(1000, description="masks that score, once")
    n_reference: Count = Field(500, description="masks that no surrogate sees, for derivative references")
    derivative_order: Annotated[int, Field(ge=1, le=4)] = Field(
        2, description="highest order of the network's own derivatives"
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32", description="of the forward passes: fp32, tf32 (CUDA only) or bf16"
    )
    batch_size: Positive = Field(25, description="masks a forward pass")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu")


class Recording(Stage):
    """Frozen responses: what is recorded of a network once, so that the rest needs neither it nor its data."""

    section: ClassVar[str] = "recording"

    n_reported: Positive = Field(12, description="examples that results are reported for")
    n_development: Count = Field(4, description="examples for design decisions")
    n_fit: Positive = Field(8000, description="fit masks at the gate site branch")
    n_fit_output: Count = Field(4000, description="fit masks at the gate site output")
    n_validation: Positive = Field(500, description="validation masks")
    n_test: Positive = Field(1000, description="test masks")
    n_reference: Count = Field(1000, description="masks at which the gradient is taken too")
    scales: list[Annotated[float, Field(gt=0)]] = Field(
        [0.25, 0.5, 1.5], description="of further test masks, as many as n_test each"
    )
    n_ablation: Count = Field(500, description="masks that remove components: each, each pair, random sets")
    max_order: Positive = Field(3, le=4, description="of the exact derivatives at σ = 0")
    batch_size: Positive = Field(25, description="masks a forward pass")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu")


class Surrogate(Stage):
    """The component models fitted to the responses."""

    section: ClassVar[str] = "surrogate"

    surrogate: Literal["kan", "pykan"] = Field(
        "kan", description="kan, or the same fitted by pykan; goes on to 03_symbolic"
    )
    peers: list[Literal["linear", "quadratic", "cubic", "trees", "mlp", "kan", "pykan"]] = Field(
        ["linear", "quadratic", "cubic", "trees", "mlp"],
        min_length=1,
        description="surrogates it is compared with, first with the first",
    )
    curve: list[Positive] = Field([250, 500, 1000, 2000], description="fit masks of the learning curve")
    hidden: list[Positive] = Field([8], description="nodes of the hidden layers")
    grid: Positive = Field(5, description="intervals of each edge's spline")
    spline_order: Literal[3, 5] = Field(3, description="order k of the spline: 3 or 5")
    penalties: list[Annotated[float, Field(ge=0)]] = Field(
        [1e-4, 1e-3], min_length=1, description="on roughness, to choose from on validation"
    )
    restarts: Positive = Field(3, description="random starts for each penalty")
    finalists: Positive = Field(2, description="candidates that go on with all masks")
    members: Positive = Field(1, description="how many of the best are averaged to one KAN")
    iterations: Positive = Field(24, description="Levenberg-Marquardt steps at most")
    contest: Positive = Field(4, description="candidates compete on one in so many masks; 1: all take all steps")
    relaxed: float = Field(1.0, ge=0, description="times the penalty, for the last third of the steps")
    outside: float = Field(0.0, ge=0, lt=1, description="share of hidden values beyond either end of a grid")
    pykan_steps: Positive = Field(100, description="LBFGS steps of pykan")
    device: Literal["cpu", "cuda"] = Field("cpu", description="that fits the KANs: cpu or cuda")
    n_bootstrap: Positive = Field(2000, description="resamples of examples and masks behind each interval")


class Symbolic(Stage):
    """Algorithm 2: closed forms, pruned and refitted."""

    section: ClassVar[str] = "symbolic"

    backend: Backend = Field("library", description="library, polynomials, operon, pysr or pykan")
    r2: float = Field(0.9999, gt=0, le=1, description="edge R² at which the shortest closed form is taken")
    max_degree: Positive = Field(13, description="highest degree of the library's polynomials")
    max_length: Positive = Field(12, description="operations and leaves of an edge of the short form, at most")
    budget: float = Field(0.005, ge=0, description="validation Pearson that the short form may lose to the KAN")
    refit_steps: Count = Field(24, description="Levenberg-Marquardt steps of the refit at most")
    evaluations: Positive = Field(20_000, description="of expressions on an edge, by operon and pysr")


class Interactions(Stage):
    """Algorithm 3: mixed partial derivatives of the closed form."""

    section: ClassVar[str] = "interactions"

    max_order: Positive = Field(3, ge=2, le=4, description="highest order k of L_S, from 2 to 4")
    refits: Count = Field(10, description="KANs fitted to resampled masks, behind standard errors; 0: none")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which by itself takes ``1e-5``, a number in YAML 1.2, for a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)

AnyStage = TypeVar("AnyStage", bound=Stage)
#: Section of a setup → its knobs. A notebook is called by a number and its section, ``02_surrogate``.
STAGES = {stage.section: stage for stage in Stage.__subclasses__()}
_COMMON = {"seed", "threads"}


def names() -> list[str]:
    """The setups there are: the stems of ``notebooks/setups/*.yaml``."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def of_notebook(notebook: str) -> type[Stage]:
    """The knobs of a notebook, by its name without suffix.

    Raises:
        BadInputError: no stage has that section.
    """
    _, _, section = notebook.partition("_")
    if section not in STAGES:
        raise unknown(
            "section", section, STAGES, f"the stages of kanlib.setups, which notebook {notebook} asks for"
        )
    return STAGES[section]


def section(setup: str, name: str) -> dict[str, Any]:
    """One section of a setup file, together with the values common to all sections.

    Args:
        setup: a name in ``notebooks/setups``, or the path of a ``.yaml`` file.
        name: ``training``, ``perturbation``, ``recording``, ``surrogate``, ``symbolic`` or ``interactions``.
    """
    whole = read(setup)
    return {key: whole[key] for key in _COMMON & whole.keys()} | whole.get(name, {})


def read(setup: str, _extended: tuple[str, ...] = ()) -> dict[str, Any]:
    """A whole setup file, checked; ``extends: <other setup>`` completes it from another one.

    Raises:
        BadInputError: no such setup, not YAML, or a section or value that the schema refuses.
    """
    if not isinstance(setup, str):
        raise BadInputError(f"setup is {setup!r}, expected a name; there are {', '.join(names())}.")
    if setup in _extended:
        raise BadInputError(f"setup {setup} extends itself; remove that line from one of {', '.join(_extended)}.")
    file = Path(setup) if setup.endswith(".yaml") else FOLDER / f"{setup}.yaml"
    if not file.is_file():
        raise unknown("setup", setup, names(), "notebooks/setups")
    if file.stem in names() and file.resolve() != (FOLDER / f"{file.stem}.yaml").resolve():
        raise BadInputError(
            f"setup {setup} has the name of one in notebooks/setups, as would its results; rename it."
        )
    try:
        whole = yaml.load(file.read_text(encoding="utf8"), _Loader) or {}  # noqa: S506 (it is a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"setup {setup} is not YAML ({str(error).splitlines()[0]}); mend {file.name}."
        ) from error
    if not isinstance(whole, dict):
        raise BadInputError(f"setup {setup} is a {type(whole).__name__}, expected sections {', '.join(STAGES)}.")
    known = {"extends", *_COMMON, *STAGES}
    for key, value in whole.items():
        if key not in known:
            raise unknown("section", key, known, f"setup {setup}")
        if key in STAGES and not isinstance(value, dict):
            raise BadInputError(f"section {key} of setup {setup} is {value!r}, expected name: value lines.")
    if base := whole.pop("extends", None):
        whole = _merged(read(base, (*_extended, setup)), whole)
    for name, stage in STAGES.items():
        common = {key: whole[key] for key in _COMMON & whole.keys()}
        _validated(stage, common | whole.get(name, {}), f"{name} of setup {setup}")
    return whole


def _validated(stage: type[AnyStage], values: Mapping[str, Any], place: str) -> AnyStage:
    try:
        return stage.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown("parameter", name, stage.model_fields, place) from None
        expected = first["msg"][0].lower() + first["msg"][1:]
        raise BadInputError(f"{name} is {first['input']!r} in {place}: {expected}; correct it there.") from None


def _merged(base: dict, over: dict) -> dict:
    return base | {k: base[k] | v if isinstance(v, dict) and k in base else v for k, v in over.items()}
