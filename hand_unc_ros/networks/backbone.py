"""ResNet of basic blocks (He et al. 2016) with torchvision's parameter names, so that its weights load."""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut."""

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


class ResNet(nn.Module):
    """Feature pyramid of a ResNet.

    blocks: number of basic blocks per stage, (2, 2, 2, 2) for ResNet-18, (3, 4, 6, 3) for ResNet-34.
    width: channels of the first stage, 64 in the paper; each later stage doubles it.
    """

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.channels = tuple(width * 2 ** stage for stage in range(len(blocks)))
        channels_in = width
        for stage, (count, channels) in enumerate(zip(blocks, self.channels)):
            layer = [BasicBlock(channels_in, channels, 1 if stage == 0 else 2)]
            layer += [BasicBlock(channels, channels, 1) for _ in range(count - 1)]
            setattr(self, f'layer{stage + 1}', nn.Sequential(*layer))
            channels_in = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, S, S) normalised. Returns the maps of all stages, strides 4, 8, 16, 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for stage in range(len(self.channels)):
            x = getattr(self, f'layer{stage + 1}')(x)
            maps.append(x)
        return maps

    def load_torchvision(self, state: dict[str, Tensor]) -> None:
        """Load a torchvision ResNet state dict, dropping its classifier. Raises on any other mismatch."""
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith('fc.')})
