"""Batch norms folded into the convolutions before them: the same map, for a student that only predicts.

In evaluation a batch norm is a scale and a shift of each channel, and a convolution can have them in its own
weights. Where kernels are small, launching and reading memory for the norms is a good part of the time.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["fuse_batch_norm"]

Student = TypeVar("Student", bound=nn.Module)


def fuse_batch_norm(student: Student, images: Tensor) -> Student:
    """Fold every batch norm that follows a convolution into it, in place; the student can then not be trained.

    What follows what is seen in one forward pass: a pair is folded where the norm is the only module that takes
    the convolution's output, and neither is used twice. (A network that also uses that output outside of any
    module would be changed by it; none of the students does, and a test compares them all.)

    Args:
        student: in evaluation mode.
        images: (B, 3, H, W), of a size that the student takes, on its device and of its dtype.
    """
    for convolution, norm in _pairs(student, images):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        convolution.weight, convolution.bias = weight, bias
        _replace(student, norm, _rest_of(norm))
    return student


def _pairs(student: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensors are kept, so that no id comes twice
    takers: dict[int, list[nn.Module]] = {}
    calls: dict[nn.Module, int] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        for tensor in inputs:
            takers.setdefault(id(tensor), []).append(module)
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
            takers[id(output)] = []  # an earlier tensor that is gone may have had the same id

    leaves = [m for m in student.modules() if not list(m.children()) or isinstance(m, nn.BatchNorm2d)]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with torch.inference_mode():
            student(images)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for name, (convolution, _) in made.items():
        norms = [m for m in takers.get(name, []) if isinstance(m, nn.BatchNorm2d)]
        if len(norms) == len(takers.get(name, [])) == 1 == calls[convolution] == calls[norms[0]]:
            found.append((convolution, norms[0]))
    return found


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """timm's batch norms have their activation inside."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def _replace(student: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in student.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
