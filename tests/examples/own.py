from torch import nn


def small_net(n_classes):
    blocks = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU()]
    blocks += [
        nn.Conv2d(16, 16, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 16, 3, padding=1),
    ]
    return nn.Sequential(
        *blocks,
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, n_classes),
    )
