import os

import pytest

from kanlib import setup_files
from kanlib.errors import BadInputError, shown
from kanlib.setup_files import chain

LONG = "x" * 64


@pytest.fixture
def folder(tmp_path):
    """A folder of setups."""
    (tmp_path / "setups").mkdir()
    write(tmp_path / "setups", small="seed: 7", bigger="extends: small\ntraining: {epochs: 2}")
    return tmp_path / "setups"


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf8")


def refused(text, setup, folder):
    with pytest.raises(BadInputError, match=text) as error:
        chain(setup, folder)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "setup", ["a", "_", "0", "digits_resnet18", "digits.v2", "A-b", LONG, f"some/é/{LONG}.yaml"]
)
def test_a_name_is_its_own_and_a_path_has_that_of_its_file(setup):
    assert setup_files.name_of(setup) == setup.rpartition("/")[2].removesuffix(".yaml")


NO_NAMES = (".", "..", ".hidden", ".yaml", "a.", "-p", "a+b", "é", "٣", "x&y", "$(ls)", "{a}")
PATHS = ("a/b", "../a", "/a", "a/-p.yaml", "a/x&y.yaml", "a..yaml")
NO_TEXTS = (None, 3, True, b"a", ["a"], {"a": 1})
NOT_PRINTED = ("", "a b", "a\n", "a\0", "\ud800", "a\0/b.yaml", "a\n/b.yaml")
TOO_LONG = (LONG + "x", "x" * 5000, "x" * 5000 + ".yaml", "a/" * 3000 + "b.yaml")


@pytest.mark.parametrize("setup", [*NO_NAMES, *PATHS, *NO_TEXTS, *NOT_PRINTED, *TOO_LONG], ids=shown)
def test_what_is_no_name_is_refused_before_any_path_is_touched(setup, tmp_path):
    assert setup_files.stem(setup) is None
    refused(r"^setup is .*, expected a name of at most 64 .*; correct it\.$", setup, tmp_path / "not there")


def test_names_are_those_of_files_with_a_name(folder):
    write(folder, **{"z&id>x&": "", ".hidden": "", "a b": ""})
    (folder / "inner.yaml").mkdir()
    (folder / "other.yml").touch()
    os.mkfifo(folder / "pipe.yaml")
    assert setup_files.names(folder) == ["bigger", "small"]


def test_the_chain_begins_with_what_is_extended(folder):
    assert chain("small", folder) == [("small", {"seed": 7})]
    assert chain("bigger", folder) == [("small", {"seed": 7}), ("bigger", {"training": {"epochs": 2}})]


def test_a_file_elsewhere_may_extend_one_that_is_known(folder, tmp_path):
    write(tmp_path, mine="extends: small")
    assert chain(str(tmp_path / "mine.yaml"), folder) == [("small", {"seed": 7}), ("mine", {})]
    assert chain(str(folder / "small.yaml"), folder) == [("small", {"seed": 7})]


def test_an_unknown_name_is_refused_with_the_nearest(folder):
    refused(r"setup smal is unknown to notebooks/setups; did you mean small\?", "smal", folder)
    write(folder, lost="extends: smal")
    refused(r"setup smal is unknown .*did you mean small\?", "lost", folder)


@pytest.mark.parametrize("extended", ["", "''", "3", "[small]", "{small: 1}", "../small", "sm/all", "true"])
def test_what_extends_no_name_is_refused(folder, extended):
    write(folder, bad=f"extends: {extended}")
    refused(r"^extends of setup bad is .*, expected a name", "bad", folder)


@pytest.mark.parametrize("texts", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "./b.yaml"}])
def test_a_circle_is_refused(folder, monkeypatch, texts):
    monkeypatch.chdir(folder)
    write(folder, **{name: f"extends: {extended}" for name, extended in texts.items()})
    refused(r"setup a extends itself, .*remove that line", "a", folder)


def test_a_long_chain_is_refused(folder):
    write(folder, **{f"s{i}": f"extends: s{i + 1}" for i in range(12)}, s12="")
    refused(r"setup s0 extends itself, or more than 10 others", "s0", folder)
    assert len(chain("s3", folder)) == 10


def test_a_file_elsewhere_may_not_take_the_name_of_a_setup(folder, tmp_path):
    write(tmp_path, small="")
    refused("has the name of one", str(tmp_path / "small.yaml"), folder)


def test_what_is_no_file_is_refused(folder, tmp_path):
    (folder / "inner.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    (folder / "endless.yaml").symlink_to("/dev/zero")
    for name in ("inner", "pipe", "endless", str(folder / "pipe.yaml"), str(tmp_path / "none.yaml")):
        refused("is no file, expected one of YAML", name, folder)


def test_a_path_that_the_system_refuses_is_refused(folder):
    refused(r"setup a cannot be read \(OSError: .*mend its path", "y" * 3000 + "/a.yaml", folder)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- 1", "setup bad is a list, expected sections"),
        ("false", "setup bad is a bool, expected sections"),
        ("a: [", r"setup bad is not YAML .*\(line 1: .*mend bad\.yaml"),
        ("a: &x [1]\nb: [*x, *x]", "setup bad is not YAML .*anchors"),
        ("a: 1\na: 2", "setup bad is not YAML .*'a' stands twice"),
        ("#" * 100_001, "setup bad is larger than 100 kB"),
    ],
)
def test_a_bad_file_is_refused(folder, text, sentence):
    write(folder, bad=text)
    refused(sentence, "bad", folder)


def test_an_empty_file_says_nothing(folder):
    write(folder, empty="# nothing")
    assert chain("empty", folder) == [("empty", {})]
