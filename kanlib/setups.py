"""Setups: one schema for every knob, shared by setup files and notebooks.

A setup is a YAML file in ``notebooks/setups`` with one section a stage. A notebook's ``parameters`` cell
names the setup and may override single values; what it leaves at ``None`` the file gives, and what the
file leaves out the defaults below give. Unknown names, wrong types and values out of range are refused
here, because papermill only warns.
"""

from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from kanlib import knobs, setup_files, shards, sources, store
from kanlib.errors import BadInputError, shown, unknown
from kanlib.knobs import Batch, Classes, Count, Few, Order, Pattern, Pixels, Positive, Scale, Size, Text, Weight
from kanlib.setup_files import NAME, NAMED, name_of

FOLDER = store.ROOT / "notebooks" / "setups"
_IPYTHON = {"In", "Out", "get_ipython", "exit", "quit", "open"}


def _setup(setup: str) -> str:
    if setup_files.stem(setup) is None:
        raise ValueError(f"input should be {NAMED}")
    return setup


Backend = Literal["library", "polynomials", "operon", "pysr", "pykan"]
Device = Literal["auto", "cpu", "cuda", "mps"]


class Stage(BaseModel):
    """The knobs of one notebook. Field descriptions are the comments of its ``parameters`` cell."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    section: ClassVar[str]
    #: Whether only those setups have this notebook whose file has its section.
    asked_for: ClassVar[bool] = False
    #: The artifact by which such a notebook asks the network where no recording stands for it, if it needs one.
    live_from: ClassVar[str | None] = "model"

    setup: Annotated[str, AfterValidator(_setup)] = Field(
        "digits_resnet18", description="a file in notebooks/setups; gives what is None here"
    )
    run: Annotated[str, Field(pattern=f"^{NAME}$")] | None = Field(
        None, description="name of a variant, kept apart; None: the setup itself"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="the one seed; every generator derives from it")
    threads: int = Field(2, ge=1, le=1024, description="CPU threads; sums are split by it, so bits depend on it")

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
            if name not in _NOT_RECORDED and getattr(stage, name) != getattr(as_in_file, name)
        ]
        if changed and stage._whole == stage._setup_folder:
            raise BadInputError(
                f"{changed[0]} differs from setup {stage._setup_folder}, whose artifacts would be overwritten; "
                "set run to another name for this variant."
            )
        if stage._whole != stage._setup_folder and stage.run in names():
            raise BadInputError(
                f"run {stage.run} is the name of a setup, whose artifacts would be lost; choose another name."
            )
        # It loads torch, which reading a setup does without.
        from kanlib import machine

        machine.use_threads(stage.threads)
        return stage

    @classmethod
    def from_setup(cls, setup: str, overrides: Mapping[str, Any] | None = None) -> Self:
        """The stage's knobs as the setup file gives them, with ``overrides`` (``None`` values do not count)."""
        overrides = dict(overrides or {})
        for name in sorted(overrides.keys() - cls.model_fields.keys()):
            raise unknown("parameter", knobs.spelled(name), cls.model_fields, cls.section)
        given = {name: value for name, value in overrides.items() if value is not None}
        values = _section(read(setup), cls) | given | {"setup": setup}
        return knobs.validated(cls, values, f"the notebook or setup {name_of(setup)}")

    @classmethod
    def of(cls, artifact: store.Artifact) -> Self:
        """The knobs that an artifact of this stage was made with.

        Raises:
            BadInputError: its record says none, or others.
        """
        try:
            return cls.model_validate(artifact.record.get("parameters"))
        except ValidationError as error:
            writer = store.written_by(str(artifact.record.get("kind"))) or "what wrote it"
            wrong = knobs.said(error.errors()[0], f"the record of an artifact of {cls.section}")
            raise BadInputError(f"{wrong}; run {writer} again.") from None

    def load(self, kind: str, **inputs: store.Artifact) -> store.Artifact:
        """Read this run's artifact of that kind, or the setup's where the run has none of its own.

        Args:
            kind: see :func:`kanlib.store.written_by`.
            inputs: artifacts that it must have been made from.

        Raises:
            BadInputError: as in :func:`kanlib.store.load`, or it was made for another setup or from other inputs.
        """
        own, of_setup = (
            store.path(self._shard_of(folder, kind), kind) for folder in (self._whole, self._setup_folder)
        )
        artifact = store.load(own if own.exists() or not of_setup.exists() else of_setup, kind)
        made_for = artifact.record["parameters"].get("setup")
        if setup_files.stem(made_for) != self._setup_folder:
            raise BadInputError(
                f"the artifact {kind} of run {self.folder} was made for setup {shown(made_for)}, expected "
                f"{self._setup_folder}; run {store.written_by(kind)} again."
            )
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
            parameters=self.recorded(),
            inputs=inputs,
            **{name: value for name, value in more.items() if name not in inputs},
        )

    def recorded(self) -> dict[str, Any]:
        """The knobs as a record keeps them: those that the content depends on."""
        return self.model_dump(exclude=_NOT_RECORDED)

    @property
    def folder(self) -> str:
        """The folder of this run's artifacts, below that of all artifacts."""
        return self._whole

    @property
    def _whole(self) -> str:
        """The same, whatever the shard."""
        return self.run or self._setup_folder

    def _shard_of(self, whole: str, kind: str) -> str:
        """The folder in which this stage finds an artifact of a run."""
        return whole

    @property
    def _setup_folder(self) -> str:
        return name_of(self.setup)


class OfExamples(Stage):
    """The knobs of a notebook that treats each example alike, and can be run on some of them."""

    shard: Annotated[str, Field(pattern=f"^{shards.NAME}$")] | None = Field(
        None, description="first-last of the examples, 17-32 say, on their own; None: all"
    )
    block: Positive = Field(16, description="examples that are computed together; bits depend on it")

    @property
    def folder(self) -> str:
        """The folder of this run's artifacts, or of its shard's, below that of all artifacts."""
        return shard_folder(self._whole, self.shard)

    def _shard_of(self, whole: str, kind: str) -> str:
        return shard_folder(whole, self.shard) if self.shard and kind in sharded_kinds() else whole


class Training(Stage):
    """Data and classifier."""

    section: ClassVar[str] = "training"

    data: Text = Field("digits", description="digits, torchvision/<data set>, or a folder with labels.csv")
    download: bool = Field(False, description="allow torchvision and timm to download data and weights")
    image_size: Pixels = Field(32, description="side to which images are resized, in pixels")
    architecture: Text = Field(
        "torchvision/resnet18", description="torchvision/<name>, timm/<name> or path/to/file.py:factory"
    )
    weights: Text | None = Field(
        None, description="published ones, DEFAULT or another name, or a file; None: train"
    )
    small_images: bool = Field(True, description="3×3 stem and no max-pool (residual networks only)")
    epochs: int = Field(6, ge=1, le=100_000, description="passes over the training split")
    batch_size: Batch = Field(32, description="images a step")
    learning_rate: float = Field(0.05, gt=0, le=1e4, description="peak of the one-cycle schedule of SGD")
    weight_decay: float = Field(5e-4, ge=0, le=1e3, description="of SGD with Nesterov momentum")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the cross-entropy")
    augment: bool = Field(False, description="shift and mirror the training images at random")
    training_sizes: list[Pixels] = Field(
        [], max_length=10_000, description="sides of the images in the first epochs, in pixels"
    )
    precision: Literal["bf16", "fp32"] = Field(
        "bf16", description="of the training steps: bf16 (autocast) or fp32"
    )
    n_classes: Classes | None = Field(None, description="logits of the model; None: one a class of the data")
    n_train: Positive | None = Field(None, description="train on the first n only; None: all")
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")


class Perturbation(OfExamples):
    """Algorithm 1: components, masks, examples and the output function."""

    section: ClassVar[str] = "perturbation"

    source: Literal["live", "frozen"] = Field(
        "live", description="live: ask the network; frozen: data/responses, recorded before"
    )
    components: list[Pattern] = Field(
        ["layer*.*"], min_length=1, max_length=10_000, description="patterns over module names, one * a level"
    )
    gate_site: Literal["branch", "output"] = Field("branch", description="what 1 + σ scales: branch or output")
    output_function: Literal["margin", "logit", "log_prob", "prob", "loss"] = Field(
        "margin", description="margin, logit, log_prob, prob or loss of the logits"
    )
    scale: Scale = Field(1.0, description="s of σ ~ N(0, s² I)")
    example_set: Literal["reported", "development"] = Field(
        "reported", description="reported, or development for design decisions"
    )
    choose: Literal["correct", "misclassified", "smallest_margin", "any"] = Field(
        "correct", description="correct, misclassified, smallest_margin or any test images"
    )
    only_class: Text | None = Field(None, description="name of the one class that examples are drawn from")
    n_candidates: Positive = Field(1000, description="test images that are looked at, to draw examples from")
    n_examples: Positive = Field(8, description="how many of them")
    examples: list[Count] | None = Field(
        None, min_length=1, max_length=10_000, description="positions in the test split, instead of drawing"
    )
    n_fit: Positive = Field(4000, description="masks that surrogates are fitted on")
    n_validation: Positive = Field(500, description="masks that choose regularisation, restarts and complexity")
    n_test: Positive = Field(1000, description="masks that score, once")
    n_reference: Count = Field(500, description="masks that no surrogate sees, for derivative references")
    derivative_order: Order = Field(2, description="highest order of the network's own derivatives")
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32", description="of the forward passes: fp32, tf32 (CUDA only) or bf16"
    )
    batch_size: Batch = Field(25, description="masks a forward pass")
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")

    @property
    def n_asked(self) -> int:
        """How many examples all shards have together."""
        return self.n_examples if self.examples is None else len(self.examples)

    @property
    def rows(self) -> slice:
        """Where those of this shard stand among them; see :func:`kanlib.shards.rows`."""
        return shards.rows(self.shard, self.n_asked, self.block)


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
    scales: list[Scale] = Field(
        [0.25, 0.5, 1.5], max_length=100, description="of further test masks, as many as n_test each"
    )
    n_fit_scales: Count = Field(0, description="fit masks of each of these scales, and a quarter that validate")
    n_ablation: Count = Field(500, description="masks that remove components: each, each pair, random sets")
    all_sets: bool = Field(False, description="masks that remove, and that halve, every set of components")
    grid: list[Text] = Field(
        [], max_length=2, description="two components, by name, whose masks are a grid: both scaled, no others"
    )
    max_order: Order = Field(3, description="of the exact derivatives at σ = 0")
    batch_size: Batch = Field(25, description="masks a forward pass")
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")


#: What answers to any masks; see :data:`kanlib.attribution.SURROGATES`.
SurrogateName = Literal["linear", "quadratic", "cubic", "trees", "mlp", "gaussian_process", "kan", "pykan"]
#: What models removals alone; see :data:`kanlib.attribution.BASELINES`.
RemovalModel = Literal["leave_one_out", "pair_sums", "fourier", "proxyspex", "kernelshapiq", "spex"]


class Surrogate(OfExamples):
    """The component models fitted to the responses."""

    section: ClassVar[str] = "surrogate"

    surrogate: Literal["kan", "pykan"] = Field(
        "kan", description="kan, or the same fitted by pykan; goes on to 03_symbolic"
    )
    peers: list[SurrogateName] = Field(
        ["linear", "quadratic", "cubic", "trees", "mlp"],
        min_length=1,
        max_length=100,
        description="surrogates it is compared with, first with the first",
    )
    curve: list[Positive] = Field(
        [250, 500, 1000, 2000], max_length=100, description="fit masks of the learning curve"
    )
    hidden: list[Size] = Field([8, 8], max_length=8, description="nodes of the hidden layers")
    grid: Size = Field(8, description="intervals of each edge's spline")
    spline_order: Literal[3, 5] = Field(3, description="order k of the spline: 3 or 5")
    restarts: Few = Field(2, description="random starts a decay or penalty, for KAN and MLP alike")
    members: Few = Field(1, description="how many of the best are averaged, for KAN and MLP alike")
    decays: list[Weight] = Field(
        [0.1, 0.3], min_length=1, max_length=100, description="of weights, to choose from on validation"
    )
    steps: Positive = Field(1600, description="minibatch steps")
    minibatch: Batch = Field(100, description="masks a minibatch step")
    rate: float = Field(0.02, gt=0, le=1, description="highest learning rate of the KAN's minibatch steps")
    optimiser: Literal["adamw", "levenberg_marquardt"] = Field(
        "adamw", description="adamw in minibatches, or levenberg_marquardt on all masks"
    )
    penalties: list[Weight] = Field(
        [1e-4, 1e-3], min_length=1, max_length=100, description="on roughness, for levenberg_marquardt"
    )
    finalists: Few = Field(2, description="its candidates that go on with all masks")
    iterations: Positive = Field(24, description="its steps at most")
    contest: Positive = Field(4, description="its candidates compete on one in so many masks; 1: on all")
    relaxed: Weight = Field(1.0, description="times its penalty, for the last third of the steps")
    outside: float = Field(0.0, ge=0, lt=1, description="share of hidden values beyond either end of its grids")
    pykan_steps: Positive = Field(100, description="LBFGS steps of pykan")
    device: Literal["cpu", "cuda"] = Field("cpu", description="that fits the KANs: cpu or cuda")
    n_bootstrap: int = Field(
        2000, ge=1, le=1_000_000, description="resamples of examples and masks behind each interval"
    )

    @field_validator("outside")
    @classmethod
    def _within_an_interval(cls, outside: float, before: ValidationInfo) -> float:
        grid = before.data.get("grid", 1)
        if outside >= 1 / grid:
            raise ValueError(f"input should be less than 1/grid, which is 1/{grid}")
        return outside


class Symbolic(OfExamples):
    """Algorithm 2: closed forms, pruned and refitted."""

    section: ClassVar[str] = "symbolic"

    backend: Backend = Field("library", description="library, polynomials, operon, pysr or pykan")
    r2: float = Field(0.9999, gt=0, le=1, description="edge R² at which the shortest closed form is taken")
    max_degree: int = Field(13, ge=1, le=50, description="highest degree of the library's polynomials")
    max_length: Size = Field(12, description="operations and leaves of an edge of the short form, at most")
    budget: float = Field(
        0.005, ge=0, le=2, description="validation Pearson that the short form may lose to the KAN"
    )
    refit_steps: Count = Field(24, description="Levenberg-Marquardt steps of the refit at most")
    evaluations: Positive = Field(20_000, description="of expressions on an edge, by operon and pysr")


class Interactions(OfExamples):
    """Algorithm 3: mixed partial derivatives of the closed form."""

    section: ClassVar[str] = "interactions"

    max_order: int = Field(3, ge=2, le=4, description="highest order k of L_S, from 2 to 4")
    refits: int = Field(
        10, ge=0, le=10_000, description="KANs fitted to resampled masks, behind standard errors; 0: none"
    )


class Evaluation(Stage):
    """Every regime of masks, and every method a reader would have taken instead."""

    section: ClassVar[str] = "evaluation"

    n_examples: Positive = Field(2, description="examples, the first of 01_perturbation")
    methods: list[Literal[SurrogateName, RemovalModel]] = Field(
        [name for name in (*get_args(SurrogateName), *get_args(RemovalModel)) if name != "pykan"],
        min_length=1,
        max_length=100,
        description="surrogates, and models of removals alone",
    )
    scales: list[Scale] = Field(
        [0.1, 0.25, 0.5, 1.0, 1.5], max_length=100, description="of Gaussian masks to train and test on"
    )
    n_fit: Positive = Field(1000, description="Gaussian fit masks of each scale")
    n_validation: Positive = Field(250, description="Gaussian validation masks of each scale")
    n_test: Positive = Field(500, description="test masks of each regime at most")
    share: float = Field(0.25, gt=0, lt=1, description="probability that COAR's masks remove a component")
    budgets: list[Positive] = Field(
        [32, 64, 128, 256, 512],
        min_length=1,
        max_length=100,
        description="removal masks to fit and validate on",
    )


class Components(Stage):
    """COAR in its own regime: removals of random sets of hundreds or thousands of components."""

    section: ClassVar[str] = "components"
    asked_for: ClassVar[bool] = True

    source: Literal["live", "frozen"] = Field(
        "live", description="live: ask the network; frozen: data/responses, recorded before"
    )
    components: list[Pattern] = Field(
        ["conv1[*]", "layer*.*.conv*[*]"],
        min_length=1,
        max_length=10_000,
        description="patterns over filters, rows and heads",
    )
    n_examples: Positive = Field(64, description="test images, right or wrong, that results are reported for")
    n_development: Count = Field(32, description="others, for design decisions")
    share: float = Field(0.1, gt=0, lt=1, description="α, the probability that a fit mask removes a component")
    shares: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.05, 0.1, 0.125, 0.15], min_length=1, max_length=20, description="α of the test masks"
    )
    n_fit: Positive = Field(2000, description="masks that component models are fitted on")
    n_validation: Positive = Field(300, description="masks that choose what they leave open")
    n_test: Positive = Field(100, description="test masks of each share")
    path_steps: Positive = Field(20, description="intervals of the path of conductance and influence")
    directions: Positive = Field(16, description="of gate space, that COAR screens for models beyond it")
    methods: list[SurrogateName] = Field(
        ["quadratic", "trees", "mlp", "kan"],
        min_length=1,
        max_length=100,
        description="models over these directions, beside COAR for the rest",
    )
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of the forward passes under masks")
    batch_size: Batch = Field(256, description="masks a forward pass")
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")


class Editing(Stage):
    """COAR-EDIT: removals of a few of many components that mend an error, forget a class or close a backdoor."""

    section: ClassVar[str] = "editing"
    asked_for: ClassVar[bool] = True

    components: list[Pattern] = Field(
        ["conv1[*]", "layer*.*.conv*[*]"],
        min_length=1,
        max_length=10_000,
        description="patterns over filters, rows and heads",
    )
    n_errors: Positive = Field(8, description="misclassified images to be mended, one by one")
    n_targets: Positive = Field(8, description="images of a class to be forgotten, and pairs of a backdoor")
    n_references: Positive = Field(50, description="images whose outputs are to stay")
    n_classes: Classes = Field(10, description="classes to be forgotten, one by one, the first ones")
    n_judged: Positive = Field(1000, description="other images of each half that edits are judged by, at most")
    sizes: list[Size] = Field(
        [1, 2, 3, 4, 6, 8, 12], min_length=1, max_length=100, description="components that an edit removes"
    )
    most: float = Field(0.05, ge=0, le=1, description="accuracy that other images may lose where a size is chosen")
    share: float = Field(0.1, gt=0, lt=1, description="α, the probability that a mask removes a component")
    n_fit: Positive = Field(600, description="masks that component models are fitted on")
    n_validation: Positive = Field(150, description="masks that choose what they leave open")
    n_test: Positive = Field(100, description="masks that score them")
    directions: Size = Field(8, description="of gate space, along which pairs are fitted")
    screened: Size = Field(20, description="components of the best scores, of which pairs choose")
    trade_off: Weight = Field(3.0, description="λ, what moving references costs where pairs choose")
    seconds: float = Field(5.0, gt=0, le=1e6, description="of integer programming at most, an edit")
    side: Pixels = Field(6, description="of the backdoor's square, in pixels")
    marked_share: float = Field(0.5, gt=0, le=1, description="of one class's training images, that carry it")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of the forward passes under masks")
    batch_size: Batch = Field(256, description="images a forward pass")
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")


#: Kinds of sparse autoencoders; see :data:`kanlib.sae.ARMS`.
Arm = Literal["standard", "gated", "jumprelu", "topk", "batchtopk", "k1", "k2", "mlp"]


class SparseAutoencoder(Stage):
    """Sparse autoencoders of what flows through a language model, with KANs among their encoders."""

    section: ClassVar[str] = "sparse_autoencoder"
    asked_for: ClassVar[bool] = True
    #: Its vectors are recorded, so that neither weights nor texts are needed.
    source: ClassVar[str] = "frozen"

    arms: list[Arm] = Field(
        ["standard", "gated", "jumprelu", "topk", "batchtopk", "k1", "k2", "mlp"],
        min_length=1,
        max_length=20,
        description="kinds of autoencoders",
    )
    features: Size = Field(512, description="features of an autoencoder")
    l0: list[Size] = Field(
        [4, 8, 16, 32], min_length=1, max_length=100, description="active features a token, of each autoencoder"
    )
    n_seeds: Few = Field(3, description="autoencoders of each of these, with other first directions")
    splines: int = Field(10, ge=4, le=100, description="B-splines of K1 a feature, of K2 an input and feature")
    steps: Positive = Field(2500, description="minibatch steps")
    minibatch: Batch = Field(2048, description="vectors a minibatch step")
    rate: float = Field(0.01, gt=0, le=1, description="highest learning rate of Adam")
    renew: bool = Field(True, description="whether features that are dead start again in the first half")
    explainer: Text | None = Field(
        None, description="address of a chat service that puts features into words; None: none is asked"
    )
    explainer_model: Text = Field("default", description="name of the language model there")
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")


class Language(Stage):
    """Heads and feed-forward networks of a language model, and which of them decide together on the next token."""

    section: ClassVar[str] = "language"
    asked_for: ClassVar[bool] = True
    live_from: ClassVar[str | None] = None

    source: Literal["live", "frozen"] = Field(
        "live", description="live: ask the model; frozen: data/responses, recorded before"
    )
    model: Text = Field(
        "llama2c:../shared/weights/stories260K",
        description="llama2c:<folder>, or transformers/<name or folder>; folders are seen from the project's",
    )
    components: list[Pattern] = Field(
        ["layers.*.attention[*]", "layers.*.feed_forward"],
        min_length=1,
        max_length=10_000,
        description="patterns over heads and modules",
    )
    n_stories: Positive = Field(400, description="stories that the model writes, whose beginnings are prompts")
    shortest: Size = Field(16, description="tokens of a prompt, at least")
    longest: Size = Field(63, description="and at most")
    choose: Literal["correct", "any"] = Field(
        "correct", description="correct: prompts whose next token is the model's first choice; any"
    )
    n_examples: Positive = Field(8, description="prompts that results are reported for")
    n_development: Count = Field(4, description="others, for design decisions")
    scale: Scale = Field(1.0, description="s of σ ~ N(0, s² I)")
    n_fit: Positive = Field(4000, description="masks that surrogates are fitted on")
    n_validation: Positive = Field(500, description="masks that choose what they leave open")
    n_test: Positive = Field(1000, description="masks that score, once")
    n_reference: Positive = Field(1000, description="masks at which the model's gradient is taken too")
    peers: list[SurrogateName] = Field(
        ["linear", "quadratic", "trees", "mlp"],
        min_length=1,
        max_length=100,
        description="surrogates that the KAN is compared with, first with the first",
    )
    max_order: int = Field(3, ge=2, le=3, description="highest order of the coefficients, 2 or 3")
    batch_size: Batch = Field(100, description="masks a forward pass")
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")


class Guarantees(Stage):
    """Proved bounds of closed forms over boxes of gates, and how far the network is from them."""

    section: ClassVar[str] = "guarantees"

    n_examples: Positive = Field(4, description="examples, the first of 01_perturbation")
    half_width: Scale = Field(0.3, description="of the box, −r ≤ σ_j ≤ r for all components")
    gap: float = Field(
        0.05, gt=0, le=100, description="between bound and answer, in standard deviations of the responses"
    )
    budget: Positive = Field(2000, description="parts of a box that are looked at, for each bound, at most")
    widths: list[Scale] = Field(
        [0.02, 0.05, 0.1], min_length=1, max_length=20, description="of boxes in which signs of pairs are to hold"
    )
    delta: float = Field(0.05, gt=0, lt=1, description="share of masks that the network's radius may miss")
    regions: Few = Field(4, description="of masks by their length, each with a radius of its own")


class Views(Stage):
    """One prediction by what its patches, its training images and its components are worth to it."""

    section: ClassVar[str] = "views"
    asked_for: ClassVar[bool] = True

    image: Count = Field(0, description="the image that is explained, a position in the test split")
    components: list[Pattern] = Field(
        ["layer*.*"], min_length=1, max_length=10_000, description="patterns over module names, one * a level"
    )
    side: int = Field(4, ge=1, le=64, description="patches along each side of the image")
    groups: Size = Field(60, description="groups of training images")
    ridge: float = Field(0.01, gt=0, le=1e6, description="of the last layer's regression, a share of its features")
    path_steps: Positive = Field(2000, description="of integrated gradients")
    hessian_steps: Positive = Field(200, description="of Integrated Hessians")
    most_players: int = Field(16, ge=1, le=20, description="players, up to which every set of them is asked about")
    budget: Positive = Field(4000, description="values for estimates of single players, where there are more")
    pair_budget: Positive = Field(15000, description="values for estimates of pairs, where there are more")
    n_fit: Positive = Field(4000, description="masks that functions are fitted on")
    n_validation: Positive = Field(500, description="masks that choose what they leave open")
    n_test: Positive = Field(500, description="masks that score them")
    hidden: list[Size] = Field([8], max_length=8, description="nodes of the KAN's hidden layers")
    grid: Size = Field(4, description="intervals of each edge's spline")
    steps: Positive = Field(1200, description="minibatch steps of the KAN")
    asked: float = Field(1.5, gt=0, le=100, description="masks a coefficient, where they are chosen one by one")
    n_draws: Few = Field(50, description="draws of as many random masks beside them")
    n_regions: Few = Field(4, description="regions of sets of components, in which leave one out is averaged")
    n_judged: Positive = Field(360, description="test images for what looks at more than one, at most")
    batch_size: Batch = Field(64, description="weights a forward pass")
    device: Device = Field("auto", description="auto: cuda, else mps, else cpu")


#: Section of a setup → its knobs. A notebook is called by a number and its section, ``02_surrogate``.
STAGES: dict[str, type[Stage]] = {
    stage.section: stage
    for stage in [*Stage.__subclasses__(), *OfExamples.__subclasses__()]
    if stage is not OfExamples
}
#: Knobs that a setup has once for all of its stages.
_COMMON = {"seed", "threads", "block"}
#: They say where an artifact lies, not what it holds.
_NOT_RECORDED = {"run", "shard"}


def names() -> list[str]:
    """The setups there are: the stems of ``notebooks/setups/*.yaml``."""
    return setup_files.names(FOLDER)


def has_classifier(setup: str) -> bool:
    """Whether a setup is about a classifier, unless it is about a language model alone."""
    given = read(setup)
    return Language.section not in given or Training.section in given


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


def shard_folder(run: str, shard: str | None) -> str:
    """The folder of the artifacts of a run's shard, below that of all artifacts; ``None``: of all examples."""
    return run if shard is None else f"{run}/shards/{shard}"


@cache
def sharded_kinds() -> frozenset[str]:
    """The kinds of artifacts that shards have of their own: what notebooks save that take some of the examples."""
    found = [
        sources.artifacts(notebook)[1]
        for notebook in sources.notebooks(store.NOTEBOOKS)
        if issubclass(of_notebook(notebook.stem), OfExamples)
    ]
    return frozenset(kind for kinds in found for kind in kinds)


def read(setup: str) -> dict[str, Any]:
    """A whole setup file, checked; ``extends: <other setup>`` completes it from another one.

    Args:
        setup: a name in ``notebooks/setups``, or the path of a ``.yaml`` file.

    Raises:
        BadInputError: no such setup, not YAML, or a section or value that the schema refuses.
    """
    whole: dict[str, Any] = {}
    for name, given in setup_files.chain(setup, FOLDER):
        _check_sections(given, name)
        for key, value in given.items():
            whole[key] = whole.get(key, {}) | value if isinstance(value, dict) else value
        for stage in STAGES.values():
            knobs.validated(stage, _section(whole, stage), f"{stage.section} of setup {name}")
    return whole


def _check_sections(given: Mapping[str, Any], setup: str) -> None:
    known = {"extends", *_COMMON, *STAGES}
    for key, value in given.items():
        if key not in known:
            raise unknown("section", knobs.spelled(key), known, f"setup {setup}")
        if key not in STAGES:
            continue
        if not isinstance(value, dict):
            raise BadInputError(
                f"section {key} of setup {setup} is {shown(value)}, expected name: value lines; mend it."
            )
        for name in ("setup", *sorted(_NOT_RECORDED)):
            if name in value:
                raise BadInputError(
                    f"{name} stands in section {key} of setup {setup}, expected in a notebook alone; remove it."
                )


def _section(whole: Mapping[str, Any], stage: type[Stage]) -> dict[str, Any]:
    common = _COMMON & whole.keys() & stage.model_fields.keys()
    return {key: whole[key] for key in common} | whole.get(stage.section, {})
