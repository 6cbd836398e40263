"""Files such as a stranger might send, and what the doors of kanlib make of them.

A door is opened by one input at a time. What comes of it is ``refused`` (one sentence), ``sound`` (taken, and
right by a second reading), or wrong: ``silent`` (taken, though it differs from that), ``traceback``, ``hang``.
"""

import csv
import io
import json
import math
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sympy
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as tensors_bytes
from torch import nn

from kanlib import formats, setups, store
from kanlib.attribution import of_symbolic
from kanlib.errors import BadInputError
from kanlib.kan import KAN
from kanlib.masks import Split
from kanlib.networks import answers, images
from kanlib.networks.checkpoints import fitted
from kanlib.networks.weights import published, with_weights
from kanlib.symbolic import Batch, SymbolicKAN
from kanlib.symbolic.closed_forms import ClosedForm, X, constants
from kanlib.symbolic.grammar import parse
from kanlib.symbolic.notation import vega
from tests.helpers import randn, some_kan, symbolic_kan

WRONG = ("silent", "traceback", "hang")
SECONDS = 10
#: Leaves a file behind where it is executed, in Python, in a shell, by make or by a YAML loader.
COMMANDS = (
    '__import__("pathlib").Path("executed").touch()',
    "$(touch executed)",
    "`touch executed`",
    ";touch executed;",
    "x&touch executed&",
    "$(shell touch executed)",
    "!!python/object/apply:os.system ['touch executed']",
)


class SilentError(AssertionError):
    """An input was taken for something else than it says."""


class Hang(BaseException):
    """An input took more than :data:`SECONDS`; no ``except Exception`` may swallow that."""


@dataclass(frozen=True)
class Door:
    """Where strangers' input comes in: what is sent, and what opens it in a folder of its own."""

    name: str
    inputs: st.SearchStrategy
    open: Callable[[Any, Path], None]


def outcome(door: Door, sent: Any, folder: Path) -> str:
    """What comes of one input."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with _limited():
            door.open(sent, folder)
    except BadInputError as error:
        return "refused" if len(str(error)) < 1000 else "traceback"
    except SilentError:
        return "silent"
    except Hang:
        return "hang"
    except Exception:
        return "traceback"
    return "sound"


def fuzz(door: Door, n: int, folder: Path, first: int = 0) -> Counter[str]:
    """The outcomes of ``n`` inputs; the smallest that is wrong is raised as an error."""
    counts: Counter[str] = Counter()

    @seed(first)
    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(door.inputs)
    def one(sent: Any) -> None:
        found = outcome(door, sent, folder)
        counts[found] += 1
        if found in WRONG:
            # Once more, so that its own error shows where it came from.
            door.open(sent, folder)
            raise AssertionError(found)

    one()
    return counts


_STARTED: list[str] = []


def _hook(event: str, _: object) -> None:
    if event in {"os.system", "subprocess.Popen", "os.exec", "os.spawn", "os.posix_spawn", "pty.spawn", "os.fork"}:
        _STARTED.append(event)


@cache
def _listen() -> None:
    sys.addaudithook(_hook)


@contextmanager
def watched() -> Iterator[list[str]]:
    """What this process starts in the context: commands, and files called ``executed`` where it works."""
    _listen()
    found: list[str] = []
    before = len(_STARTED)
    yield found
    found += _STARTED[before:]
    found += [str(file) for file in Path().glob("*executed*")]


@contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def agree(condition: object) -> None:
    """What was taken must be what the second reading says."""
    if not condition:
        raise SilentError


def edited(whole: bytes) -> st.SearchStrategy[bytes]:
    """``whole`` with some of its bytes flipped, dropped, doubled or overwritten, or cut short."""
    at = st.integers(0, max(len(whole) - 1, 0))

    def apply(edits: list[tuple[str, int, bytes]]) -> bytes:
        out = whole
        for kind, place, junk in edits:
            head, tail = out[:place], out[place:]
            if kind == "flip" and tail:
                tail = bytes([tail[0] ^ (junk[0] if junk else 1) or 1]) + tail[1:]
            elif kind == "cut":
                tail = b""
            elif kind == "drop":
                tail = tail[len(junk) :]
            elif kind == "insert":
                tail = junk + tail
            elif kind == "overwrite":
                tail = junk + tail[len(junk) :]
            out = head + tail
        return out

    kinds = st.sampled_from(["flip", "cut", "drop", "insert", "overwrite"])
    return st.lists(st.tuples(kinds, at, st.binary(max_size=12)), min_size=1, max_size=3).map(apply)


SCALARS: st.SearchStrategy = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 12),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([*COMMANDS, 10**30, -(10**30), 2**63, 2**32, 1e308, 1e-320, "x" * 5000, "\0", "é", "σ", ""]),
)
JSON = st.recursive(
    SCALARS,
    lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text(max_size=6), of, max_size=4),
    max_leaves=8,
)
#: What a file of text may hold where a value is expected.
WRITTEN = st.one_of(
    st.sampled_from(COMMANDS),
    st.sampled_from(
        ["0300", "1:30", "1_000", "yes", "off", "~", "null", ".nan", ".inf", "0x1F", "1e400", "2024-01-01"]
    ),
    st.sampled_from(
        ["&a [1]", "*a", "<<: {}", "- 1", "\t", "a: b: c", "? x", "%TAG", "!!str", "{}", "'", '"', "|"]
    ),
    st.sampled_from(
        ["-1", "0", "1", "2", "8", "1.5", "0.9", "1e-5", "true", "False", "digits", "[1]", "[0.1, 1e-3]"]
    ),
    st.sampled_from(["9" * 5000, "[" * 200, "[cubic]"]),
)


# Setups


def _setup_texts() -> st.SearchStrategy[bytes]:
    knobs = [f"  {name}: " for stage in setups.STAGES.values() for name in stage.model_fields]
    heads = [*(f"{name}:\n" for name in setups.STAGES), "seed: 3\n", "extends: digits_resnet18\n", "training: {"]
    lines = st.one_of(
        st.tuples(st.sampled_from(knobs), WRITTEN).map(lambda pair: f"{pair[0]}{pair[1]}\n"),
        st.sampled_from(heads),
    )
    made = st.lists(lines, min_size=1, max_size=6).map(lambda parts: "".join(parts).encode())
    real = [(setups.FOLDER / f"{name}.yaml").read_bytes() for name in setups.names()]
    dumped = st.dictionaries(st.sampled_from(sorted(setups.STAGES)), JSON, max_size=2).map(
        lambda value: yaml.safe_dump(value, allow_unicode=True).encode("utf8", "surrogatepass")
    )
    return st.one_of(made, dumped, st.binary(max_size=60), *map(edited, real))


def _open_setup(sent: bytes, folder: Path) -> None:
    file = folder / "sent.yaml"
    file.write_bytes(sent)
    stages = [stage.from_setup(str(file)) for stage in setups.STAGES.values()]
    # Read a second time, all scalars as they are written.
    plain = yaml.load(sent.decode("utf-8-sig"), yaml.BaseLoader) or {}  # noqa: S506 (it makes text only)
    for stage in stages:
        for name, text in (plain.get(stage.section) or {}).items():
            agree(_said(text, getattr(stage, name)))


def _said(text: Any, value: Any) -> bool:
    """Whether a value is what its text says, by the text alone."""
    if isinstance(value, list):
        return len(text) == len(value) and all(map(_said, text, value))
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    if value is None:
        return text in ("", "~") or text.lower() == "null"
    return text == value if isinstance(value, str) else float(text) == float(value)


def _open_name(sent: str, folder: Path) -> None:
    try:
        setups.Training.from_setup(sent)
    except BadInputError:
        setups.Training.from_notebook({"run": sent})
    agree(
        re.fullmatch(r"[\w.-]{1,64}", sent, re.ASCII)
        and store.path(sent, "model").parent.parent == store.ARTIFACTS
    )


# Artifacts

_NAMES, _LABELS = ["layer1", "layer2", "layer3"], ["cat", "dog"]


def _artifacts() -> dict[str, tuple[str, Any, dict]]:
    """Suffix, content and record of one artifact of each kind that is read again."""
    masks = {
        split: randn(12, 3, seed=k, dtype=torch.float32) for k, split in enumerate(("fit", "validation", "test"))
    }
    responses = {
        "responses." + split: torch.stack([sigma.sum(1), sigma[:, 0].exp()]) for split, sigma in masks.items()
    }
    kan = some_kan((3, 2, 1), dtype=torch.float32).to_tensors()
    x = sympy.Symbol("x", real=True)
    one = symbolic_kan([[[sympy.exp(0.3 * x), x**2], [sympy.sin(x), x], [x, x]], [[x], [sympy.tanh(x)]]], 0.5)
    scores = pd.DataFrame({"surrogate": ["linear", "kan"], "example": [1, 1], "pearson": [0.5, 0.75]})
    recording = {f"masks/{split}": sigma for split, sigma in masks.items()}
    for example in ("reported.0", "reported.1"):
        recording |= {f"{example}/label": torch.tensor([1]), f"{example}/clean": torch.ones(3)}
        recording |= {f"{example}/branch/{split}": randn(3, 12, dtype=torch.float32) for split in masks}
    record = {"names": _NAMES, "label_names": _LABELS, "accuracy": 0.5, "device": "cpu"}
    of_recording = {
        "components": _NAMES,
        "examples": {"reported.0": 3, "reported.1": 5},
        "classes": {"reported.0": "cat", "reported.1": "dog"},
        "gate_error": 0.0,
        "accuracy": 0.5,
        "device": "cpu",
    }
    sent = {
        "responses": (".safetensors", {f"masks.{k}": v for k, v in masks.items()} | responses, record),
        "surrogates": (".safetensors", {f"kan.{k}": v for k, v in kan.items()}, {}),
        "symbolic": (".json", {"faithful": [one.to_json()] * 2, "short": [one.to_json()] * 2, "front": []}, {}),
        "scores": (".parquet", scores, {}),
        "recording": (".safetensors", recording, of_recording),
    }
    return {
        name: (
            suffix,
            content,
            {"kind": "responses" if name == "recording" else name, "inputs": {}, "parameters": {"setup": "sent"}}
            | more,
        )
        for name, (suffix, content, more) in sent.items()
    }


def bytes_of(name: str) -> bytes:
    """A whole artifact of that name."""
    suffix, content, record = _artifacts()[name]
    return formats.written(suffix, content, record)


def _paths(value: Any, here: tuple = ()) -> list[tuple]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, part in parts for path in _paths(part, (*here, key)))]


def _replaced(value: Any, path: tuple, new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copy


def _tensors() -> st.SearchStrategy[torch.Tensor]:
    dtypes = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.float16])
    shapes = st.lists(st.integers(0, 13), max_size=4)
    values = st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, 3e38, 7.0])
    return st.builds(
        lambda d, s, v: torch.full(s, 1.0 if d.is_floating_point is False else v).to(d), dtypes, shapes, values
    )


@st.composite
def _remade(draw: st.DrawFn, name: str) -> bytes:
    """An artifact of which a part is something else, with a right digest."""
    suffix, content, record = _artifacts()[name]
    what = draw(st.sampled_from(["record", "content", "content"]))
    if what == "record":
        record = _replaced(record, draw(st.sampled_from(_paths(record)[1:])), draw(_finite(JSON)))
    elif suffix == ".json":
        new = draw(st.one_of(_finite(JSON), TEMPLATES))
        content = _replaced(content, draw(st.sampled_from(_paths(content)[1:])), new)
    elif suffix == ".safetensors":
        key = draw(st.sampled_from(sorted(content)))
        content = {k: v for k, v in content.items() if k != key} | (
            {draw(st.sampled_from([key, "x", *sorted(content)])): draw(_tensors())} if draw(st.booleans()) else {}
        )
    else:
        content = content.rename(columns={draw(st.sampled_from(list(content))): draw(st.text(max_size=5))})
    return formats.written(suffix, content, record)


def _finite(of: st.SearchStrategy) -> st.SearchStrategy:
    def writable(value: Any) -> bool:
        try:
            formats.written(".json", value, {})
        except (ValueError, UnicodeEncodeError):
            return False
        return True

    return of.filter(writable)


def _numbers() -> st.SearchStrategy[str]:
    return st.one_of(
        st.integers(-3, 12).map(lambda n: f"Integer({n})"),
        st.floats(-4, 4).map(lambda v: f"Float('{v!r}', precision=53)"),
        st.sampled_from(_STRANGE),
    )


_STRANGE = (
    "Integer(9)",
    "Rational(1, 2)",
    "Rational(1, 0)",
    "Float('nan')",
    "Float('1e999999999')",
    "Float('1', precision=1000000000)",
    f"Integer({'9' * 5000})",
    "Integer(1e300)",
    "Integer(True)",
    "zoo",
    "pi",
)
_SYMBOLS = st.sampled_from(
    ["Symbol('x', real=True)", "Symbol('c_0', real=True)", "Symbol('c_1', real=True)", "Symbol('x')"]
    + [
        "Symbol('sigma_1', real=True)",
        "Symbol('lambda', real=True)",
        "Symbol('x', commutative=False)",
        "Symbol('')",
    ]
    + [f"Symbol({text!r}, real=True)" for text in COMMANDS]
)
_CALLS = st.sampled_from(["Add", "Mul", "Pow", "exp", "log", "sin", "cos", "tanh", "eval", "Lambda", "factorial"])
#: Texts of the kind that a stored closed form has, most of them hostile.
TEMPLATES = st.recursive(
    _numbers() | _SYMBOLS,
    lambda of: st.tuples(_CALLS, st.lists(of, min_size=1, max_size=3)).map(lambda c: f"{c[0]}({', '.join(c[1])})"),
    max_leaves=9,
)


def _open_expression(sent: str, _: Path) -> None:
    form = ClosedForm(parse(sent), (0.7, -1.3))
    at = {symbol: sympy.Float(v) for symbol, v in zip([X, *constants(2)], (0.4, *form.constants), strict=True)}
    _agree_with_sympy(float(form.values(torch.tensor([0.4]))), form.template.xreplace(at))


def _agree_with_sympy(ours: float, expression: sympy.Expr) -> None:
    exact = complex(expression.evalf())
    if math.isfinite(ours) and exact.imag == 0 and abs(exact) < 1e100:
        agree(math.isclose(ours, exact.real, rel_tol=1e-6, abs_tol=1e-6))


def _read(name: str, file: Path) -> None:
    """What notebooks and library do with an artifact."""
    masks = randn(5, 3, dtype=torch.float32)
    if name == "recording":
        held = store.RESPONSES
        try:
            store.RESPONSES = file.parent
            frozen = answers.Frozen(setups.Perturbation(setup="sent", source="frozen", n_examples=2))
            found, clean = frozen.responses("fit", frozen.made_from["masks/fit"])
        finally:
            store.RESPONSES = held
        agree(found.shape == (2, 12) and clean.shape == (2,) and found.isfinite().all())
        return
    artifact = store.load(file, name)
    if name == "responses":
        for split in ("fit", "validation", "test"):
            read = Split.read(artifact, split)
            agree(read.masks.shape[1] == len(artifact.record["names"]) and read.responses.isfinite().all())
    elif name == "surrogates":
        agree(KAN.read(artifact)(masks).shape[1:] == (5,))
    elif name == "symbolic":
        both = [SymbolicKAN.read(artifact, which) for which in ("faithful", "short")]
        for symbolic in both:
            agree(Batch(symbolic)(masks).shape == (len(symbolic), 5))
            _of_symbolic(symbolic[0], masks)
    elif name == "scores":
        artifact.table({"surrogate": str, "example": int, "pearson": float}).query("surrogate == 'linear'")


def _of_symbolic(one: SymbolicKAN, masks: torch.Tensor) -> None:
    for layer in one.hidden:
        for output in layer:
            vega(output)
    of_symbolic(one, 2)
    # sympy itself, without a compiler, is the second reading.
    at = {symbol: sympy.Float(float(v)) for symbol, v in zip(one.symbols, masks[0], strict=True)}
    _agree_with_sympy(float(one(masks[:1].double())), one.expression.xreplace(at))


def _open_artifact(name: str, damaged: bool) -> Callable[[bytes, Path], None]:
    def opened(sent: bytes, folder: Path) -> None:
        suffix = _artifacts()[name][0]
        file = folder / ("sent" if name == "recording" else name)
        file = file.with_name(file.name + suffix)
        file.write_bytes(sent)
        _read(name, file)
        agree(not damaged or sent == bytes_of(name))

    return opened


# Tables of labels, pictures, weights


def _tables() -> st.SearchStrategy[bytes]:
    cell = st.one_of(
        st.sampled_from(["a.png", "b.png", "c.png", "0", "1", "2", "cat", "dog", "train", "test"]), WRITTEN
    )
    rows = st.lists(st.lists(cell, max_size=5), max_size=5)
    heads = st.sampled_from(
        ["file,class_index", "file,class_index,class_name,split", "file;class_index", "\ufefffile,class_index", ""]
    )
    made = st.tuples(heads, rows).map(lambda t: "\n".join([t[0], *map(",".join, t[1])]))
    encodings = st.sampled_from(["utf8", "latin-1", "utf-16"])
    real = b"file,class_index,class_name,split\na.png,0,cat,train\nb.png,1,dog,train\nc.png,1,dog,test\n"
    return st.one_of(
        st.tuples(made, encodings).map(lambda t: t[0].encode(t[1], "replace")),
        edited(real),
        st.binary(max_size=60),
    )


def _open_table(sent: bytes, folder: Path) -> None:
    for k, name in enumerate("abc"):
        Image.fromarray(np.full((4, 4, 3), 40 * k, np.uint8)).save(folder / f"{name}.png")
    (folder / "labels.csv").write_bytes(sent)
    found = images.read(
        str(folder), transform=lambda image: torch.full((3, 2, 2), float(np.asarray(image)[0, 0, 0]))
    )
    rows = list(csv.reader(io.StringIO(sent.decode("utf-8-sig"), newline="")))
    head, rows = rows[0], [row for row in rows[1:] if row]
    listed = [dict(zip(head, row, strict=True)) for row in rows]
    test = [row for row in listed if (row.get("split") or "test") == "test"]
    agree([int(row["class_index"]) for row in test] == found.test.labels.tolist())
    for row in listed:
        agree(not row.get("class_name") or found.classes[int(row["class_index"])] == row["class_name"])
    seen = found.test.read(torch.arange(len(test)))[:, 0, 0, 0].tolist()
    agree(seen == [40.0 * "abc".index(row["file"][0]) for row in test])


def _pictures() -> st.SearchStrategy[tuple[str, bytes]]:
    grey = np.linspace(0, 255, 30, dtype=np.uint8).reshape(5, 6)
    made = {
        "png": Image.fromarray(grey),
        "jpg": Image.fromarray(np.stack([grey] * 3, 2)),
        "gif": Image.fromarray(grey).convert("P"),
        "bmp": Image.fromarray(np.stack([grey] * 3, 2)),
        "tiff": Image.fromarray(grey.astype(np.float32) / 255),
        "webp": Image.fromarray(np.stack([grey] * 4, 2), "RGBA"),
        "ppm": Image.fromarray(grey.astype(np.uint16) * 257),
    }
    sent = []
    for suffix, image in made.items():
        whole = io.BytesIO()
        image.save(whole, {"jpg": "jpeg", "ppm": "png"}.get(suffix, suffix))
        sent.append(
            st.tuples(
                st.just("png" if suffix == "ppm" else suffix),
                st.one_of(edited(whole.getvalue()), st.just(whole.getvalue())),
            )
        )
    return st.one_of(*sent, st.tuples(st.sampled_from(sorted(made)), st.binary(max_size=40)))


def _open_picture(sent: tuple[str, bytes], folder: Path) -> None:
    suffix, content = sent
    (folder / "cat").mkdir()
    (folder / "cat" / f"a.{suffix}").write_bytes(content)
    found = images.read(
        str(folder),
        transform=lambda image: torch.from_numpy(np.array(image.resize((2, 2)))).permute(2, 0, 1) / 255,
    )
    read = found.test.read(torch.tensor([0]))
    agree(read.shape == (1, 3, 2, 2) and read.min() >= 0 and read.max() <= 1)


def _small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))


def _weights() -> st.SearchStrategy[tuple[str, bytes]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = _small().state_dict()
    saved, old = io.BytesIO(), io.BytesIO()
    torch.save(state, saved)
    wrapped = {"model_ema": {f"module.{key}": value for key, value in state.items()}, "model": state}
    torch.save(wrapped, old, _use_new_zipfile_serialization=False)
    kinds = {
        ".safetensors": tensors_bytes(state),
        ".safetensors.index.json": json.dumps({"weight_map": dict.fromkeys(state, "sent.safetensors")}).encode(),
        ".pt": saved.getvalue(),
        ".th": old.getvalue(),
        ".pth": b"PK\3\4",
        ".bin": b"\x80\x02}q\0.",
    }
    return st.one_of(
        *(st.tuples(st.just(k), st.one_of(edited(v), st.binary(max_size=40))) for k, v in kinds.items()),
        st.dictionaries(st.sampled_from(sorted(state)), _tensors(), max_size=6).map(
            lambda changed: (".safetensors", tensors_bytes(state | changed))
        ),
    )


def _open_weights(sent: tuple[str, bytes], folder: Path) -> None:
    suffix, content = sent
    (folder / f"sent{suffix}").write_bytes(content)
    weights, _ = published("own.py:made", str(folder / f"sent{suffix}"))
    model = with_weights(_small(), fitted(weights, _small())[0])
    agree(all(value.isfinite().all() for value in model.state_dict().values()) and not model.training)


def doors() -> list[Door]:
    """All of them."""
    found = [
        Door("setups", _setup_texts(), _open_setup),
        Door("names", st.one_of(st.text(), st.sampled_from(COMMANDS), st.from_regex(r"[\w./-]+")), _open_name),
        Door("expressions", TEMPLATES, _open_expression),
        Door("labels", _tables(), _open_table),
        Door("pictures", _pictures(), _open_picture),
        Door("weights", _weights(), _open_weights),
    ]
    for name in _artifacts():
        found.append(Door(f"damaged {name}", edited(bytes_of(name)), _open_artifact(name, True)))
        found.append(Door(f"remade {name}", _remade(name), _open_artifact(name, False)))
    return found
