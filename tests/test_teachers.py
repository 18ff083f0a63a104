"""Depth teachers: sizes, cards, ONNX files, transformers' models, plug-ins."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from pipeline.teachers import (
    DeviceTeacher,
    Provenance,
    Teacher,
    TeacherError,
    base,
    known_kinds,
    load_teacher,
    register_kind,
)
from pipeline.teachers.base import OutOfMemory, inverse_depth
from pipeline.teachers.cards import Card, find_card, known_cards
from pipeline.teachers.preprocessing import (
    INTERPOLATION,
    Fixed,
    LongSide,
    Preprocessing,
    ShortSide,
    SizeRule,
    describe_size,
    input_size,
    with_side,
)

SHORT = {"rule": "short side", "side": 8, "multiple": 4}
PLAIN = {"range": "0..1", "mean": [0, 0, 0], "std": [1, 1, 1], "size": SHORT}


def photographs(*colours: tuple[int, int, int], height: int = 8, width: int = 8) -> np.ndarray:
    """One plain photograph of each colour, uint8 (B, height, width, 3)."""
    return np.stack([np.full((height, width, 3), colour, np.uint8) for colour in colours])


def noise(count: int, height: int, width: int) -> np.ndarray:
    """Photographs of random pixels, always the same."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# ----------------------------------------------------------------------------------------- sizes and numbers


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        (ShortSide(384, 32), (480, 640), (384, 512)),
        (ShortSide(384, 32), (640, 480), (512, 384)),
        (ShortSide(384, 32), (427, 640), (384, 576)),  # 575.5 -> 576
        (ShortSide(518, 14), (3000, 4000), (518, 686)),  # 690.7 -> 686
        (ShortSide(100, 32), (50, 50), (96, 96)),  # a photograph may be enlarged
        (ShortSide(64, 32), (10, 1000), (64, 256)),  # beyond 4:1 it is squeezed
        (ShortSide(64, 32), (1000, 10), (256, 64)),
        (ShortSide(64), (1, 1), (64, 64)),
        (LongSide(512, 32), (480, 640), (384, 512)),
        (LongSide(512, 32), (10, 1000), (128, 512)),
        (LongSide(40, 32), (10, 1000), (32, 32)),  # no side vanishes
        (Fixed(224, 320), (3000, 10), (224, 320)),
    ],
)
def test_a_size_rule_gives_the_hand_computed_size(
    rule: SizeRule, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    """Sides are rounded to the nearest multiple, portrait mirrors landscape, panoramas are squeezed."""
    assert input_size(rule, *size) == expected


def test_another_side_keeps_the_rule() -> None:
    """A side given by the user replaces the rule's own; a fixed size keeps its shape."""
    assert with_side(ShortSide(384, 32), 256) == ShortSide(256, 32)
    assert with_side(Fixed(384, 512), 192) == Fixed(192, 256)
    assert with_side(Fixed(384, 512), 100, multiple=14) == Fixed(98, 140)


def test_different_rules_have_different_words() -> None:
    """The words of a rule go into the fingerprint, so they must tell rules apart."""
    rules: list[SizeRule] = [ShortSide(384, 32), ShortSide(384, 14), LongSide(384, 32), Fixed(384, 384), Fixed(32, 384)]
    assert len({describe_size(rule) for rule in rules}) == len(rules)


def test_normalisation_is_the_hand_computed_one() -> None:
    """(pixel / 255 - mean) / std for each channel, in the network's channel order."""
    preprocessing = Preprocessing(
        size=Fixed(1, 1), range="0..1", mean=(0.5, 0.0, 0.0), std=(0.5, 1.0, 2.0), colour="BGR"
    )
    planes = preprocessing.normalise(np.uint8([[[[255, 51, 0]]]]))
    assert planes.shape == (1, 3, 1, 1)
    assert planes.ravel() == pytest.approx([(0 - 0.5) / 0.5, 0.2, 1.0 / 2.0])


def test_inverse_depth_passes_and_only_what_is_not_finite_is_unknown() -> None:
    """Inverse depth is kept as it is, negative values too."""
    raw = np.float32([[[2.0, -1.0, np.inf, np.nan]]])
    assert inverse_depth(raw, "inverse depth") == pytest.approx(np.float32([[[2, -1, np.nan, np.nan]]]), nan_ok=True)


def test_depth_becomes_its_reciprocal_and_impossible_depth_is_unknown() -> None:
    """Zero, negative, infinite depth and depth under 1/10000 of the map's largest are not known."""
    raw = np.float32([[[4.0, 0.5, 0.0, -1.0, np.inf, 1e-4]], [[1e-4, 2e-4, 1e-4, 1e-4, 1e-4, 1e-4]]])
    inverse = inverse_depth(raw, "depth")
    assert inverse[0, 0] == pytest.approx([0.25, 2.0, *[np.nan] * 4], nan_ok=True)
    assert inverse[1, 0] == pytest.approx([1e4, 5e3, 1e4, 1e4, 1e4, 1e4])


def test_a_map_without_any_depth_is_unknown_throughout() -> None:
    """All zero: no division by zero, no warning, all NaN."""
    assert np.isnan(inverse_depth(np.zeros((1, 2, 2), np.float32), "depth")).all()


# ----------------------------------------------------------------------------------- provenance and plug-ins


def provenance(**changes: Any) -> Provenance:
    facts: dict[str, Any] = {
        "kind": "fake",
        "name": "plain",
        "weights_sha256": "0" * 64,
        "direction": "depth",
        "preprocessing": {"mean": (0.5, 0.5, 0.5)},
        "versions": {"softfocus": "1"},
    }
    return Provenance(**(facts | changes))


class Plain:
    """A teacher of a plug-in: the red channel is the inverse depth."""

    provenance = provenance()

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def predict(self, images: np.ndarray) -> np.ndarray:
        return images[..., 0].astype(np.float32)

    def close(self) -> None:
        pass


def load_plain(name: str, *, device: str, card: str | None, size: int | None, precision: str) -> Plain:
    return Plain()


def load_nothing(name: str, **options: Any) -> str:
    return "no teacher"


def test_the_fingerprint_ignores_versions_and_nothing_else() -> None:
    """Another library version is the same teacher; another anything else is not."""
    known = provenance().fingerprint
    assert known == provenance(versions={"softfocus": "2", "torch": "3"}).fingerprint
    for change in ("kind", "name", "weights_sha256", "quantity", "direction"):
        assert provenance(**{change: "other"}).fingerprint != known
    assert provenance(preprocessing={"mean": (0.5, 0.5, 0.4)}).fingerprint != known


def test_the_fingerprint_survives_json() -> None:
    """A store that reads its description back sees the same fingerprint, whatever the order of keys."""
    first = provenance(preprocessing={"a": (1.0, 2.0), "b": "x"})
    again = msgspec.json.decode(msgspec.json.encode(first), type=Provenance)
    assert again.fingerprint == first.fingerprint
    assert provenance(preprocessing={"b": "x", "a": [1.0, 2.0]}).fingerprint == first.fingerprint


def test_an_unknown_kind_lists_the_known_ones() -> None:
    """A path without a kind is the likeliest mistake: the line shows how to write it."""
    with pytest.raises(TeacherError, match=r"unknown teacher kind 'model\.onnx'; known kinds: .*hf, onnx.*KIND:NAME"):
        load_teacher("model.onnx")


@pytest.mark.parametrize(("option", "value"), [("precision", "half"), ("size", 0)])
def test_a_bad_option_is_refused_before_anything_is_loaded(option: str, value: Any) -> None:
    """The line names the option's value."""
    with pytest.raises(TeacherError, match=f"{option} .*{value}"):
        load_teacher("hf:anything", **{option: value})


def test_a_registered_kind_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """register_kind makes a kind known for this process; doing it twice does no harm, taking one does."""
    monkeypatch.setattr(base, "_KINDS", dict(base._KINDS))
    register_kind("plain", f"{__name__}:load_plain")
    register_kind("plain", f"{__name__}:load_plain")
    assert isinstance(load_teacher("plain"), Plain)
    assert "plain" in known_kinds()
    with pytest.raises(ValueError, match="already"):
        register_kind("onnx", f"{__name__}:load_plain")
    with pytest.raises(ValueError, match="module:function"):
        register_kind("other", "no function")


def plug_in(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """Pretend that an installed package brings the kind `fake`."""
    point = importlib.metadata.EntryPoint(name="fake", value=target, group=base.GROUP)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: [point] if group == "softfocus.teachers" else []
    )


def test_another_package_can_bring_a_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of the entry point group softfocus.teachers is listed and loaded."""
    plug_in(monkeypatch, f"{__name__}:load_plain")
    teacher = load_teacher("fake:anything", size=8)
    assert "fake" in known_kinds()
    assert isinstance(teacher, Teacher)
    assert teacher.predict(photographs((7, 0, 0)))[0, 0, 0] == 7


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_package:load", "No module named 'no_such_package'"),
        (f"{__name__}:no_such_function", "no_such_function"),
        (f"{__name__}:load_nothing", "gave a str"),
    ],
)
def test_a_broken_plug_in_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, target: str, reason: str) -> None:
    """The line names the kind and what is wrong with it."""
    plug_in(monkeypatch, target)
    with pytest.raises(TeacherError, match=rf"'fake'.*{reason}"):
        load_teacher("fake")


def test_the_package_loads_no_heavy_library() -> None:
    """Importing the teachers imports neither torch nor onnxruntime nor transformers."""
    code = "import sys, pipeline.teachers; print({'torch', 'onnxruntime', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# --------------------------------------------------------------------------------------------------- cards


def write_card(folder: Path, **fields: Any) -> str:
    """A card as YAML (JSON is YAML)."""
    path = folder / "my-card.yaml"
    path.write_text(json.dumps(fields))
    return str(path)


@pytest.mark.parametrize("name", known_cards())
def test_every_known_card_is_whole(name: str) -> None:
    """The cards that come with softfocus leave nothing open, and say licence and source."""
    card = find_card(name)
    assert card.name == name
    assert None not in (card.range, card.mean, card.std, card.colour, card.size, card.licence, card.source)


def test_a_card_file_is_read_and_named_after_its_file(tmp_path: Path) -> None:
    """Only the direction is always needed."""
    assert find_card(write_card(tmp_path, direction="depth")) == Card(direction="depth", name="my-card")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("direction: sideways", "sideways"),
        ("name: x", "missing required field `direction`"),
        ("direction: depth\nmaen: [0, 0, 0]", "unknown field `maen`"),
        ("direction: depth\nsize: {rule: short side, side: 8, factor: 2}", "unknown field `factor`"),
        ("direction: depth\nsize: {rule: middle side, side: 8}", "middle side"),
        ("direction: depth\nstd: [0, 1, 1]", "std"),
        ("direction: [", "card"),
        ("\x00\x01", "card"),
        ("", "card"),
    ],
)
def test_a_bad_card_is_one_line_with_the_fault_and_the_fields(tmp_path: Path, content: str, reason: str) -> None:
    """Misspelt, missing and impossible fields are named together with the fields that a card has."""
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(TeacherError, match=r"bad\.yaml: not a card \(.*direction: inverse depth \| depth") as caught:
        find_card(str(path))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_that_is_not_there_lists_the_known_ones() -> None:
    """The line lists the names that would work."""
    with pytest.raises(TeacherError, match=r"nothing: neither a card file nor a known card; .*fastdepth.*tcmonodepth"):
        find_card("nothing")


# ---------------------------------------------------------------------------------------------------- ONNX


def write_onnx(
    path: Path,
    *,
    shape: tuple[int | str, ...] = ("batch", 3, "height", "width"),
    weights: tuple[tuple[float, ...], ...] = ((1.0, 0.0, 0.0),),
    pool: int = 1,
    rank: int = 4,
    kind: str = "float32",
    only_for: int | None = None,
) -> str:
    """A network whose output channels are weighted sums of its input channels, optionally at a coarser grid.

    With `only_for` it adds a constant of that side, so that it fails on any other size.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    float_type = TensorProto.FLOAT16 if kind == "float16" else TensorProto.FLOAT
    kernel = np.asarray(weights, kind).reshape(len(weights), -1, 1, 1)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["sum"]),
        helper.make_node("AveragePool", ["sum"], ["pooled"], kernel_shape=[pool, pool], strides=[pool, pool]),
    ]
    last = "pooled"
    if rank == 3:
        nodes.append(helper.make_node("Squeeze", ["pooled", "axis"], ["flat"]))
        last = "flat"
    if rank == 2:
        nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
        last = "flat"
    constants = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.int64([1]), "axis")]
    if only_for:
        constants.append(numpy_helper.from_array(np.zeros((1, 1, only_for, only_for), kind), "constant"))
        nodes.append(helper.make_node("Add", [last, "constant"], ["added"]))
        last = "added"
    unknown: list[str] = [f"d{axis}" for axis in range(rank)]
    out_shape = [shape[0], len(weights), *unknown[2:]] if rank == 4 else unknown
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", float_type, list(shape))],
        [helper.make_tensor_value_info(last, float_type, out_shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return f"onnx:{path}"


def test_an_onnx_network_of_inverse_depth_passes_its_values(tmp_path: Path) -> None:
    """Red is 1 where the photograph is red: range, colour order and direction are as the card says."""
    card = write_card(tmp_path, direction="inverse depth", **PLAIN)
    teacher = load_teacher(write_onnx(tmp_path / "red.onnx"), card=card, device="cpu")
    maps = teacher.predict(photographs((255, 0, 0), (51, 255, 255), height=8, width=12))
    assert maps.dtype == np.float32
    assert maps.shape == (2, 8, 12)
    assert maps[0] == pytest.approx(1.0)
    assert maps[1] == pytest.approx(0.2)
    assert teacher.input_size(480, 720) == (8, 12)


def test_an_onnx_network_of_depth_is_turned_round(tmp_path: Path) -> None:
    """Depth 0.2 is inverse depth 5; depth 0 is not known."""
    card = write_card(tmp_path, direction="depth", **PLAIN)
    teacher = load_teacher(write_onnx(tmp_path / "red.onnx"), card=card)
    maps = teacher.predict(photographs((51, 0, 0), (0, 9, 9)))
    assert maps[0] == pytest.approx(5.0)
    assert np.isnan(maps[1]).all()


def test_an_onnx_card_decides_range_mean_std_and_colour_order(tmp_path: Path) -> None:
    """The first channel of a BGR network is blue: (100 - 20) / 40."""
    card = write_card(
        tmp_path, direction="inverse depth", range="0..255", mean=[20, 0, 0], std=[40, 1, 1], colour="BGR", size=SHORT
    )
    teacher = load_teacher(write_onnx(tmp_path / "first.onnx"), card=card)
    assert teacher.predict(photographs((1, 2, 100)))[0] == pytest.approx(2.0)
    assert teacher.provenance.preprocessing == {
        "colour order": "BGR",
        "input range": "0..255",
        "mean": [20.0, 0.0, 0.0],
        "std": [40.0, 1.0, 1.0],
        "size rule": "short side 8, both sides rounded to a multiple of 4, aspect ratio kept up to 4:1",
        "interpolation": INTERPOLATION,
    }


@pytest.mark.parametrize("batch", [1, 2])
def test_a_static_onnx_shape_decides_size_and_batch(tmp_path: Path, batch: int) -> None:
    """Five images go through a network that takes one or two at once, in order."""
    card = write_card(tmp_path, direction="inverse depth", **PLAIN)
    teacher = load_teacher(write_onnx(tmp_path / "static.onnx", shape=(batch, 3, 6, 10)), card=card)
    assert teacher.input_size(480, 640) == (6, 10)
    colours = [(51 * step, 0, 0) for step in range(5)]
    maps = teacher.predict(photographs(*colours, height=6, width=10))
    assert maps[:, 0, 0] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    assert maps.shape == (5, 6, 10)


def test_a_static_onnx_network_refuses_another_size(tmp_path: Path) -> None:
    """--size cannot change what the file fixes."""
    card = write_card(tmp_path, direction="inverse depth", **PLAIN)
    with pytest.raises(TeacherError, match=r"static\.onnx: takes 6 x 10 only; leave out --size"):
        load_teacher(write_onnx(tmp_path / "static.onnx", shape=(1, 3, 6, 10)), card=card, size=32)


def test_a_static_onnx_network_needs_no_size_on_its_card(tmp_path: Path) -> None:
    """What the file says need not be said again."""
    card = write_card(tmp_path, direction="depth", range="0..1", mean=[0, 0, 0], std=[1, 1, 1])
    assert load_teacher(write_onnx(tmp_path / "s.onnx", shape=(1, 3, 6, 10)), card=card).input_size(1, 1) == (6, 10)


@pytest.mark.parametrize("rank", [3, 4])
def test_an_onnx_map_at_a_coarser_grid_comes_back_at_the_input_size(tmp_path: Path, rank: int) -> None:
    """Maps N x H x W and N x 1 x H x W, at half the size, are enlarged."""
    card = write_card(tmp_path, direction="inverse depth", **PLAIN)
    teacher = load_teacher(write_onnx(tmp_path / "half.onnx", pool=2, rank=rank), card=card)
    images = photographs((0, 0, 0), height=8, width=12)
    images[0, :, 6:, 0] = 255
    labels = teacher.predict(images)
    assert labels.shape == (1, 8, 12)
    assert labels[0, 0, 0] == pytest.approx(0.0)
    assert labels[0, 0, -1] == pytest.approx(1.0)


def test_a_float16_onnx_network_gives_float32(tmp_path: Path) -> None:
    """The file's precision is used inside only, and a wish for another one is refused."""
    card = write_card(tmp_path, direction="inverse depth", **PLAIN)
    spec = write_onnx(tmp_path / "half.onnx", kind="float16")
    labels = load_teacher(spec, card=card, precision="float16").predict(photographs((255, 0, 0)))
    assert labels.dtype == np.float32
    assert labels == pytest.approx(1.0)
    with pytest.raises(TeacherError, match="runs in float16 only"):
        load_teacher(spec, card=card, precision="bfloat16")


def test_threads_do_not_change_the_numbers(tmp_path: Path) -> None:
    """Each core runs images of its own: the same maps, in order, to the last bit."""
    from pipeline.teachers import onnx

    card = write_card(tmp_path, direction="inverse depth", **PLAIN)
    path = write_onnx(tmp_path / "red.onnx").removeprefix("onnx:")
    images = noise(9, 8, 12)
    one, four = (onnx.load(path, card=card, device="cpu", threads=threads) for threads in (1, 4))
    assert np.array_equal(one.predict(images), four.predict(images))
    assert four.predict(images) == pytest.approx(images[..., 0] / 255)
    four.close()


def test_no_images_give_no_maps(tmp_path: Path) -> None:
    """An empty batch is allowed; images of another kind are a programmer's mistake."""
    teacher = load_teacher(
        write_onnx(tmp_path / "red.onnx"), card=write_card(tmp_path, direction="inverse depth", **PLAIN)
    )
    assert teacher.predict(np.empty((0, 8, 8, 3), np.uint8)).shape == (0, 8, 8)
    with pytest.raises(ValueError, match="uint8"):
        teacher.predict(np.zeros((1, 8, 8, 3), np.float32))
    teacher.close()
    with pytest.raises(ValueError, match="closed"):
        teacher.predict(photographs((0, 0, 0)))


def test_the_same_onnx_file_is_the_same_teacher_wherever_it_lies(tmp_path: Path) -> None:
    """The fingerprint holds no path; another card or another size is another teacher."""
    card = write_card(tmp_path, direction="inverse depth", **PLAIN)
    first = load_teacher(write_onnx(tmp_path / "one.onnx"), card=card).provenance
    second = load_teacher(write_onnx(tmp_path / "two.onnx"), card=card).provenance
    assert first.fingerprint == second.fingerprint
    assert set(first.versions) == {"softfocus", "onnxruntime", "numpy"}
    other = load_teacher(f"onnx:{tmp_path}/one.onnx", card=card, size=16).provenance
    assert other.fingerprint != first.fingerprint
    turned = load_teacher(f"onnx:{tmp_path}/one.onnx", card=write_card(tmp_path, direction="depth", **PLAIN))
    assert turned.provenance.fingerprint != first.fingerprint


def test_weights_beside_an_onnx_file_belong_to_its_hash(tmp_path: Path) -> None:
    """Large networks keep their weights in FILE_data: another FILE_data, another teacher."""
    card = write_card(tmp_path, direction="inverse depth", **PLAIN)
    spec = write_onnx(tmp_path / "one.onnx")
    hashes = [load_teacher(spec, card=card).provenance.weights_sha256]
    for content in (b"weights", b"other weights"):
        (tmp_path / "one.onnx_data").write_bytes(content)
        hashes.append(load_teacher(spec, card=card).provenance.weights_sha256)
    assert len(set(hashes)) == 3


def test_an_onnx_file_without_a_card_says_what_a_card_needs(tmp_path: Path) -> None:
    """The line names the known cards and every field."""
    with pytest.raises(
        TeacherError, match=r"red\.onnx: not a known network; .*tcmonodepth.*direction: .*range: .*size: "
    ):
        load_teacher(write_onnx(tmp_path / "red.onnx"))


def test_a_card_that_leaves_something_open_is_refused(tmp_path: Path) -> None:
    """The line lists what an ONNX network's card lacks."""
    with pytest.raises(TeacherError, match=r"its card lacks range, mean, std, size; a card has"):
        load_teacher(write_onnx(tmp_path / "red.onnx"), card=write_card(tmp_path, direction="depth"))


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ({"shape": ("n", 1, "h", "w"), "weights": ((1.0,),)}, r"'image' tensor\(float\) \['n', 1, 'h', 'w'\]"),
        ({"weights": ((1.0, 0, 0), (0, 1.0, 0))}, r"'pooled' tensor\(float\) \['batch', 2, "),
        ({"rank": 2}, r"'flat' tensor\(float\) \['d0', 'd1'\]; expected one map"),
    ],
)
def test_an_onnx_file_that_is_no_depth_network_says_what_was_found(
    tmp_path: Path, network: dict[str, Any], found: str
) -> None:
    """One channel in, two channels out, or no map at all: refused with the shapes that were found."""
    card = write_card(tmp_path, direction="depth", **PLAIN)
    with pytest.raises(TeacherError, match=rf"other\.onnx: not a depth network: .*{found}"):
        load_teacher(write_onnx(tmp_path / "other.onnx", **network), card=card)


def test_a_named_output_must_be_there(tmp_path: Path) -> None:
    """A card can pick one of several outputs by name."""
    spec = write_onnx(tmp_path / "red.onnx")
    picked = load_teacher(spec, card=write_card(tmp_path, direction="depth", output="pooled", **PLAIN))
    assert picked.provenance.preprocessing["output"] == "pooled"
    with pytest.raises(TeacherError, match=r"the card's output 'depth' is not there; outputs 'pooled'"):
        load_teacher(spec, card=write_card(tmp_path, direction="depth", output="depth", **PLAIN))


@pytest.mark.parametrize("content", [b"", b"not a network", bytes(1000)])
def test_a_corrupt_onnx_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    """Empty, text, zeros: the line names the file."""
    path = tmp_path / "corrupt.onnx"
    path.write_bytes(content)
    with pytest.raises(TeacherError, match=r"corrupt\.onnx: not ") as caught:
        load_teacher(f"onnx:{path}", card="tcmonodepth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["onnx:nowhere.onnx", "onnx:", "onnx"])
def test_a_missing_onnx_file_is_one_clear_line(spec: str) -> None:
    """No such file, or no file said."""
    with pytest.raises(TeacherError, match=r"no such file|say which file"):
        load_teacher(spec)


def test_a_network_that_fails_on_a_size_says_so(tmp_path: Path) -> None:
    """An input that the graph cannot take is one line, told when the teacher is loaded."""
    card = write_card(tmp_path, direction="depth", **PLAIN)
    with pytest.raises(TeacherError, match=r"fails on an input of 8 x 12 .*size rule"):
        load_teacher(write_onnx(tmp_path / "picky.onnx", only_for=16), card=card)


@pytest.mark.parametrize(("device", "reason"), [("tpu", "not known"), ("cuda:x", "not known"), ("cuda", "CPU only")])
def test_a_device_that_onnx_runtime_lacks_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, reason: str
) -> None:
    """The line names the device and what to install."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(TeacherError, match=f"device .*{device}.*{reason}"):
        load_teacher(write_onnx(tmp_path / "red.onnx"), card="tcmonodepth", device=device)


def test_running_out_of_memory_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller can try again with fewer images."""
    teacher = load_teacher(write_onnx(tmp_path / "red.onnx"), card=write_card(tmp_path, direction="depth", **PLAIN))

    class Full:
        def run(self, *_: Any) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer")

    network = msgspec.structs.replace(teacher._network, session=Full())  # type: ignore[attr-defined]
    monkeypatch.setattr(teacher, "_network", network)
    with pytest.raises(OutOfMemory, match="too little memory for an input"):
        teacher.predict(photographs((0, 0, 0), (0, 0, 0)))


@pytest.mark.parametrize("message", ["DefaultCPUAllocator: can't allocate memory", "less than INT_MAX elements"])
def test_a_batch_too_large_for_torch_is_told_apart(save: Save, monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """Also where torch itself calls it by another name; any other failure names the input's size."""
    teacher = load_teacher(save(depth_anything()), size=28, device="cpu")
    monkeypatch.setattr(teacher._network, "forward", lambda *_: raise_runtime_error(message))
    with pytest.raises(OutOfMemory, match="too little memory"):
        teacher.predict(noise(2, 28, 28))
    monkeypatch.setattr(teacher._network, "forward", lambda *_: raise_runtime_error("bad\nshape"))
    with pytest.raises(TeacherError, match=r"fails on an input of 28 x 28 \(bad shape\)"):
        teacher.predict(noise(2, 28, 28))


def raise_runtime_error(message: str) -> None:
    raise RuntimeError(message)


def test_threads_follow_omp_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself does not look at OMP_NUM_THREADS."""
    from pipeline.teachers.onnx import thread_count

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert thread_count() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert thread_count() >= 1


@pytest.mark.parametrize(
    ("module", "spec", "extra"),
    [("onnxruntime", "onnx:{}", "onnx"), ("transformers", "hf:anything", "hf")],
)
def test_a_missing_extra_names_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, spec: str, extra: str
) -> None:
    """Without the optional library the line says what to install."""
    path = tmp_path / "red.onnx"
    write_onnx(path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TeacherError, match=rf"pip install 'softfocus\[{extra}\]'"):
        load_teacher(spec.format(path))


# --------------------------------------------------------------------------------------------- transformers

PATCH_14 = {
    "size": {"height": 518, "width": 518},
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "rescale_factor": 1 / 255,
    "do_rescale": True,
    "do_normalize": True,
}


def depth_anything(**options: Any) -> Any:
    import transformers

    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[4, 4, 8, 8],
        reassemble_hidden_size=16,
        fusion_hidden_size=8,
        head_hidden_size=4,
        patch_size=14,
        **options,
    )
    return transformers.DepthAnythingForDepthEstimation(config)


def dpt(**options: Any) -> Any:
    import transformers

    config = transformers.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        is_hybrid=False,
        **{"fusion_hidden_size": 8, **options},
    )
    return transformers.DPTForDepthEstimation(config)


def glpn() -> Any:
    import transformers

    config = transformers.GLPNConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=8
    )
    return transformers.GLPNForDepthEstimation(config)


def zoedepth() -> Any:
    import transformers

    backbone = transformers.BeitConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone,
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=4,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )
    return transformers.ZoeDepthForDepthEstimation(config)


Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a model, with random but lively weights, and its preprocessor into a folder; gives the spec."""

    def write(model: Any, preprocessor: dict[str, Any] | None = PATCH_14, *, name: str = "tiny") -> str:
        folder = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' own, about its own file formats
            model.save_pretrained(folder)
        if preprocessor is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        return f"hf:{folder}"

    return write


def lively(model: Any) -> Any:
    """Random weights large enough for a map that varies."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model.head.conv3.weight.abs_()
        model.head.conv3.bias.fill_(1.0)
    return model


def constant(model: Any, last: str, value: float) -> Any:
    """A network whose last layer gives the same value everywhere."""
    import torch

    layer = model.get_submodule(last)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.constant_(layer.bias, value)
    return model


@pytest.mark.parametrize(
    ("build", "last", "bias", "direction", "expected"),
    [
        (depth_anything, "head.conv3", 2.0, "inverse depth", 2.0),
        (
            lambda: depth_anything(depth_estimation_type="metric", max_depth=20),
            "head.conv3",
            0.0,
            "depth",
            1 / (0.5 * 20),
        ),
        (dpt, "head.head.4", 3.0, "inverse depth", 3.0),
        (lambda: dpt(add_projection=True, fusion_hidden_size=256), "head.head.4", 4.0, "depth", 1 / 4.0),
        (glpn, "head.head.2", 0.0, "depth", 1 / (0.5 * 10)),
    ],
    ids=["depth anything", "depth anything metric", "dpt", "dinov2 dpt", "glpn"],
)
def test_each_model_type_has_its_direction(
    save: Save, build: Callable[[], Any], last: str, bias: float, direction: str, expected: float
) -> None:
    """Depth (large = far) is turned round, inverse depth passes."""
    teacher = load_teacher(save(constant(build(), last, bias), _squash(32)), size=32, device="cpu")
    assert teacher.provenance.direction == direction
    height, width = teacher.input_size(32, 32)
    labels = teacher.predict(noise(2, height, width))
    assert labels.shape == (2, height, width)
    assert labels.dtype == np.float32
    assert labels == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # transformers' import
def test_zoedepth_sees_a_reflected_margin_and_gives_the_whole_frame(save: Save) -> None:
    """The margin is added and removed inside; the label has the input's size and is finite."""
    preprocessor = PATCH_14 | {"ensure_multiple_of": 32, "size": {"height": 64, "width": 96}, "do_pad": True}
    teacher = load_teacher(save(zoedepth(), preprocessor), device="cpu")
    assert teacher.input_size(427, 640) == (64, 96)
    labels = teacher.predict(noise(1, 64, 96))
    assert labels.shape == (1, 64, 96)
    assert np.isfinite(labels).all()
    assert (labels > 0).all()
    assert "padding" in teacher.provenance.preprocessing


def test_a_prediction_is_that_of_transformers_own_processor(save: Save) -> None:
    """On a photograph of the input size: the same numbers as processor, model and nothing else."""
    import torch
    import transformers

    model = lively(depth_anything()).eval()
    teacher = load_teacher(save(model), size=56, device="cpu")
    images = noise(1, 56, 70)
    processor = transformers.DPTImageProcessor(do_resize=False, **{k: PATCH_14[k] for k in ("image_mean", "image_std")})
    pixels = processor(Image.fromarray(images[0]), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = model(pixel_values=pixels).predicted_depth.numpy()
    assert expected.std() > 0.01
    assert teacher.predict(images) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("size", [(3000, 4000), (1200, 800), (700, 700), (600, 1000)])
def test_the_size_is_that_of_transformers_own_processor(save: Save, size: tuple[int, int]) -> None:
    """For photographs larger than the network's size the rule agrees with transformers'."""
    import transformers

    processor = transformers.DPTImageProcessor(**PATCH_14)
    pixels = processor(Image.new("RGB", (size[1], size[0])), return_tensors="pt").pixel_values
    teacher = load_teacher(save(depth_anything()), device="cpu")
    assert teacher.input_size(*size) == tuple(pixels.shape[-2:])


def test_predictions_are_deterministic_and_do_not_move(save: Save) -> None:
    """The same batch twice, a batch in between, and a second load: the same numbers to the last bit."""
    import torch

    model = depth_anything()
    model.head.conv2 = torch.nn.Conv2d(4, 4, 3, padding=1)
    spec = save(lively(model))
    first, second = (load_teacher(spec, size=56, device="cpu") for _ in range(2))
    once = first.predict(noise(2, 56, 56))
    first.predict(noise(3, 56, 70))
    assert np.array_equal(first.predict(noise(2, 56, 56)), once)
    assert np.array_equal(second.predict(noise(2, 56, 56)), once)


def test_batch_norm_statistics_do_not_move(save: Save) -> None:
    """A teacher with BatchNorm is in eval mode: its state is the same after labelling as before."""
    spec = save(constant(dpt(use_batch_norm_in_fusion_residual=True), "head.head.4", 1.0), _squash(32))
    teacher = load_teacher(spec, device="cpu")
    model = teacher._network  # type: ignore[attr-defined]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert any("running_mean" in name for name in before)
    for _ in range(2):
        teacher.predict(noise(2, 32, 32))
    assert all(bool((model.state_dict()[name] == value).all()) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def _squash(side: int) -> dict[str, Any]:
    return PATCH_14 | {"keep_aspect_ratio": False, "ensure_multiple_of": 1, "size": {"height": side, "width": side}}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_gives_float32_maps_of_the_same_teacher(save: Save, precision: str) -> None:
    """Close to float32, not in steps of 8 bits, and under the same fingerprint."""
    spec = save(lively(depth_anything()))
    exact = load_teacher(spec, size=56, device="cpu")
    half = load_teacher(spec, size=56, device="cpu", precision=precision)
    assert half.precision == precision  # type: ignore[attr-defined]
    assert half.provenance.fingerprint == exact.provenance.fingerprint
    reference, labels = exact.predict(noise(1, 56, 56)), half.predict(noise(1, 56, 56))
    assert labels.dtype == np.float32
    assert np.abs(labels - reference).mean() < 0.02 * np.ptp(reference)
    assert len(np.unique(labels)) > 0.5 * len(np.unique(reference))


@pytest.mark.parametrize("metric", [False, True])
def test_on_the_device_a_teacher_gives_the_same_values(save: Save, metric: bool) -> None:
    """Tensors in and out, without a detour over the host, unknown pixels included."""
    import torch

    options: dict[str, Any] = {"depth_estimation_type": "metric", "max_depth": 20} if metric else {}
    teacher = load_teacher(save(lively(depth_anything(**options))), size=56, device="cpu")
    assert isinstance(teacher, DeviceTeacher)
    images = noise(2, 56, 70)
    on_device = teacher.predict_on_device(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert on_device.dtype == torch.float32
    np.testing.assert_allclose(on_device.numpy(), teacher.predict(images), rtol=1e-6)


def test_depth_is_turned_round_on_the_device_as_on_the_host() -> None:
    """Zero, negative, not finite or far too small depth is not known."""
    import torch

    from pipeline.teachers.hf import _inverse_depth

    raw = np.array([[[2.0, 0.0, -1.0, np.nan], [np.inf, 1e-9, 0.5, 4.0]], [[-1.0] * 4] * 2], np.float32)
    for direction in ("depth", "inverse depth"):
        expected = inverse_depth(raw, direction)  # type: ignore[arg-type]
        found = _inverse_depth(torch.from_numpy(raw), direction).numpy()  # type: ignore[arg-type]
        assert np.array_equal(np.where(np.isfinite(found), found, np.nan), expected, equal_nan=True)


def test_a_map_that_overflows_in_float16_is_done_again_in_float32(save: Save) -> None:
    """Values past 65504 inside the network must not become unknown labels."""
    import torch

    model = lively(depth_anything())
    with torch.no_grad():
        model.head.conv2.weight.mul_(1e4 / 0.3)
        model.head.conv3.weight.mul_(1e-4)
    spec = save(model)
    labels = load_teacher(spec, size=56, device="cpu", precision="float16").predict(noise(2, 56, 56))
    reference = load_teacher(spec, size=56, device="cpu").predict(noise(2, 56, 56))
    assert np.isfinite(labels).all()
    assert np.abs(labels - reference).mean() < 0.02 * np.ptp(reference)


def test_the_hash_is_that_of_the_weight_file(save: Save, tmp_path: Path) -> None:
    """What `sha256sum model.safetensors` says; a copy elsewhere has the same fingerprint."""
    from pipeline.files import sha256_file

    model = depth_anything()
    first = load_teacher(save(model), device="cpu").provenance
    assert first.weights_sha256 == sha256_file(tmp_path / "tiny" / "model.safetensors")
    assert first.name == "tiny"
    assert set(first.versions) == {"softfocus", "torch", "transformers", "numpy"}
    again = load_teacher(save(model, name="elsewhere/tiny"), device="cpu").provenance
    assert again.fingerprint == first.fingerprint
    other = load_teacher(save(depth_anything(), name="other/tiny"), device="cpu").provenance
    assert other.fingerprint != first.fingerprint


def test_a_card_overrides_direction_and_size(save: Save, tmp_path: Path) -> None:
    """A network that was fine-tuned on depth in metres can be told apart by a card only."""
    spec = save(constant(dpt(), "head.head.4", 4.0), _squash(32))
    card = write_card(tmp_path, direction="depth", size={"rule": "fixed", "height": 64, "width": 64})
    teacher = load_teacher(spec, card=card, device="cpu")
    assert teacher.input_size(480, 640) == (64, 64)
    assert teacher.predict(noise(1, 64, 64)) == pytest.approx(0.25)


def test_a_model_type_of_unknown_direction_asks_for_a_card(save: Save, tmp_path: Path) -> None:
    """Prompt Depth Anything gives no depth of its own accord; with a card it is the user's word."""
    import transformers

    if not hasattr(transformers, "PromptDepthAnythingConfig"):
        pytest.skip("this transformers is older than Prompt Depth Anything")
    source = depth_anything().config.to_dict()
    keys = ("backbone_config", "neck_hidden_sizes", "reassemble_hidden_size", "fusion_hidden_size", "head_hidden_size")
    config = transformers.PromptDepthAnythingConfig(**{key: source[key] for key in keys}, patch_size=14)
    spec = save(transformers.PromptDepthAnythingForDepthEstimation(config))
    with pytest.raises(TeacherError, match=r"a prompt_depth_anything model .* is not known; .*card.*direction"):
        load_teacher(spec, device="cpu")
    teacher = load_teacher(spec, size=28, device="cpu", card=write_card(tmp_path, direction="inverse depth"))
    assert teacher.predict(noise(1, 28, 28)).shape == (1, 28, 28)


def test_a_folder_without_preprocessor_says_what_is_missing(save: Save, tmp_path: Path) -> None:
    """Sizes and means are never guessed; a whole card stands in."""
    spec = save(depth_anything(), None)
    with pytest.raises(TeacherError, match=r"preprocessor_config\.json .*range, size"):
        load_teacher(spec, device="cpu")
    whole = write_card(tmp_path, direction="inverse depth", **(PLAIN | {"size": {"rule": "short side", "side": 28}}))
    assert load_teacher(spec, card=whole, device="cpu").input_size(100, 100) == (28, 28)


@pytest.mark.parametrize(
    ("preprocessor", "reason"),
    [
        (PATCH_14 | {"image_mean": None}, "does not say mean"),
        (PATCH_14 | {"size": {"longest": 3}}, "does not say size"),
        (PATCH_14 | {"rescale_factor": 0.5}, "does not say range"),
        (PATCH_14 | {"image_std": [1, 2]}, "image_std"),
        (PATCH_14 | {"image_std": [0, 1, 1]}, "image_std"),
    ],
)
def test_a_preprocessor_that_leaves_something_open_is_refused(
    save: Save, preprocessor: dict[str, Any], reason: str
) -> None:
    """The line names the setting."""
    with pytest.raises(TeacherError, match=reason):
        load_teacher(save(depth_anything(), preprocessor), device="cpu")


@pytest.mark.parametrize(
    ("preprocessor", "rule"),
    [
        ({"size": 384, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, "fixed 384 x 384"),
        ({"size": {"shortest_edge": 300}, "image_mean": 0.5, "image_std": 0.5}, "short side 300"),
        (PATCH_14 | {"do_resize": False, "do_rescale": False, "image_mean": [120] * 3}, "short side 480"),
        ({"image_processor": PATCH_14}, "short side 518"),
    ],
)
def test_older_and_newer_preprocessor_files_are_understood(save: Save, preprocessor: dict[str, Any], rule: str) -> None:
    """A bare number, an edge, no resizing at all, settings inside a processor's."""
    teacher = load_teacher(save(depth_anything(), preprocessor), device="cpu")
    assert teacher.provenance.preprocessing["size rule"].startswith(rule)


def test_weights_that_are_not_in_the_checkpoint_are_an_error(save: Save, tmp_path: Path) -> None:
    """A backbone alone must not become a teacher with a random head."""
    from safetensors.torch import load_file, save_file

    spec = save(depth_anything())
    path = tmp_path / "tiny" / "model.safetensors"
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if not name.startswith("head")}, path, {"format": "pt"})
    with pytest.raises(TeacherError, match=r"6 weights of the network are not in the checkpoint \(first: head\.conv1"):
        load_teacher(spec, device="cpu")


def test_weights_that_no_forward_pass_reads_may_be_missing(save: Save, tmp_path: Path) -> None:
    """Published DPT checkpoints lack the first fusion layer's first residual unit."""
    from safetensors.torch import load_file, save_file

    spec = save(dpt(), _squash(32))
    complete = load_teacher(spec, device="cpu").predict(noise(1, 32, 32))
    path = tmp_path / "tiny" / "model.safetensors"
    weights = load_file(path)
    kept = {name: value for name, value in weights.items() if "fusion_stage.layers.0.residual_layer1." not in name}
    assert len(kept) < len(weights)
    save_file(kept, path, {"format": "pt"})
    assert np.array_equal(load_teacher(spec, device="cpu").predict(noise(1, 32, 32)), complete)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nothing"), "weights cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be used"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'), "a vit model, which is not"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "own"}'), "config.json cannot be used"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("[]"), "not an image processor's settings"),
    ],
)
def test_a_damaged_or_foreign_folder_is_one_clear_line(
    save: Save, tmp_path: Path, damage: Callable[[Path], Any], reason: str
) -> None:
    """Damage to any file of the folder is told in one line with the name."""
    spec = save(depth_anything())
    damage(tmp_path / "tiny")
    with pytest.raises(TeacherError, match=reason) as caught:
        load_teacher(spec, device="cpu")
    assert "\n" not in str(caught.value)
    assert "tiny" in str(caught.value)


def test_code_that_comes_with_a_model_is_not_run(save: Save, tmp_path: Path) -> None:
    """A folder with its own Python code is refused, and the code has not been run."""
    spec = save(depth_anything())
    folder, mark = tmp_path / "tiny", tmp_path / "mark"
    config = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForDepthEstimation": "own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    with pytest.raises(TeacherError, match=r"config\.json cannot be used"):
        load_teacher(spec, device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [("hf:", "say which model"), ("hf:./nowhere", "no such folder"), ("hf:/no/where", "no such folder")],
)
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(spec: str, reason: str) -> None:
    """What looks like a path is a path."""
    with pytest.raises(TeacherError, match=reason):
        load_teacher(spec)


def test_a_name_that_cannot_be_fetched_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network: the line says what to check."""
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(TeacherError, match=r"hf:some/name: cannot be fetched .*no route to the hub.*a folder"):
        load_teacher("hf:some/name")


def test_a_name_on_the_hub_is_fetched_without_foreign_files(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only configuration and weights are fetched, and the provenance holds the hub's name."""
    import huggingface_hub

    save(depth_anything())
    asked: list[str] = []

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path / "tiny")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    teacher = load_teacher("hf:some/name", device="cpu")
    assert teacher.provenance.name == "some/name"
    assert not any(pattern.endswith((".py", ".bin")) for pattern in asked)


def test_loading_says_nothing(save: Save, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither progress bars nor reports reach the terminal."""
    spec = save(depth_anything())
    capfd.readouterr()
    load_teacher(spec, size=28, device="cpu").predict(noise(1, 28, 28))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("device", ["tpu9", "cuda:99"])
def test_a_device_that_torch_lacks_is_one_clear_line(save: Save, device: str) -> None:
    """The line names the device."""
    with pytest.raises(TeacherError, match=f"device .*{device}"):
        load_teacher(save(depth_anything()), device=device)


def test_a_closed_model_and_an_empty_batch(save: Save) -> None:
    """As for ONNX: nothing in, nothing out; closed is closed."""
    teacher = load_teacher(save(depth_anything()), device="cpu")
    assert teacher.predict(np.empty((0, 14, 28, 3), np.uint8)).shape == (0, 14, 28)
    teacher.close()
    with pytest.raises(ValueError, match="closed"):
        teacher.predict(noise(1, 14, 28))


def test_read_only_images_are_taken(save: Save) -> None:
    """A view that cannot be written (as from np.asarray of a picture) works without a warning."""
    teacher = load_teacher(save(depth_anything()), device="cpu")
    images = noise(1, 28, 28)
    images.flags.writeable = False
    assert teacher.predict(images).shape == (1, 28, 28)


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a CUDA device")
def test_a_gpu_runs_float16_and_agrees_with_the_cpu(save: Save) -> None:
    """The automatic choice on a GPU, within the rounding of float16."""
    spec = save(lively(depth_anything()))
    gpu, cpu = load_teacher(spec, size=56), load_teacher(spec, size=56, device="cpu")
    assert gpu.precision == "float16"  # type: ignore[attr-defined]
    reference, labels = cpu.predict(noise(4, 56, 70)), gpu.predict(noise(4, 56, 70))
    assert np.abs(labels - reference).mean() < 0.01 * np.ptp(reference)


# ------------------------------------------------------------------------------------------- real networks


@pytest.mark.parametrize(
    ("file", "card", "least"),
    [("tcmonodepth_small.onnx", "tcmonodepth", 0.80), ("fastdepth_224.onnx", "fastdepth", 0.70)],
)
def test_a_real_teacher_sees_depth(shared: Path, file: str, card: str, least: float) -> None:
    """Rank correlation with Middlebury's true disparity: right direction, right preprocessing.

    FIELD.md section 4 measured 0.75 to 0.82 for TCMonoDepth; measured here 0.833 and 0.762.
    """
    from scipy.stats import spearmanr

    disparity = np.load(shared / "data" / "motorcycle" / "disparity.npz")["arr_0"]
    photograph = Image.open(shared / "data" / "motorcycle" / "left.png").convert("RGB")
    named, found = (load_teacher(f"onnx:{shared}/weights/{file}", card=given) for given in (card, None))
    assert named.provenance == found.provenance  # the known card is found by the file's hash too
    height, width = named.input_size(photograph.height, photograph.width)
    resized = photograph.resize((width, height), Image.Resampling.BICUBIC)
    label = named.predict(np.asarray(resized)[None])[0]
    full = np.asarray(Image.fromarray(label).resize(photograph.size, Image.Resampling.BILINEAR))
    known = np.isfinite(disparity)
    assert spearmanr(full[known], disparity[known]).statistic >= least
