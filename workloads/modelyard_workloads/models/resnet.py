"""ResNet-18 to -152 from one table (He et al. 2015, arXiv:1512.03385; strided 3x3 in the bottleneck, "v1.5").

Parameter names are those of torchvision and timm (`conv1`, `layer1.0.bn2`, `fc`), so weights load there unchanged and
the other way round.

Shapes: B batch, C channels, H x W height and width, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

# name -> (bottleneck?, blocks of each of the four stages)
BLOCKS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {
    "resnet10": (False, (1, 1, 1, 1)),
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
_WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the residual connection: relu(F(x) + x)."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride)"""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)  # type: ignore[no-any-return]

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation that closes the residual branch."""
        return self.bn2


class Bottleneck(nn.Module):
    """1x1 down, 3x3 (with the stride), 1x1 up by four, and the residual connection."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 width, H / stride, W / stride)"""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)  # type: ignore[no-any-return]

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The normalisation that closes the residual branch."""
        return self.bn3


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
    )


class ResNet(nn.Module):
    """The residual network: (B, C, H, W) -> logits (B, K).

    `small_stem` replaces the 7x7 stride-2 convolution and the max-pool (made for 224 x 224) by one 3x3 convolution, as
    is usual for images of 32 x 32 and below: an image then reaches the stages at its full size.
    """

    def __init__(self, name: str, *, channels: int, classes: int, small_stem: bool, dropout: float) -> None:
        super().__init__()
        bottleneck, depths = BLOCKS[name]
        block: type[BasicBlock | Bottleneck] = Bottleneck if bottleneck else BasicBlock
        kernel, stride = (3, 1) if small_stem else (7, 2)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        width_in = 64
        for index, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True), start=1):
            strides = [1 if index == 1 else 2] + [1] * (depth - 1)
            blocks = []
            for stride in strides:
                blocks.append(block(width_in, width, stride))
                width_in = width * block.expansion
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width_in, classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock | Bottleneck):
                # Every block starts as the identity, which makes high learning rates safe (Goyal et al. 2017,
                # arXiv:1706.02677).
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)"""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
        x = x.mean(dim=(2, 3))  # (B, 512 * expansion)
        return self.fc(self.dropout(x))  # type: ignore[no-any-return]
