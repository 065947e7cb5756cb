"""ResNets (He et al. 2016) with torchvision's parameter names, so that its weights load."""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W).  Returns (N, channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """Convolutions of 1×1, 3×3 and 1×1, the last to four times the channels, with a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        out = self.expansion * channels
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels_in != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W).  Returns (N, 4 channels, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """Feature pyramid of a ResNet.

    blocks: number of blocks per stage, (2, 2, 2, 2) for ResNet-18, (3, 4, 6, 3) for ResNet-34 and, of `Bottleneck`,
    ResNet-50.  width: channels of the first stage, 64 in the paper; each later stage doubles it.
    """

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64,
                 block: type[BasicBlock | Bottleneck] = BasicBlock) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.channels = tuple(block.expansion * width * 2 ** stage for stage in range(len(blocks)))
        channels_in = width
        for stage, (count, out) in enumerate(zip(blocks, self.channels)):
            channels = out // block.expansion
            layer = [block(channels_in, channels, 1 if stage == 0 else 2)]
            layer += [block(out, channels, 1) for _ in range(count - 1)]
            setattr(self, f'layer{stage + 1}', nn.Sequential(*layer))
            channels_in = out
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, S, S) normalised. Returns the maps of all stages, strides 4, 8, 16, 32."""
        return self.pyramid(self.shallow(images))

    def shallow(self, images: Tensor) -> Tensor:
        """The map (B, width, S / 2, S / 2) of the first convolution."""
        return self.relu(self.bn1(self.conv1(images)))

    def pyramid(self, shallow: Tensor) -> list[Tensor]:
        """The maps of all stages, from the map of the first convolution."""
        x = self.maxpool(shallow)
        maps = []
        for stage in range(len(self.channels)):
            x = getattr(self, f'layer{stage + 1}')(x)
            maps.append(x)
        return maps

    def load_torchvision(self, state: dict[str, Tensor]) -> None:
        """Load a torchvision ResNet state dict, dropping its classifier. Raises on any other mismatch."""
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith('fc.')})
