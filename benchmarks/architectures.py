"""Gates in architectures of torchvision and timm, against networks whose components are removed by hand.

The weights are random, and whatever starts as a constant, such as the scale of a normalisation, is drawn anew. A
gate at σ = 0 must not change a bit of a logit, fp32, in a batch of equal shape. A gate at σ = −1 must give the
logits of the network whose components are removed by hand, fp64: at the site ``branch`` what its branches end with
is set to 0, at ``output`` what it puts out. All are removed, a random half, and each alone. One that then moves no
logit fails its architecture, as it proves nothing. One that has no branch is left out, which is wrong if by hand
something of its input is left behind it. Differences are in parts of the largest that a removal makes to a logit.
``python -m benchmarks.architectures <architecture> …`` leaves the rows of others as they are.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, get_args

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from kanlib import claims, files, store
from kanlib.errors import BadInputError
from kanlib.machine import generator
from kanlib.networks.branches import branches, tensors_in
from kanlib.networks.components import Site, find, gated
from kanlib.networks.soundness import apart

TARGET = store.ROOT / "data" / "architectures.json"
COMMAND = claims.Command("python -m benchmarks.architectures", "fast", "1 CPU core")
CLASSES = 10
#: How near σ = −1 must come to removal by hand, and how far a component alone must move a logit.
NEAR, FAR = 1e-5, 1e-4


@dataclass(frozen=True)
class Architecture:
    """A network, its components, and how they are removed by hand.

    Attributes:
        name: ``torchvision/<name>`` or ``timm/<name>``.
        family: what it is called.
        pattern: of its components, several with spaces between them.
        ends: what the branches of a component end with, names of its modules and parameters with spaces between
            them, of ``a|b`` the first that there is; ``""``: the component has none and is replaced by its input.
        size: height and width of the images.
        options: with which it is made.
        refused: why, by words of the sentence that does it, at each site where it is.
    """

    name: str
    family: str
    pattern: str
    ends: str = ""
    size: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[Site, str] = field(default_factory=dict)


SMALL = {"img_size": 64}
NO_HEADS = {"init_weights": False, "aux_logits": False}
ENCODER = "attn.proj mlp.fc2"
ODD = "features.1.* features.3.* features.5.* features.7.*"
MBCONV = " ".join(f"features.{i}.*" for i in range(1, 8))
FIRE = " ".join(f"features.{i}" for i in (3, 4, 6, 7, 9, 10, 11, 12))
INCEPTION_V3 = "branch1x1 branch5x5_2 branch3x3 branch3x3_2* branch3x3dbl_3* branch7x7*_[345] branch_pool"
NO_BRANCH: Mapping[Site, str] = {"branch": "no branch"}
A_LIST: Mapping[Site, str] = {"branch": "no branch", "output": "puts out a list"}

ARCHITECTURES = (
    Architecture("torchvision/resnet18", "residual", "layer*.*", "bn2"),
    Architecture("torchvision/resnet50", "residual", "layer*.*", "bn3"),
    Architecture("torchvision/resnext50_32x4d", "residual", "layer*.*", "bn3"),
    Architecture("timm/resnet18", "residual", "layer*.*", "bn2"),
    Architecture("timm/resnet26d", "residual", "layer*.*", "bn3"),
    Architecture("timm/seresnext26d_32x4d", "residual", "layer*.*", "bn3"),
    Architecture("timm/skresnet18", "residual", "layer*.*", "conv2"),
    Architecture("timm/res2net50_14w_8s", "residual", "layer*.*", "bn3"),
    Architecture("timm/resnest14d", "residual", "layer*.*", "bn3"),
    Architecture("timm/gernet_s", "residual", "stages.*.*", "conv3_1x1|conv2_kxk"),
    Architecture("timm/cspresnet50", "residual, CSP", "stages.*.blocks.*", "conv3"),
    Architecture("timm/dla34", "residual, DLA", "level2.tree* level5.tree*", "bn2"),
    Architecture("timm/hrnet_w18_small", "residual, HRNet", "stage*.*.branches.*.*", "bn2"),
    Architecture("timm/xception41", "residual, Xception", "blocks.*", "stack.conv3"),
    Architecture("timm/resnetv2_18", "pre-activation", "stages.*.blocks.*", "conv2"),
    Architecture("timm/nf_regnet_b0", "without normalisation", "stages.*.*", "conv3"),
    Architecture("timm/eca_nfnet_l0", "without normalisation", "stages.*.*", "conv3"),
    Architecture("torchvision/regnet_x_400mf", "RegNet", "trunk_output.*.*", "f.c.1"),
    Architecture("torchvision/regnet_y_400mf", "RegNet", "trunk_output.*.*", "f.c.1"),
    Architecture("timm/regnety_002", "RegNet", "s1.* s2.* s3.* s4.*", "conv3"),
    Architecture("torchvision/mobilenet_v2", "inverted residual", "features.*", "conv.3|conv.2|1"),
    Architecture("torchvision/mobilenet_v3_small", "inverted residual", "features.*", "block.3|block.2|1"),
    Architecture("torchvision/mobilenet_v3_large", "inverted residual", "features.*", "block.3|block.2|block.1|1"),
    Architecture("torchvision/mnasnet0_5", "inverted residual", "layers.*.*", "layers.7"),
    Architecture("timm/mobilenetv3_small_050", "inverted residual", "blocks.*.*", "bn3|bn2|bn1"),
    Architecture("timm/mobilenetv4_conv_small", "inverted residual", "blocks.2.* blocks.3.*", "pw_proj"),
    Architecture("timm/fbnetc_100", "inverted residual", "blocks.*.*", "bn3"),
    Architecture("timm/ghostnet_100", "inverted residual", "blocks.*.*", "ghost2|bn1"),
    Architecture("timm/rexnet_100", "inverted residual", "features.*", "conv_pwl|bn"),
    Architecture("torchvision/efficientnet_b0", "EfficientNet", MBCONV, "block.3|block.2"),
    Architecture("timm/efficientnet_lite0", "EfficientNet", "blocks.*.*", "bn3|bn2"),
    Architecture("timm/tf_efficientnetv2_b0", "EfficientNet", "blocks.*.*", "bn3|bn2|bn1"),
    Architecture("timm/repvgg_a0", "RepVGG", "stages.*.*", "conv_kxk conv_1x1"),
    Architecture("timm/mobileone_s0", "MobileOne", "stages.*.*", "conv_kxk conv_scale"),
    Architecture("timm/starnet_s1", "StarNet", "stages.*.*", "dwconv2|bn"),
    Architecture("torchvision/convnext_tiny", "ConvNeXt", ODD, "layer_scale"),
    Architecture("timm/convnext_atto", "ConvNeXt", "stages.*.blocks.*", "gamma"),
    Architecture("timm/convnextv2_atto", "ConvNeXt", "stages.*.blocks.*", "mlp.fc2"),
    Architecture("timm/inception_next_atto", "ConvNeXt", "stages.*.blocks.*", "gamma"),
    Architecture("timm/edgenext_xx_small", "ConvNeXt", "stages.*.blocks.*", "gamma"),
    Architecture("timm/convmixer_1024_20_ks9_p14", "ConvMixer", "blocks.*", "0.fn.2", 56),
    Architecture("timm/mambaout_femto", "MambaOut", "stages.*.blocks.*", "fc2"),
    Architecture("torchvision/densenet121", "dense", "features.denseblock1.* features.denseblock4.*", "conv2"),
    Architecture("timm/ese_vovnet19b_dw", "dense", "stages.*.blocks.*", "conv_mid"),
    Architecture(
        "timm/dpn48b", "dense and residual", "features.conv2_* features.conv3_*", "c1x1_w* c1x1_c1 c1x1_c2"
    ),
    Architecture(
        "torchvision/googlenet", "inception", "inception*", "branch1 branch2.1 branch3.1 branch4.1", 64, NO_HEADS
    ),
    Architecture("torchvision/inception_v3", "inception", "Mixed_*", INCEPTION_V3, 96, NO_HEADS),
    Architecture("timm/inception_resnet_v2", "inception, residual", "repeat_2.*", "conv2d", 96),
    Architecture("torchvision/squeezenet1_1", "fire", FIRE, "expand*"),
    Architecture("torchvision/shufflenet_v2_x0_5", "ShuffleNet", "stage*.*", "branch1.3 branch2.6"),
    Architecture("torchvision/vit_b_32", "ViT", "encoder.layers.*", "*.out_proj mlp.3", 64, {"image_size": 64}),
    Architecture("timm/vit_tiny_patch16_224", "ViT", "blocks.*", ENCODER, 64, SMALL),
    Architecture("timm/vit_wee_patch16_reg1_gap_256", "ViT, a register", "blocks.*", ENCODER, 64, SMALL),
    Architecture("timm/deit_tiny_distilled_patch16_224", "DeiT, distilled", "blocks.*", ENCODER, 64, SMALL),
    Architecture("timm/deit3_small_patch16_224", "DeiT", "blocks.*", "ls1 ls2", 64, SMALL),
    Architecture("timm/eva02_tiny_patch14_224", "EVA", "blocks.*", ENCODER, 56, {"img_size": 56}),
    Architecture("timm/cait_xxs24_224", "CaiT", "blocks.*", "gamma_1 gamma_2", 64, SMALL),
    Architecture("timm/xcit_nano_12_p16_224", "XCiT", "blocks.*", "gamma1 gamma2 gamma3", 64, SMALL),
    Architecture("timm/convit_tiny", "ConViT", "blocks.*", ENCODER, 64, SMALL),
    Architecture("timm/pit_ti_224", "PiT", "transformers.*.blocks.*", ENCODER, 64, SMALL),
    Architecture("timm/visformer_tiny", "Visformer", "stage*.*", "attn.proj mlp.conv3", 64, SMALL),
    Architecture("timm/levit_128s", "LeViT", "stages.*.blocks.*", "attn.proj mlp.ln2", 224),
    Architecture("torchvision/swin_t", "Swin", ODD, "attn.proj mlp.3"),
    Architecture("torchvision/swin_v2_t", "Swin", ODD, "norm1 norm2"),
    Architecture("timm/swin_tiny_patch4_window7_224", "Swin", "layers.*.blocks.*", ENCODER, 64, SMALL),
    Architecture("timm/swinv2_cr_tiny_224", "Swin", "stages.*.blocks.0", "norm1 norm2", 64, SMALL),
    Architecture("timm/twins_pcpvt_small", "Twins", "blocks.*.*", ENCODER, 64, SMALL),
    Architecture("timm/pvt_v2_b0", "PVT", "stages.*.blocks.*", ENCODER),
    Architecture("timm/nest_tiny", "NesT", "levels.*.transformer_encoder.*", ENCODER, 64, SMALL),
    Architecture("timm/gcvit_xxtiny", "GCViT", "stages.*.blocks.*", ENCODER, 64, SMALL),
    Architecture("timm/hiera_tiny_224", "Hiera", "blocks.*", ENCODER, 64, SMALL),
    Architecture("timm/mvitv2_tiny", "MViT", "stages.*.blocks.*", ENCODER, 64, SMALL),
    Architecture("timm/coatnet_nano_rw_224", "CoAtNet", "stages.*.blocks.*", f"conv3_1x1 {ENCODER}", 64, SMALL),
    Architecture(
        "timm/maxvit_rmlp_pico_rw_256",
        "MaxViT",
        "stages.*.blocks.*",
        "*.conv3_1x1 *.attn.proj *.mlp.fc2",
        64,
        SMALL,
    ),
    Architecture("timm/mobilevit_xxs", "MobileViT", "stages.*.*", "conv3_1x1|conv_proj"),
    Architecture("timm/efficientvit_b0", "EfficientViT", "stages.*.blocks.*", "main.point_conv *_module.main.p*"),
    Architecture("timm/fastvit_t8", "FastViT", "stages.*.blocks.*", "layer_scale token_mixer.layer_scale"),
    Architecture("timm/poolformer_s12", "PoolFormer", "stages.*.blocks.*", "layer_scale*"),
    Architecture("timm/focalnet_tiny_srf", "FocalNet", "layers.*.blocks.*", "modulation.proj mlp.fc2"),
    Architecture("timm/mixer_s32_224", "MLP-Mixer", "blocks.*", "mlp_tokens.fc2 mlp_channels.fc2", 64, SMALL),
    Architecture("timm/gmlp_s16_224", "gMLP", "blocks.*", "mlp_channels.fc2", 64, SMALL),
    Architecture("timm/resmlp_12_224", "ResMLP", "blocks.*", "ls1 ls2", 64, SMALL),
    Architecture("timm/mobilenetv1_100", "plain", "blocks.1.1 blocks.2.1 blocks.4.1"),
    Architecture("torchvision/alexnet", "plain", "features.*", refused=NO_BRANCH),
    Architecture("torchvision/vgg11_bn", "plain", "features.*", refused=NO_BRANCH),
    Architecture("timm/crossvit_9_240", "CrossViT", "blocks.*", size=240, refused=A_LIST),
)


def made(architecture: Architecture) -> nn.Module:
    """The network in evaluation mode, fp32, of random weights none of which is a constant."""
    library, _, name = architecture.name.partition("/")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if library == "timm":
            model = timm.create_model(name, num_classes=CLASSES, **architecture.options)
        else:
            model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **architecture.options)
    source = generator(0, "weights")
    for key, value in model.requires_grad_(False).named_parameters():
        if key.endswith("bias"):
            value.normal_(std=0.1, generator=source)
        elif value.min() == value.max():
            value.uniform_(0.5, 1.5, generator=source)
    settle(model, images(architecture, 8))
    return model


def images(architecture: Architecture, n: int) -> Tensor:
    return torch.randn(n, 3, architecture.size, architecture.size, generator=generator(0, "images"))


@torch.no_grad()
def settle(model: nn.Module, x: Tensor) -> None:
    """Give batch norms the statistics of some images, so that the signal neither dies out nor grows."""
    norms = [module for module in model.eval().modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        model(x)
    model.eval()


def ends(model: nn.Module, component: str, patterns: str) -> list[str]:
    """The parameters with which the branches of a component end."""
    prefix = f"{component}."
    names = [key.removeprefix(prefix) for key, _ in model.named_parameters() if key.startswith(prefix)]
    found: list[str] = []
    for word in patterns.split():
        either = (
            [name for name in names if fnmatchcase(name, one) or fnmatchcase(name, f"{one}.*")]
            for one in word.split("|")
        )
        found += next(filter(None, either), [])
    return [prefix + name for name in found]


def by_hand(model: nn.Module, x: Tensor, removed: Sequence[str], site: Site, patterns: str) -> Tensor:
    """Logits of the network without these components."""
    if site == "branch" and patterns:
        zeros = {
            key: torch.zeros_like(model.get_parameter(key))
            for name in removed
            for key in ends(model, name, patterns)
        }
        return functional_call(model, zeros, (x,))

    def instead(module: nn.Module, args: tuple, y: Any) -> Any:
        return args[0] if site == "branch" else tree_map_only(Tensor, torch.zeros_like, y)

    handles = [model.get_submodule(name).register_forward_hook(instead) for name in removed]
    found = model(x)
    for handle in handles:
        handle.remove()
    return found


def passes_on(model: nn.Module, x: Tensor, component: str, patterns: str) -> bool:
    """Whether a component whose branch is removed by hand puts out other things for another image."""
    seen: list[Any] = []
    handle = model.get_submodule(component).register_forward_hook(lambda module, args, y: seen.append(y))
    by_hand(model, x, [component], "branch", patterns)
    handle.remove()
    return apart(*next(tensors_in(seen[0]))[:2]) > 0


def chosen(model: nn.Module, x: Tensor, architecture: Architecture) -> tuple[list[str], list[str]]:
    """The components that are gated, and those that have no branch."""
    names = find(model, architecture.pattern.split())
    if architecture.refused:
        return names, []
    found = branches(model, names, x)
    without = [name for name in names if found[name] is None]
    return [name for name in names if found[name] is not None], without


def checked(
    model: nn.Module, x: Tensor, names: Sequence[str], site: Site, architecture: Architecture
) -> tuple[str, bool]:
    """What the gates do at a site, and whether one image serves all masks.

    The largest difference at σ = −1; else what they refuse, or what is not as it should be.
    """
    m = len(names)
    half = torch.randperm(m, generator=generator(0, "half"))[: m // 2]
    sets = torch.cat([torch.ones(1, m), torch.zeros(1, m).index_fill(1, half, 1), torch.eye(m)])
    try:
        with gated(model.float(), names, site) as gates:
            changed = apart(gates(x, torch.zeros(len(x), m)), model(x))
        one = x[:1].double()
        with gated(model.double(), names, site) as gates:
            found = gates(one, -sets.double())
    except BadInputError as error:
        right = architecture.refused.get(site, "nothing") in str(error)
        return f"{'refused' if right else 'WRONG'}: {error}", False
    if site in architecture.refused:
        return "WRONG: nothing is refused", False
    if changed:
        return f"WRONG: σ = 0 changes a logit by {changed:.1g}", False
    removed = [[name for name, out in zip(names, row, strict=True) if out] for row in sets]
    true = torch.cat([by_hand(model, one, some, site, architecture.ends) for some in removed])
    moved = (true - model(one)).abs().amax(1)
    alone = moved[-m:].min() / moved.max()
    if not alone >= FAR:  # also where it is no number, as nothing moves at all
        return f"WRONG: without {names[int(moved[-m:].argmin())]} alone a logit moves by {float(alone):.1g}", False
    distance = apart(found, true) / float(moved.max())
    return f"{distance:.0e}", bool(gates.shares)


@torch.no_grad()
def measured(architecture: Architecture) -> dict[str, str]:
    """Its row of the table."""
    model = made(architecture)
    x = images(architecture, 2)
    names, without = chosen(model, x, architecture)
    found = {site: checked(model, x, names, site, architecture) for site in get_args(Site)}
    model.float()
    if wrongly := [name for name in without if passes_on(model, x, name, architecture.ends)]:
        found["branch"] = f"WRONG: {', '.join(wrongly)} left out", False
    refusals = {
        site: text.removeprefix("refused: ") for site, (text, _) in found.items() if text.startswith("refused: ")
    }
    shared = [site for site, (_, shares) in found.items() if shares]
    return {
        "architecture": architecture.name,
        "family": architecture.family,
        "components": architecture.pattern,
        "m": f"{len(names)} of {len(names) + len(without)}" if without else str(len(names)),
        "branches end with": architecture.ends or "",
        **{site: "refused" if site in refusals else text for site, (text, _) in found.items()},
        "refusal": " ".join(refusals.values()),
        "one image for all masks": " and ".join(shared) or "no",
    }


def distances(row: Mapping[str, str]) -> list[float]:
    """At both sites, 0 where a refusal is right, and infinite where something is wrong."""
    cells = (row[site].partition(": ") for site in get_args(Site))
    words = {"refused": 0.0, "WRONG": float("inf")}
    return [words[first] if first in words else float(first) for first, _, _ in cells]


def results(rows: Sequence[Mapping[str, str]]) -> list[claims.Claim]:
    found = [distances(row) for row in rows]
    measured = [one for both in found for one in both if one < float("inf")]
    return [
        COMMAND.claim(
            "gating.architectures",
            "Architectures of torchvision and timm, of random weights, in which gates at both sites give at σ = 0 "
            "the bits of the plain network, fp32, and at σ = −1, for all components, a random half and each "
            "alone, the logits of the network that has them removed by hand, fp64, up to "
            f"{NEAR:.0e} of the largest change; or which are refused where they should be, by one sentence; "
            f"{len(rows)} were tried",
            sum(max(both) <= NEAR for both in found),
            ">= 45",
        ),
        COMMAND.claim(
            "gating.removal_error",
            "The largest difference between the logits of gates at σ = −1 and of components removed by hand, of "
            f"the largest change, fp64, over {len(measured)} pairs of architecture and gate site",
            max(measured),
            f"<= {NEAR:.0e}",
        ),
    ]


def main(asked: Sequence[str]) -> None:
    torch.set_num_threads(1)
    kept = json.loads(TARGET.read_text(encoding="utf8")) if TARGET.exists() else []
    rows = {row["architecture"]: row for row in kept}
    for architecture in ARCHITECTURES:
        if not asked or architecture.name in asked:
            rows[architecture.name] = measured(architecture)
            print(*rows[architecture.name].values(), sep=" | ", flush=True)
            files.write_json(TARGET, [rows[one.name] for one in ARCHITECTURES if one.name in rows])
    claims.record(results([rows[one.name] for one in ARCHITECTURES if one.name in rows]))


if __name__ == "__main__":
    main(sys.argv[1:])
