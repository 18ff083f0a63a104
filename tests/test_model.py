"""Students: sizes, shapes, and what a wrong request is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainer.config import load_config
from trainer.optimiser import create_optimiser
from trainer.students.model import ModelError, create_student


def test_lite_is_light_and_reads_every_scale() -> None:
    """At most 5 M parameters; a fused map of the input's size and five sides for each task."""
    student = create_student("lite").eval()
    assert sum(p.numel() for p in student.parameters()) < 5e6
    with torch.inference_mode():
        output = student(torch.zeros(2, 3, 64, 96))
    sizes = [(64, 96), (2, 3), (4, 6), (8, 12), (16, 24), (32, 48)]
    for task in output:
        assert [tuple(side.shape) for side in task] == [(2, 1, *size) for size in sizes]


def test_lite_takes_other_encoders_of_timm() -> None:
    """Strides and channels are read off the encoder."""
    student = create_student("lite", encoder="resnet18", channels=32).eval()
    with torch.inference_mode():
        assert student(torch.zeros(1, 3, 64, 64)).blur[0].shape == (1, 1, 64, 64)


def test_wrong_input_size_names_the_size_that_would_work() -> None:
    """330 is not a multiple of 32, 320 is."""
    with pytest.raises(ValueError, match="320 x 320"):
        create_student("lite")(torch.zeros(1, 3, 330, 320))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "heavy"}, "lite, paper-resnext101, paper-vgg16"),
        ({"encoder": "no_such_net"}, "no_such_net"),
        ({"encoder": "crossvit_tiny_240"}, "crossvit_tiny_240"),
        ({"encoder_weights": "absent.safetensors"}, "absent.safetensors: no such file"),
        ({"name": "paper-vgg16", "encoder_weights": "absent.pth"}, "absent.pth: no such file"),
    ],
)
def test_what_cannot_be_built_is_named(options: dict[str, str], words: str) -> None:
    """One line with the name and what would work."""
    with pytest.raises(ModelError, match=words) as caught:
        create_student(**options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """A file that is no weights file, and weights of another network."""
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="weights"):
        create_student("lite", encoder_weights=str(file))
    other = create_student("lite", encoder="resnet18").encoder.state_dict()
    save_file({name: value.contiguous() for name, value in other.items()}, file)
    with pytest.raises(ModelError, match="do not fit"):
        create_student("lite", encoder_weights=str(file))


def test_imagenet_weights_change_the_encoder(shared: Path) -> None:
    """A local file in timm's names arrives in the encoder, the same each time."""
    file = shared / "weights" / "tf_efficientnet_lite0.safetensors"
    one, two, blank = (create_student("lite", encoder_weights=w) for w in (str(file), str(file), "none"))
    name = "encoder.blocks.6.0.conv_pw.weight"
    assert torch.equal(one.state_dict()[name], two.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], blank.state_dict()[name])


def test_a_transformer_and_a_pyramid_make_one_encoder() -> None:
    """Strides are the pyramid's; sides are multiples of the patch; each network has its own learning rates."""
    student = create_student("lite", encoder="vit_tiny_patch16_224+resnet18", channels=32).eval()
    assert student.stride == 16
    with torch.inference_mode():
        output = student(torch.zeros(1, 3, 80, 112))
    assert [side.shape[-2:] for side in output.blur][:3] == [(80, 112), (3, 4), (5, 7)]

    config = load_config(overrides=["optimiser.encoder_lr=0.5", "optimiser.layer_decay=0.5"])
    scales = {
        name: group["lr_scale"]
        for group in create_optimiser(student, config).param_groups
        for name, parameter in student.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    assert scales["encoder.transformer.model.blocks.11.attn.qkv.weight"] == 0.5
    assert scales["encoder.transformer.model.blocks.10.attn.qkv.weight"] == 0.25
    assert scales["encoder.pyramid.layer4.1.conv2.weight"] > scales["encoder.pyramid.layer1.0.conv1.weight"]
    assert scales["heads.0.weight"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": "resnet18+vit_tiny_patch16_224"}, "plain vision transformer first"),
        ({"encoder": "vit_tiny_patch16_224+resnet18+resnet18"}, "not 3"),
        ({"encoder": "vit_tiny_patch16_224+resnet18", "encoder_weights": "one.safetensors"}, "FILE.FILE"),
    ],
)
def test_encoders_that_cannot_be_paired_are_named(options: dict[str, str], words: str) -> None:
    """The order, the number, and the files of weights."""
    with pytest.raises(ModelError, match=words):
        create_student(**options)  # type: ignore[arg-type]


def test_guided_attention_weighs_what_goes_on() -> None:
    """With its weights at zero a scale's feature goes on halved; the sides before it do not change."""
    torch.manual_seed(0)
    student = create_student("lite", sab=True).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = student(image)
        for guide in student.guides:
            guide.write.weight.zero_()
            guide.write.bias.zero_()
        after = student(image)
    assert torch.equal(before.blur[1], after.blur[1])
    assert not torch.equal(before.blur[2], after.blur[2])
