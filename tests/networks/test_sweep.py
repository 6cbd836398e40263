"""The sweep over architectures, in small: the smallest of each kind, and that it notices what is wrong."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("timm", reason="needs the extra timm")

from benchmarks import architectures

BY_NAME = {one.name: one for one in architectures.ARCHITECTURES}
ROWS = {row["architecture"]: row for row in json.loads(architectures.TARGET.read_text(encoding="utf8"))}
SMALLEST = [
    "torchvision/mobilenet_v3_small",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
    "timm/regnety_002",
    "timm/ghostnet_100",
    "timm/rexnet_100",
    "timm/convnext_atto",
    "timm/edgenext_xx_small",
    "timm/vit_tiny_patch16_224",
    "timm/deit_tiny_distilled_patch16_224",
    "timm/mobilevit_xxs",
    "timm/crossvit_9_240",
]


@pytest.mark.parametrize("name", SMALLEST)
def test_gates_do_what_the_table_says(name):
    row = architectures.measured(BY_NAME[name])
    assert max(architectures.distances(row)) <= architectures.NEAR
    assert architectures.distances(ROWS[name]) == pytest.approx(architectures.distances(row), abs=1e-12)
    same = row.keys() - ({"branch", "output"} if not BY_NAME[name].refused else set())
    assert {key: row[key] for key in same} == {key: ROWS[name][key] for key in same}


def test_every_architecture_of_the_sweep_has_its_row():
    assert list(ROWS) == list(BY_NAME)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("timm/regnety_002", {"ends": "conv2"}),
        ("timm/vit_tiny_patch16_224", {"ends": "mlp.fc2"}),
        ("timm/vit_tiny_patch16_224", {"ends": "norm1.nothing"}),
        ("timm/vit_tiny_patch16_224", {"pattern": "blocks.*.norm1 norm"}),
        ("timm/vit_tiny_patch16_224", {"refused": {"branch": "no branch"}}),
        ("torchvision/squeezenet1_1", {"pattern": "features.*"}),
        ("timm/crossvit_9_240", {"refused": {}}),
    ],
)
def test_what_is_removed_or_refused_wrongly_is_noticed(name, change):
    row = architectures.measured(replace(BY_NAME[name], **change))
    assert max(architectures.distances(row)) > architectures.NEAR
