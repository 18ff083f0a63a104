"""Blocks that widen what the coarsest scale of a light decoder sees, at little cost.

A smooth surface in focus and one out of focus look alike through a small window; what is around decides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["AttentionContext", "ConvNormAct", "SelectiveContext", "create_context"]


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, ReLU; keeps the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, dilation: int = 1, groups: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class SelectiveContext(nn.Module):
    """The paper's selective reception field block (SRFB, its section 3.2) with depth-wise convolutions.

    Four branches in a chain: identity, then kernels 3, 5 and 7, dilated by their own size, each on the
    output of the one before; a softmax over the branches, computed from their global average, weights
    their sum for each channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvNormAct(channels, channels, kernel, dilation=kernel, groups=channels) for kernel in (3, 5, 7)
        )
        hidden = max(channels // 16, 32)
        self.squeeze = nn.Linear(channels, hidden)
        self.select = nn.Linear(hidden, channels * (len(self.branches) + 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        parts = [x]
        for branch in self.branches:
            parts.append(branch(parts[-1]))
        stacked = torch.stack(parts, 1)
        weights = self.select(F.relu(self.squeeze(stacked.sum(1).mean((2, 3)))))
        weights = weights.view(len(x), len(parts), -1).softmax(1)
        mixed: Tensor = (stacked * weights[..., None, None]).sum(1)
        return mixed


class AttentionContext(nn.Module):
    """One transformer block over all positions; where they are comes from a depth-wise convolution."""

    def __init__(self, channels: int, *, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.project = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        count, channels, height, width = x.shape
        x = x + self.position(x)
        tokens = x.flatten(2).transpose(1, 2)
        query, key, value = (
            self.qkv(self.norm_attention(tokens))
            .view(count, height * width, 3, self.heads, channels // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.project(attended)
        tokens = tokens + self.mlp(self.norm_mlp(tokens))
        seen: Tensor = tokens.transpose(1, 2).view(count, channels, height, width)
        return seen


def create_context(name: str, channels: int) -> nn.Module:
    """`none`, `srfb` or `attention`."""
    blocks = {"none": lambda _: nn.Identity(), "srfb": SelectiveContext, "attention": AttentionContext}
    block: nn.Module = blocks[name](channels)
    return block
