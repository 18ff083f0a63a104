"""Weights of the official network (github.com/vinthony/depth-distillation) for our `PaperStudent`.

Polarity: the official network's positive class is IN FOCUS (its data loader inverts the CUHK masks, in
which white is blurred). In this project a logit's sigmoid is the probability of OUT OF FOCUS. So the
weights are not only renamed: what they say about blur is negated wherever such a logit is made or read
(side outputs, attention, fusion). Blur logits come out exactly negated and depth is unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.students.paper import EncoderName, PaperStudent

__all__ = ["convert_official", "official_encoder", "official_key_map"]

_STEP_MODULES = {
    "reduce": "prev",
    "reduce_norm": "bn",
    "select.squeeze": "sk.fc",
    "project": "next",
    "project_norm": "bn2",
    **{f"select.expand.{n}": f"sk.fcs.{n}" for n in range(4)},
    **{f"select.branches.{n}.{part}": f"sk.convs.{n}.{part}" for n in range(3) for part in (0, 1)},
}
_SAB_MODULES = {"read": "conv1", "norm": "bn", "write": "conv2"}
_BOTTLENECK_MODULES = {
    "conv1": "0.0.0.0",
    "bn1": "0.0.0.1",
    "conv2": "0.0.0.3",
    "bn2": "0.0.0.4",
    "conv3": "0.0.1",
    "bn3": "0.0.2",
    "downsample.0": "0.1.0",
    "downsample.1": "0.1.1",
}
_STAGE_DEPTHS = {"layer1": 3, "layer2": 4, "layer3": 23, "layer4": 3}


def official_key_map(encoder: EncoderName) -> dict[str, str]:
    """Names in the official state dict -> names in that of `PaperStudent(encoder)`; one to one, complete."""
    modules = _encoder_modules(encoder) | _decoder_modules()
    names = {}
    for own in _own_shapes(encoder):
        module, _, leaf = own.rpartition(".")
        names[f"{modules[module]}.{leaf}"] = own
    return names


def official_encoder(state_dict: Mapping[str, Tensor]) -> EncoderName:
    """Which of the two official networks a state dict belongs to; ValueError where to neither."""
    if "pretrained_net.layer0.0.weight" in state_dict:
        return "resnext101"
    if "pretrained_net.features.0.weight" in state_dict:
        return "vgg16"
    first = next(iter(state_dict), "nothing")
    raise ValueError(
        f"not an official checkpoint: neither its ResNeXt-101 nor its VGG-16 encoder is there, but {first}"
    )


def convert_official(state_dict: Mapping[str, Tensor], encoder: EncoderName) -> dict[str, Tensor]:
    """The official network's weights as weights of `PaperStudent(encoder)`: renamed, blur negated.

    The converted network's blur logits are the negated official ones (the positive class becomes OUT OF
    FOCUS), its depth maps are the official ones. The input is left as it is; tensors that need no
    change are shared with it. BatchNorm counters may be missing (files of before torch 0.4.1 lack them).
    Raises ValueError where a name is missing or unknown, or a shape differs.
    """
    names = official_key_map(encoder)
    counters = {name: torch.tensor(0) for name in names if name.endswith("num_batches_tracked")}
    complete = counters | dict(state_dict)
    _check_official(complete, names, _own_shapes(encoder), encoder)
    converted = {names[name]: value for name, value in complete.items()}
    return converted | {key: _negate(key, converted[key]) for key in converted if _reads_or_makes_blur(key)}


def _reads_or_makes_blur(key: str) -> bool:
    # The fusion's weights stay: negated logits go in and come out. Only its constant turns round.
    attention_reads = key.startswith("attention.") and key.endswith(".read.weight")
    return key.startswith("blur_sides.") or key == "blur_fusion.bias" or attention_reads


def _negate(key: str, value: Tensor) -> Tensor:
    if not key.startswith("attention."):
        return -value
    return torch.cat([-value[:, :1], value[:, 1:]], 1)  # (32, 2, 3, 3): the blur logit is the first channel


def _encoder_modules(encoder: EncoderName) -> dict[str, str]:
    """Own module name -> official module name, encoder."""
    if encoder == "vgg16":
        return {f"encoder.features.{n}": f"pretrained_net.features.{n}" for n in range(31)}
    modules = {"encoder.conv1": "pretrained_net.layer0.0", "encoder.bn1": "pretrained_net.layer0.1"}
    for stage, depth in _STAGE_DEPTHS.items():
        theirs = "layer1.1" if stage == "layer1" else stage  # layer1.0 is the max-pool there
        for block in range(depth):
            for own, official in _BOTTLENECK_MODULES.items():
                modules[f"encoder.{stage}.{block}.{own}"] = f"pretrained_net.{theirs}.{block}.{official}"
    return modules


def _decoder_modules() -> dict[str, str]:
    """Own module name -> official module name, everything but the encoder."""
    modules = {"blur_fusion": "fusion", "depth_fusion": "fusiond"}
    for n in range(5):
        modules |= {f"steps.{n}.{own}": f"deconv{n + 1}.{name}" for own, name in _STEP_MODULES.items()}
        modules |= {f"attention.{n}.{own}": f"sideatt{n + 1}.{name}" for own, name in _SAB_MODULES.items()}
        modules[f"blur_sides.{n}"] = f"classifier{n + 1}.sides.0"
        modules[f"depth_sides.{n}"] = f"classifier{n + 1}.sides.1"
    return modules


def _own_shapes(encoder: EncoderName) -> dict[str, torch.Size]:
    with torch.device("meta"):  # names and shapes only
        return {name: value.shape for name, value in PaperStudent(encoder).state_dict().items()}


def _check_official(
    found: Mapping[str, Tensor], names: Mapping[str, str], shapes: Mapping[str, torch.Size], encoder: str
) -> None:
    problems = [f"{name} is missing" for name in names if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in names]
    for name in names.keys() & found.keys():
        if found[name].shape != shapes[names[name]]:
            problems.append(f"{name} is {tuple(found[name].shape)}, not {tuple(shapes[names[name]])}")
    if problems:
        rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"not the official {encoder} network: {problems[0]}{rest}")
