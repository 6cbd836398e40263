import pytest
from torch import nn

from kanlib.errors import BadInputError
from kanlib.networks.patterns import find, plain

BLOCKS = [f"layer{i}.{j}" for i in range(1, 5) for j in range(2)]


def named(*names):
    """A network whose modules have these names."""
    model = nn.Module()
    for name in names:
        model.add_module(name, nn.Linear(2, 2))
    return model


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["layer*.*"], BLOCKS),
        (["layer1.0"], ["layer1.0"]),
        (["layer*"], ["layer1", "layer2", "layer3", "layer4"]),
        (["layer2.0.conv*", "fc", "layer1.*"], ["layer1.0", "layer1.1", "layer2.0.conv1", "layer2.0.conv2", "fc"]),
        (["*.*.downsample"], ["layer2.0.downsample", "layer3.0.downsample", "layer4.0.downsample"]),
        (["layer1.0", "layer1.*"], ["layer1.0", "layer1.1"]),
    ],
)
def test_a_star_stands_for_one_level(resnet, patterns, found):
    assert find(resnet, patterns) == found


def test_a_dot_in_a_pattern_is_a_dot(resnet):
    with pytest.raises(BadInputError, match=r"pattern layer\.\.0 matches no module"):
        find(resnet, ["layer..0"])


def test_a_pattern_without_matches_lists_its_level(resnet):
    with pytest.raises(BadInputError, match=r"pattern blocks\.\* matches no module; .*layer1\.0") as caught:
        find(resnet, ["layer*.*", "blocks.*"])
    assert "layer1.0.conv1" not in str(caught.value)


def test_parts_of_modules_are_found_in_order(resnet):
    found = find(resnet, ["layer1.0.conv2[*]", "layer1.0.conv1[7]", "layer1.0"])
    assert found == ["layer1.0", "layer1.0.conv1[7]", *[f"layer1.0.conv2[{i}]" for i in range(64)]]


def test_a_module_without_parts_is_refused(resnet):
    with pytest.raises(BadInputError, match=r"layer1\.0 is a BasicBlock, which has neither filters nor heads"):
        find(resnet, ["layer1.*[*]"])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*a*b*", ["ab", "aab", "cabbc"]),
        ("a*b", ["ab", "aab"]),
        ("**b", ["ab", "aab", "b"]),
        ("*", ["ab", "aab", "b", "cabbc"]),
        ("a**a*b", ["aab"]),
        ("*a*a*", ["aab"]),
        ("*bb*c", ["cabbc"]),
    ],
)
def test_stars_stand_for_any_characters_also_none(pattern, found):
    assert find(named("ab", "aab", "b", "cabbc"), [pattern]) == found


@pytest.mark.parametrize(
    "pattern", ["*" * 500 + "b", "*a" * 1000 + "*b", "a*" * 2000 + "b", "*" * 5000 + ".b", "*a*a" * 500 + ".*b"]
)
def test_a_pattern_of_many_stars_is_done_at_once(pattern):
    with pytest.raises(BadInputError, match="matches no module"):
        find(named("a" * 3000, "c"), [pattern])


def test_a_long_pattern_is_not_said_in_full():
    with pytest.raises(BadInputError, match="matches no module") as caught:
        find(named("a"), ["layer\n" * 5000])
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_of_many_modules_some_are_listed():
    with pytest.raises(BadInputError, match=r"there are m0, m1, .* m19 and 980 more\.") as caught:
        find(named(*[f"m{i}" for i in range(1000)]), ["block"])
    assert "m20," not in str(caught.value)


@pytest.mark.parametrize("index", ["64", str(10**30), "9" * 5000])
def test_a_part_beyond_the_last_is_refused(resnet, index):
    with pytest.raises(BadInputError, match=r"conv2\[\d+\] does not exist, expected 0 to 63") as caught:
        find(resnet, [f"layer1.0.conv2[{index}]"])
    assert len(str(caught.value)) < 200


def test_a_block_that_says_how_many_channels_it_puts_out_has_no_parts():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1)))
    model[0].out_channels = 3
    with pytest.raises(BadInputError, match="0 is a Sequential, which has neither filters nor heads"):
        find(model, ["0[*]"])


def test_a_strangers_name_stays_on_one_line():
    assert plain("layer1.0") == "layer1.0"
    assert plain("a\nb") == r"a\nb"
    assert len(plain("a" * 5000)) <= 101


FILTERS = [f"layer1.0.conv2[{i}]" for i in range(64)]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["layer*.*", "!layer1.0"], BLOCKS[1:]),
        (["!layer1.0", "layer*.*"], BLOCKS[1:]),
        (["layer*.*", "!layer2", "!layer4.*"], ["layer1.0", "layer1.1", "layer3.0", "layer3.1"]),
        (["layer*.*", "!*.1", "!layer1"], ["layer2.0", "layer3.0", "layer4.0"]),
        (["layer1.0.conv2[*]", "!layer1.0.conv2[3]"], [*FILTERS[:3], *FILTERS[4:]]),
        (["layer1.*.conv2[*]", "!layer1.1.conv2"], FILTERS),
        (["layer1.*.conv2[*]", "!layer1.1"], FILTERS),
        (["fc.weight[*]", "!fc.weight[0]"], [f"fc.weight[{i}]" for i in range(1, 10)]),
    ],
)
def test_what_is_left_out_is_not_found(resnet, patterns, found):
    assert find(resnet, patterns) == found


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (["layer*.*", "!layer5.0"], r"pattern layer5\.0 matches no module"),
        (
            ["layer*.*", "!layer1.0.conv1"],
            r"pattern !layer1\.0\.conv1 leaves out nothing that other patterns find",
        ),
        (["layer1.0.conv2", "!layer1.0.conv2[3]"], "leaves out nothing"),
        (["group:layer*.*", "!layer1.0"], r"leaves out nothing .*as in group:layer\*\.\* !layer1\.0"),
        (["!layer1.0"], "leaves out nothing"),
        (["layer1.*", "!layer1"], r"patterns layer1\.\* !layer1 leave no component"),
    ],
)
def test_what_leaves_out_nothing_or_all_is_refused(resnet, patterns, sentence):
    with pytest.raises(BadInputError, match=sentence):
        find(resnet, patterns)


def test_a_group_is_one_component_at_the_place_of_its_first_member(resnet):
    group = "group:layer4.1.conv2[*] layer2.0 !layer4.1.conv2[0]"
    assert find(resnet, [group, "layer3.0", "fc", group, "layer1.0"]) == ["layer1.0", group, "layer3.0", "fc"]


@pytest.mark.parametrize("group", ["group:", "group: ", "group:group:fc", "group:fc group:layer1"])
def test_what_is_no_group_is_refused(resnet, group):
    with pytest.raises(BadInputError, match="makes no group, expected group: and patterns"):
        find(resnet, [group])


def test_rows_are_found_beside_features(resnet):
    found = find(resnet, ["fc.weight[3]", "fc[*]", "layer1.0.conv1.weight[7]"])
    assert found == ["layer1.0.conv1.weight[7]", *[f"fc[{i}]" for i in range(10)], "fc.weight[3]"]


def test_a_row_beyond_the_last_is_refused(resnet):
    with pytest.raises(BadInputError, match=r"fc\.weight\[10\] does not exist, expected 0 to 9"):
        find(resnet, ["fc.weight[10]"])
