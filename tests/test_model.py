"""Students: sizes, shapes, and what a wrong request is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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
