from collections import OrderedDict

from torch import nn
from torch.nn.functional import pad
from torchvision.models.resnet import BasicBlock


class Shortcut(nn.Module):
    def forward(self, x):
        k = x.shape[1] // 2
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, k, k))


def stage(n, n_out, *first):
    rest = [BasicBlock(n_out, n_out) for _ in range(2)]
    return nn.Sequential(BasicBlock(n, n_out, *first), *rest)


def resnet20(n_classes):
    layers = OrderedDict(
        conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu=nn.ReLU(),
        layer1=stage(16, 16),
        layer2=stage(16, 32, 2, Shortcut()),
        layer3=stage(32, 64, 2, Shortcut()),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        linear=nn.Linear(64, n_classes),
    )
    return nn.Sequential(layers)
