"""The paper's network and the conversion of its official weights.

`fixtures/paper_parity.json` was made once, outside this project, by the official modules (commit 6a59c51 of
vinthony/depth-distillation) with the weights of `formula_weight` and the image of `formula_image`: of each of
the twelve outputs the shape and 20 evenly spread values. Measured then: replacing any one weight tensor by
other random numbers moves an output by at least 0.03, so the tolerance of 1e-4 proves every name of the map.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.students.official import convert_official, official_encoder, official_key_map
from trainer.students.outputs import StudentOutput
from trainer.students.paper import EncoderName, PaperStudent, SelectiveReceptionField, SupervisionGuidedAttention

ENCODERS: tuple[EncoderName, ...] = ("resnext101", "vgg16")
FIXTURE = Path(__file__).parent / "fixtures" / "paper_parity.json"


def formula_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A fixed pseudo-random weight for an official name, scaled so that activations stay near one."""
    uniform = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape) * 2 - 1
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        value = 1 + uniform / 2
    elif len(shape) == 1:
        value = uniform / 5
    else:
        gain = 1.5 if name.startswith("pretrained_net.layer") else 4
        value = uniform * np.sqrt(gain / np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


def formula_image() -> Tensor:
    values = np.random.RandomState(0).random_sample((1, 3, 64, 96)) * 4 - 2
    return torch.from_numpy(values.astype(np.float32))


def formula_state(encoder: EncoderName) -> dict[str, Tensor]:
    """A whole official state dict, without BatchNorm's counters."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in PaperStudent(encoder).state_dict().items()}
    names = official_key_map(encoder)
    return {k: formula_weight(k, shapes[v]) for k, v in names.items() if not k.endswith("num_batches_tracked")}


def load(encoder: EncoderName, weights: dict[str, Tensor]) -> PaperStudent:
    with torch.device("meta"):  # no time spent on initial weights
        student = PaperStudent(encoder)
    student.load_state_dict(weights, assign=True)
    return student.eval()


def run(student: PaperStudent) -> StudentOutput:
    with torch.inference_mode():
        output = student(formula_image())
    assert isinstance(output, StudentOutput)
    return output


@pytest.fixture(scope="module")
def vgg_state() -> dict[str, Tensor]:
    return formula_state("vgg16")


@pytest.mark.parametrize(("encoder", "count"), [("resnext101", 84_468_186), ("vgg16", 19_436_634)])
def test_parameter_count_is_the_official_one(encoder: EncoderName, count: int) -> None:
    """The network has as many parameters as the official one."""
    with torch.device("meta"):
        student = PaperStudent(encoder)
    assert sum(p.numel() for p in student.parameters()) == count


@pytest.mark.parametrize("encoder", ENCODERS)
def test_converted_network_computes_what_the_official_one_computes(encoder: EncoderName) -> None:
    """With converted weights depth is the official depth, and blur logits are the official ones negated."""
    output = run(load(encoder, convert_official(formula_state(encoder), encoder)))
    expected = json.loads(FIXTURE.read_text(encoding="utf-8"))[encoder]
    for found, row in zip(
        [-m for m in output.blur] + output.depth, expected["in_focus"] + expected["depth"], strict=True
    ):
        assert list(found.shape) == row["shape"]
        places = np.linspace(0, found.numel() - 1, len(row["values"])).astype(int)
        np.testing.assert_allclose(found.flatten()[places], row["values"], rtol=0, atol=1e-4)


def test_conversion_negates_blur_and_leaves_depth(vgg_state: dict[str, Tensor]) -> None:
    """Against weights that are only renamed, converted ones give the negated logits and the same depth."""
    converted = convert_official(vgg_state, "vgg16")
    names = official_key_map("vgg16")
    renamed = converted | {names[name]: value for name, value in vgg_state.items()}
    ours, theirs = run(load("vgg16", converted)), run(load("vgg16", renamed))
    for found, official in zip(ours.blur, theirs.blur, strict=True):
        torch.testing.assert_close(found, -official, rtol=0, atol=1e-4)
    for found, official in zip(ours.depth, theirs.depth, strict=True):
        torch.testing.assert_close(found, official, rtol=0, atol=1e-4)


def test_conversion_leaves_its_input_alone(vgg_state: dict[str, Tensor]) -> None:
    """The official state dict is the same after it was converted."""
    before = {name: value.clone() for name, value in vgg_state.items()}
    convert_official(vgg_state, "vgg16")
    assert vgg_state.keys() == before.keys()
    assert all(torch.equal(vgg_state[name], value) for name, value in before.items())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_key_map_is_one_to_one_and_complete(encoder: EncoderName) -> None:
    """Every weight of ours has exactly one official name."""
    with torch.device("meta"):
        own = PaperStudent(encoder).state_dict().keys()
    names = official_key_map(encoder)
    assert len(set(names.values())) == len(names)
    assert set(names.values()) == set(own)


def test_names_of_a_known_official_checkpoint_are_in_the_map() -> None:
    """A few names read off the official modules lead to the module that plays that part here."""
    names = official_key_map("resnext101")
    assert names["pretrained_net.layer1.1.0.0.1.1.weight"] == "encoder.layer1.0.downsample.1.weight"
    assert names["pretrained_net.layer3.22.0.0.0.3.weight"] == "encoder.layer3.22.conv2.weight"
    assert names["deconv5.sk.convs.2.0.weight"] == "steps.4.select.branches.2.0.weight"
    assert names["classifier1.sides.1.bias"] == "depth_sides.0.bias"
    assert names["fusion.weight"] == "blur_fusion.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fusion.bias": None}, r"not the official vgg16 network: fusion\.bias is missing$"),
        ({"fusion.bias": None, "fusiond.bias": None}, r"fusion\.bias is missing \(and 1 more\)"),
        ({"epoch": torch.zeros(1)}, r"epoch is unknown"),
        ({"fusion.bias": torch.zeros(2)}, r"fusion\.bias is \(2,\), not \(1,\)"),
    ],
)
def test_other_weights_are_refused(vgg_state: dict[str, Tensor], change: dict[str, Any], message: str) -> None:
    """A missing or unknown name or another shape is named in the error."""
    changed = {name: value for name, value in (vgg_state | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        convert_official(changed, "vgg16")


def test_official_encoder_is_told_from_the_names(vgg_state: dict[str, Tensor]) -> None:
    """A state dict says by its names which network it belongs to; others are refused."""
    assert official_encoder(vgg_state) == "vgg16"
    assert official_encoder({"pretrained_net.layer0.0.weight": torch.zeros(1)}) == "resnext101"
    with pytest.raises(ValueError, match="not an official checkpoint"):
        official_encoder({"fc.weight": torch.zeros(1)})


def test_outputs_have_the_fused_map_first_and_sides_coarse_to_fine() -> None:
    """Six maps of each task: the fused at full size, then strides 16, 8, 4, 2, 1; the batch stays."""
    with torch.device("meta"):
        output = PaperStudent("vgg16")(torch.zeros(2, 3, 64, 96))
    expected = [(2, 1, 64 // s, 96 // s) for s in (1, 16, 8, 4, 2, 1)]
    assert [tuple(m.shape) for m in output.blur] == expected
    assert [tuple(m.shape) for m in output.depth] == expected


@pytest.mark.parametrize(("size", "works"), [((100, 96), (128, 96)), ((64, 95), (64, 96)), ((1, 33), (32, 64))])
def test_wrong_size_names_one_that_works(size: tuple[int, int], works: tuple[int, int]) -> None:
    """A height or width that is no multiple of 32 raises and names the next size up."""
    with torch.device("meta"):
        student = PaperStudent("vgg16")
        with pytest.raises(ValueError, match=str(works).replace("(", r"\(").replace(")", r"\)")):
            student(torch.zeros(1, 3, *size))


def test_unknown_encoder_is_refused_by_name() -> None:
    """Another encoder raises and lists those there are."""
    with pytest.raises(ValueError, match="no encoder is called 'resnet50': choose one of resnext101, vgg16"):
        PaperStudent("resnet50")  # type: ignore[arg-type]


def test_every_parameter_learns() -> None:
    """In training mode every parameter gets a finite gradient from the twelve outputs."""
    torch.manual_seed(0)
    student = PaperStudent("vgg16").train()
    output = student(torch.randn(2, 3, 32, 32))
    sum(m.square().mean() for m in (*output.blur, *output.depth)).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_selective_block_without_preference_averages_its_fields() -> None:
    """With equal weights for all four branches the block gives their mean; here each branch gives zero but identity."""
    block = SelectiveReceptionField(4).eval()
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.arange(36.0).reshape(1, 4, 3, 3)
    torch.testing.assert_close(block(x), x / 4)


def test_selective_block_keeps_the_size_and_squeezes_to_at_least_32() -> None:
    """The four fields have the input's size; the squeezed vector has max(C / 16, 32) values."""
    assert SelectiveReceptionField(1024).squeeze.out_features == 64
    block = SelectiveReceptionField(8)
    assert block.squeeze.out_features == 32
    assert block.eval()(torch.randn(2, 8, 5, 7)).shape == (2, 8, 5, 7)


def test_attention_is_one_weight_per_pixel() -> None:
    """The attention map has one channel and lies between 0 and 1."""
    attention = SupervisionGuidedAttention().eval()(torch.randn(2, 1, 6, 4) * 10, torch.randn(2, 1, 6, 4) * 10)
    assert attention.shape == (2, 1, 6, 4)
    assert 0 < attention.min() < attention.max() < 1


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_encoder_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    """A file of the whole classifier fills the encoder; its other layers are left out."""
    from safetensors.torch import save_file

    with torch.device("meta"):
        shapes = {k: v.shape for k, v in PaperStudent("vgg16").encoder.state_dict().items()}
    weights = {name: torch.full(shape, 0.5) for name, shape in shapes.items()} | {"head.fc.weight": torch.zeros(3)}
    path = tmp_path / f"vgg{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    encoder = PaperStudent("vgg16", pretrained=path).encoder
    assert all((value == 0.5).all() for value in encoder.state_dict().values())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoder_weights_of_another_network_are_refused(tmp_path: Path, encoder: EncoderName) -> None:
    """A file that lacks the encoder's weights raises, instead of leaving them random."""
    torch.save({"blocks.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(RuntimeError, match="Missing key"):
        PaperStudent(encoder, pretrained=tmp_path / "other.pth")
