import csv

import pytest
from PIL import Image

from kanlib import memory
from kanlib.errors import BadInputError
from kanlib.networks.tables import listed

HEAD = "file,class_index,class_name,split\n"


@pytest.fixture
def table(tmp_path):
    """Writes a table of that content beside three pictures."""
    for k, name in enumerate("abc"):
        Image.new("RGB", (2, 2), (k, 0, 0)).save(tmp_path / f"{name}.png")

    def write(content, encoding="utf8"):
        file = tmp_path / "labels.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return file

    return write


def test_pictures_and_labels_go_by_split(table):
    found = listed(table(HEAD + "a.png,0,cat,train\nb.png,2,dog,test\n\nc.png,2,,\n"))
    assert found.classes == ("cat", "1", "dog")
    assert {split: files.labels.tolist() for split, files in found.splits.items()} == {
        "train": [0],
        "test": [2, 2],
    }
    assert [opened().getpixel((0, 0))[0] for opened in found.splits["test"].open] == [1, 2]
    assert found.notes == ("In split test, as their split is blank: 1 picture.",)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbffile,class_index\na.png,1\n",
        b"file,class_index\r\na.png,1\r\n",
        b"file,class_index\ra.png,1\r",
        b'"file","class_index"\n"a.png","1"\n',
        b"class_index,file\n1,a.png\n",
        b"file,class_index\na.png,00001",
    ],
)
def test_other_ways_to_write_the_same(table, content):
    found = listed(table(content))
    assert found.splits["test"].labels.tolist() == [1]
    assert found.classes == ("0", "1")
    assert found.notes == ()
    found.splits["test"].open[0]()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ((HEAD + "café.png,0,cat,test\n").encode("latin-1"), 2),
        ((HEAD + "a.png,0,cat,test\n").encode("utf-16"), 1),
        (b"file,class_index\na.png,0\n\x80\x81\xff", 3),
    ],
)
def test_another_encoding_is_refused(table, content, line):
    with pytest.raises(BadInputError, match=rf"labels\.csv is not UTF-8 in line {line}, .*save it as UTF-8"):
        listed(table(content))


@pytest.mark.parametrize(
    "content", [(HEAD + "a.png,0,cat,test\n").encode("utf-16-le"), b"file,class_index\na\0,0\n"]
)
def test_nul_bytes_are_refused(table, content):
    with pytest.raises(BadInputError, match=r"has a NUL byte in line [12], expected UTF-8; save it as UTF-8"):
        listed(table(content))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "file;class_index\na.png;0\n",
            "has file;class_index, expected the columns file and class_index, separated",
        ),
        ("file\tclass_index\na.png\t0\n", r"has file\\tclass_index, expected the columns"),
        ("\nfile,class_index\na.png,0\n", "has a blank first line, expected the columns"),
        ("a.png,0\nb.png,1\n", r"has a\.png, 0, expected the columns"),
        ("", "has no rows, expected the columns"),
        (HEAD, "has no rows"),
        ("x" * 5000 + "\na\n", "has x{99,100}…, expected"),
        ("file,class_index,file\na.png,0,b.png\n", "has the column file twice; leave one out"),
        ("file,class_index\na.png\n", r"has 1 values in line 2, expected 2 \(file, class_index\); mend it"),
        ("file,class_index\na.png,0\nb.png,0,cat\n", "has 3 values in line 3, expected 2"),
        ('file,class_index\n"a\n.png",0\nb.png\n', "has 1 values in line 4, expected 2"),
        (
            'file,class_index\na.png,0\n"b.png,1\nc.png,0\n',
            r"no CSV from line 3 on \(Error: unexpected end of data\)",
        ),
        ('file,class_index\n"a"b.png,0\n', r"no CSV from line 2 on \(Error: ',' expected"),
        ("file,class_index\n,0\n", "names no file in line 2; mend it"),
        ("file,class_index\n  ,0\n", "names no file in line 2"),
        (
            "file,class_index\na.png,\n",
            r"gives a\.png the class_index , expected 0, 1, 2 … to 99,999; mend line 2",
        ),
    ],
)
def test_a_table_that_is_none_is_refused(table, content, sentence):
    with pytest.raises(BadInputError, match=sentence) as caught:
        listed(table(content))
    assert len(str(caught.value)) < 600


def test_a_huge_field_is_refused(table):
    with pytest.raises(BadInputError, match=r"no CSV from line 2 on \(Error: field larger than field limit"):
        listed(table(f"file,class_index\n{'x' * (csv.field_size_limit() + 1)},0\n"))


@pytest.mark.parametrize(
    "index",
    ["²", "٣", "４", "1.0", "-1", "+1", " 1", "1e3", "1_0", "0x1", "cat", "4000000000", "100000", "9" * 5000],
)
def test_a_class_is_a_number_of_five_digits_at_most(table, index):
    with pytest.raises(
        BadInputError, match=r"the class_index .*, expected 0, 1, 2 … to 99,999; mend line 2"
    ) as caught:
        listed(table(f"file,class_index\na.png,{index}\n"))
    assert len(str(caught.value)) < 500


def test_the_largest_class_is_taken(table):
    found = listed(table("file,class_index\na.png,99999\n"))
    assert found.splits["test"].labels.tolist() == [99_999]
    assert len(found.classes) == 100_000


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            "a.png,0,cat,test\nb.png,0,dog,test\n",
            "calls class 0 cat in line 2 and dog in line 3, expected one name",
        ),
        ("a.png,0,,test\nb.png,0,cat,x\nc.png,0,dog,test\n", "calls class 0 cat in line 3 and dog in line 4"),
        (
            "a.png,0,cat,test\nb.png,1,cat,test\n",
            "calls both class 0 and class 1 cat, expected one number for a name",
        ),
        ("a.png,0,1,test\nb.png,1,,test\n", "calls both class 0 and class 1 1, expected"),
        ("a.png,0,,test\na.png,1,,test\n", r"gives a\.png class 0 in line 2 and class 1 in line 3, expected one"),
        ("a.png,0,,test\n./a.png,1,,test\n", r"gives a\.png class 0 in line 2 and class 1 in line 3"),
        ("a.png,0,,train\na.png,1,,test\n", r"gives a\.png class 0 in line 2 and class 1 in line 3"),
    ],
)
def test_what_contradicts_itself_is_refused(table, rows, sentence):
    with pytest.raises(BadInputError, match=sentence):
        listed(table(HEAD + rows))


@pytest.mark.parametrize("file", ["/etc/x.png", "../x.png", "..", "sub/../../x.png", "./../x.png", "//x/y.png"])
def test_files_of_other_folders_are_refused(table, file):
    with pytest.raises(
        BadInputError, match=r"names .* in line 2, expected a file in its own folder; move it there"
    ):
        listed(table(f"file,class_index\n{file},0\n"))


def test_files_within_the_folder_are_taken(table):
    found = listed(table("file,class_index\nsub/../a.png,0\n./b.png,0\n..c.png,0\n"))
    assert [found.splits["test"].open[k]().getpixel((0, 0))[0] for k in range(2)] == [0, 1]


def test_what_one_might_not_expect_is_said(table):
    rows = (
        "a.png,0,cat,train,1\na.png,0,cat,test,2\nb.png,1,dog,test,3\n./b.png,1,dog,test,4\nc.png,1,dog,extra,5\n"
    )
    found = listed(table(HEAD.strip() + ",weight\n" + rows))
    assert found.others == {"extra": 1}
    assert found.notes == (
        "Columns of labels.csv that are not used: weight.",
        "Listed twice in a split: b.png.",
        "Listed in more than one split: a.png.",
    )


def test_a_table_that_no_memory_holds_is_refused(table, monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 100)
    with pytest.raises(BadInputError, match=r"the rows of .*labels\.csv take .*; list fewer pictures"):
        listed(table(HEAD + "a.png,0,cat,test\n"))
