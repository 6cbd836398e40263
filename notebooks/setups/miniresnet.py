"""The small residual network of COAR's authors: a stem and four blocks, none of which shrinks the image.

Source: Shah, Ilyas and Madry (2024), whose code trains it on CIFAR-10 with 256 filters a convolution, 2,304 in all.
A deeper one has eight blocks, for images of half that side.
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
    """Logits ``[B, n_classes]`` of images ``[B, 3, 4 · pool, 4 · pool]``; ``(1 + 2 · blocks) · width`` filters."""

    def __init__(
        self, width: int, n_classes: int, blocks: int = 4, pool: int = 8
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.pool = nn.AvgPool2d(pool)
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


def eight_blocks(n_classes: int) -> nn.Module:
    """Eight blocks of 8 filters a convolution, for images of 16 × 16 pixels."""
    return MiniResNet(8, n_classes, blocks=8, pool=4)


def sixteen_blocks(n_classes: int) -> nn.Module:
    """Sixteen of them."""
    return MiniResNet(8, n_classes, blocks=16, pool=4)


def width_16(n_classes: int) -> nn.Module:
    """144 filters."""
    return MiniResNet(16, n_classes)


def width_32(n_classes: int) -> nn.Module:
    """288 filters."""
    return MiniResNet(32, n_classes)


def width_256(n_classes: int) -> nn.Module:
    """2,304 filters, as the authors have them."""
    return MiniResNet(256, n_classes)
