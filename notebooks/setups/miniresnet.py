"""The small residual network of COAR's authors: a stem and four blocks, none of which shrinks the image.

Source: Shah, Ilyas and Madry (2024), whose code trains it on CIFAR-10 with 256 filters a convolution, 2,304 in all.
"""

from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions, each with batch normalisation, added to what they are given."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``relu(x + F(x))`` of features ``[B, width, 32, 32]``."""
        return self.relu(
            x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        )


class MiniResNet(nn.Module):
    """Logits ``[B, n_classes]`` of images ``[B, 3, 32, 32]``; ``9 · width`` filters."""

    def __init__(self, width: int, n_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.blocks = nn.Sequential(*(Block(width) for _ in range(4)))
        self.pool = nn.AvgPool2d(8)
        self.fc = nn.Linear(4 * 4 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return self.fc(
            self.pool(
                self.blocks(self.relu(self.bn1(self.conv1(x))))
            ).flatten(1)
        )


def width_8(n_classes: int) -> nn.Module:
    """72 filters."""
    return MiniResNet(8, n_classes)


def width_16(n_classes: int) -> nn.Module:
    """144 filters."""
    return MiniResNet(16, n_classes)


def width_32(n_classes: int) -> nn.Module:
    """288 filters."""
    return MiniResNet(32, n_classes)


def width_256(n_classes: int) -> nn.Module:
    """2,304 filters, as the authors have them."""
    return MiniResNet(256, n_classes)
