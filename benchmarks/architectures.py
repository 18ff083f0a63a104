"""Real-size depth teachers for timing: the architectures of Depth Anything V2, with random weights.

Speed does not depend on the weights, so nothing is downloaded. Sizes are those of the published configurations
(Yang et al., Depth Anything V2, NeurIPS 2024; the `-hf` models of transformers).
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["TEACHER_NAMES", "create_teacher"]

# hidden size, layers, heads, layers that are tapped, neck's widths, fusion width
ARCHITECTURES: dict[str, tuple[int, int, int, list[int], list[int], int]] = {
    "tiny": (32, 4, 2, [1, 2, 3, 4], [8, 16, 24, 32], 8),  # for tests
    "small": (384, 12, 6, [3, 6, 9, 12], [48, 96, 192, 384], 64),
    "large": (1024, 24, 16, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
}
TEACHER_NAMES = tuple(ARCHITECTURES)


def create_teacher(name: str) -> nn.Module:
    """Depth Anything V2 by size, in evaluation mode: (B, 3, H, W) to `predicted_depth` (B, H, W), large = near."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    hidden, layers, heads, tapped, neck, fusion = ARCHITECTURES[name]
    settings: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": 518,
        "patch_size": 14,
        "out_indices": tapped,
        "reshape_hidden_states": False,
    }
    config: Any = DepthAnythingConfig(
        backbone_config=Dinov2Config(**settings),
        reassemble_hidden_size=hidden,
        neck_hidden_sizes=neck,
        fusion_hidden_size=fusion,
        patch_size=14,
    )
    teacher: nn.Module = DepthAnythingForDepthEstimation(config)
    return teacher.eval()
