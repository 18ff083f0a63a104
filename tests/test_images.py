"""Pixels: every kind of file comes out upright and in one form, or is refused by name."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from pipeline.errors import SoftfocusError
from pipeline.images import (
    MAX_PIXELS_VARIABLE,
    ImageError,
    check_mask_size,
    image_size,
    read_blur_mask,
    read_image,
    read_mask_values,
)

RED = (250, 10, 20)


def striped(height: int = 24, width: int = 40) -> Image.Image:
    """A picture whose four corners differ: left half dark, right half bright, blue grows downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :, 0] = 200
    pixels[..., 2] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    return Image.fromarray(pixels)


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be that large."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    """Size and pixels are those of the upright picture, in formats that keep pixels exact."""
    lossless = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    path = tmp_path / "turned"
    path.write_bytes(encoded(striped(), kind, exif=with_orientation(orientation), **lossless))

    stored = striped()
    stored.getexif()[ExifTags.Base.Orientation] = orientation
    wanted = ImageOps.exif_transpose(stored)

    assert image_size(path) == wanted.size[::-1]
    np.testing.assert_array_equal(read_image(path), np.asarray(wanted))


def test_compressed_tiff_is_turned_upright() -> None:
    """Pillow decodes compressed TIFF on another path, and the result is the same."""
    data = encoded(striped(), "TIFF", exif=with_orientation(6), compression="tiff_lzw")
    assert image_size(data) == (40, 24)
    np.testing.assert_array_equal(read_image(data), np.asarray(striped().transpose(Image.Transpose.ROTATE_270)))


def test_rotated_jpeg_has_its_bright_half_below() -> None:
    """Orientation 6 turns the stored right half to the bottom."""
    pixels = read_image(encoded(striped(), "JPEG", exif=with_orientation(6)))
    assert pixels.shape == (40, 24, 3)
    assert pixels[30:, :, 0].mean() > 150 > 50 > pixels[:10, :, 0].mean()


def test_broken_exif_leaves_the_picture_as_stored() -> None:
    """A photograph is not worth less for a damaged EXIF block."""
    data = encoded(striped(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff\xff\xff")
    assert image_size(data) == (24, 40)
    assert read_image(data).shape == (24, 40, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_modes_come_out_as_rgb(mode: str) -> None:
    """One red, whatever the mode it is stored in; alpha is dropped, not blended."""
    picture = Image.new("RGB", (5, 4), RED)
    if mode == "RGBA":
        picture.putalpha(7)
        data = encoded(picture, "PNG")
    elif mode == "P":
        data = encoded(picture.quantize(8), "PNG")
    elif mode == "CMYK":
        data = encoded(picture.convert("CMYK"), "TIFF")
    else:
        data = encoded(picture, "PNG")
    pixels = read_image(data)
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - RED).max() <= 3


def test_cmyk_jpeg_is_read() -> None:
    """The kind of CMYK that print shops deliver."""
    pixels = read_image(encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - RED).max() <= 8


def test_palette_with_transparency_is_read_without_a_warning() -> None:
    """Pillow warns here; nobody needs to know."""
    picture = Image.new("RGB", (5, 4), RED).quantize(4)
    data = encoded(picture, "PNG", transparency=b"\x80\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(read_image(data).astype(int) - RED).max() <= 3


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_modes_come_out_as_rgb(mode: str) -> None:
    """White is 255 in all three channels."""
    white = Image.new("L", (5, 4), 255).convert(mode)
    np.testing.assert_array_equal(read_image(encoded(white, "PNG")), np.full((4, 5, 3), 255, np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(kind: str) -> None:
    """Half of 65535 is half of 255."""
    values = np.array([[0, 32896, 65535]], np.uint16)
    pixels = read_image(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(pixels, np.array([[[0] * 3, [128] * 3, [255] * 3]], np.uint8))


def test_big_endian_16_bits_are_read() -> None:
    """The byte order of the file does not matter."""
    stored = Image.frombytes("I;16B", (2, 1), b"\x00\x00\xff\xff")
    np.testing.assert_array_equal(read_image(encoded(stored, "TIFF"))[0, :, 0], [0, 255])


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_floating_point_counts_as_its_range_says(white: float) -> None:
    """0 to 1 and 0 to 255 are both in use."""
    values = np.array([[0, white / 2, white]], np.float32)
    pixels = read_image(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 1e6])
def test_floating_point_without_a_known_range_is_refused(bad: float) -> None:
    """No guess is made for values that are no picture."""
    data = encoded(Image.fromarray(np.array([[0, bad]], np.float32)), "TIFF")
    with pytest.raises(ImageError, match=r"odd\.tif.*values from"):
        read_image(data, name="odd.tif")


def test_the_array_is_writable_and_the_same_from_path_and_bytes(tmp_path: Path) -> None:
    """What augmentation works on in place does not need a copy."""
    path = tmp_path / "façade 写真.png"
    striped().save(path)
    pixels = read_image(path)
    np.testing.assert_array_equal(pixels, read_image(path.read_bytes()))
    pixels[0, 0] = 1
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_smaller_but_large_enough(orientation: int) -> None:
    """The size asked for counts upright, and is a lower bound."""
    data = encoded(striped(480, 800), "JPEG", exif=with_orientation(orientation))
    full = read_image(data).shape[:2]
    wanted = (100, 170) if orientation == 1 else (170, 100)
    small = read_image(data, at_least=wanted).shape[:2]
    assert small == (full[0] // 4, full[1] // 4)
    assert all(have >= want for have, want in zip(small, wanted, strict=True))


def test_a_png_keeps_its_size_whatever_is_asked() -> None:
    """Only JPEG can be decoded at a reduced scale."""
    assert read_image(encoded(striped(), "PNG"), at_least=(3, 3)).shape == (24, 40, 3)


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    """And the size of it, too."""
    assert "no such file" in refusal(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="no such file"):
        image_size(tmp_path / "gone.jpg")


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    """Not with a traceback."""
    assert "cannot be read" in refusal(tmp_path)


def test_an_empty_file_is_refused_by_name(tmp_path: Path) -> None:
    """Zero bytes is the commonest damage of an interrupted copy."""
    (tmp_path / "a.jpg").touch()
    assert "empty file" in refusal(tmp_path / "a.jpg")


def test_what_is_not_an_image_is_refused_by_name(tmp_path: Path) -> None:
    """An error page saved as a photograph, for instance."""
    (tmp_path / "a.jpg").write_text("<html>Not found</html>")
    assert "not an image" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kind: str, share: float) -> None:
    """Half a photograph is none."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    path = tmp_path / "half"
    path.write_bytes(data[: int(len(data) * share)])
    assert refusal(path)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_corrupt_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """Garbage in the middle of compressed data."""
    options = {"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = bytearray(encoded(noise, kind, **options))
    data[len(data) // 3 : 2 * len(data) // 3] = bytes(2 * len(data) // 3 - len(data) // 3)
    path = tmp_path / "corrupt"
    path.write_bytes(data)
    assert "cut off or damaged" in refusal(path)


@pytest.mark.parametrize("side", [15_000, 40_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    """Above our limit and above Pillow's own, with the same advice and no warning."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MAX_PIXELS_VARIABLE in refusal(path)
        with pytest.raises(ImageError, match="limit"):
            image_size(path)


def test_the_limit_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower to be strict, higher for a very large photograph."""
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "959")
    with pytest.raises(ImageError, match="960 pixels where the limit is 959"):
        read_image(encoded(striped(), "PNG"))
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "2000000000")
    assert image_size(png_of_size(40_000, 40_000)) == (40_000, 40_000)


def test_a_limit_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than to fall back to another in silence."""
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "1e9")
    with pytest.raises(SoftfocusError, match=MAX_PIXELS_VARIABLE):
        image_size(encoded(striped(), "PNG"))


def test_formats_that_start_other_programs_are_not_opened() -> None:
    """PostScript runs in an interpreter: not for files from anywhere."""
    with pytest.raises(ImageError, match="not an image"):
        read_image(encoded(striped(), "EPS"), name="a.eps")


def test_threads_decode_side_by_side() -> None:
    """The same pixels from many threads, and no warning from any."""
    data = encoded(Image.new("RGB", (5, 4), RED).quantize(4), "PNG", transparency=b"\x80\xff\xff\xff")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read_image, [data] * 64))
    assert all(np.array_equal(pixels, results[0]) for pixels in results)


CHECKER = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
WHITE = CHECKER == 255


def mask_file(folder: Path, image: Image.Image, **options: object) -> Path:
    path = folder / "mask.png"
    image.save(path, **options)
    return path


def test_both_polarities_come_out_as_true_where_out_of_focus(tmp_path: Path) -> None:
    """White means what the dataset says it means."""
    path = mask_file(tmp_path, Image.fromarray(CHECKER))
    np.testing.assert_array_equal(read_blur_mask(path, blur="white", size=(2, 3)), WHITE)
    np.testing.assert_array_equal(read_blur_mask(path, blur="black", size=None), ~WHITE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "two colours", "16 bits", "2 bits"])
def test_masks_of_every_mode_are_the_same(tmp_path: Path, mode: str) -> None:
    """1-bit, grey, colour, palette and deep masks, with and without alpha."""
    grey = Image.fromarray(CHECKER)
    options: dict[str, object] = {}
    if mode == "16 bits":
        image = Image.fromarray(WHITE.astype(np.uint16) * 65535)
    elif mode == "two colours":
        image = indexed()
    elif mode == "2 bits":
        image, options = indexed(), {"bits": 2}
    else:
        image = grey.convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray(255 - CHECKER))
    mask = read_blur_mask(mask_file(tmp_path, image, **options), blur="white", size=(2, 3))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, WHITE)


def indexed() -> Image.Image:
    """The checker as indices 0 and 1 of a palette of black and white."""
    image = Image.new("P", (3, 2))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.putdata(WHITE.astype(np.uint8).ravel().tolist())
    return image


def test_stray_values_do_no_harm(tmp_path: Path) -> None:
    """1 to 3 beside black, 252 to 254 beside white; the middle belongs to black at 127, to white at 128."""
    values = np.array([[0, 1, 3, 127], [128, 252, 254, 255]], np.uint8)
    path = mask_file(tmp_path, Image.fromarray(values))
    np.testing.assert_array_equal(read_blur_mask(path, blur="white", size=(2, 4)), [[False] * 4, [True] * 4])


def test_mask_values_come_with_their_full_scale(tmp_path: Path) -> None:
    """1, 255 and 65535 are the whites of the three depths."""
    for image, white in [
        (Image.fromarray(CHECKER).convert("1"), 1),
        (Image.fromarray(CHECKER), 255),
        (Image.fromarray(WHITE.astype(np.uint16) * 65535), 65535),
    ]:
        values, full_scale = read_mask_values(mask_file(tmp_path, image))
        assert full_scale == white
        np.testing.assert_array_equal(values, WHITE * white)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    """The message says both sizes, and hints at a lost rotation where they are each other's turn."""
    path = mask_file(tmp_path, Image.fromarray(CHECKER))
    with pytest.raises(ImageError, match=r"mask\.png: mask of 3 x 2 for a photograph of 5 x 4"):
        read_blur_mask(path, blur="white", size=(4, 5))
    with pytest.raises(ImageError, match="EXIF rotation"):
        check_mask_size(path, (3, 2))
    check_mask_size(path, (2, 3))


def test_a_mask_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    """Masks are checked like photographs."""
    path = tmp_path / "mask.png"
    path.write_bytes(encoded(striped(200, 200), "PNG")[:150])
    with pytest.raises(ImageError, match="cut off or damaged"):
        read_blur_mask(path, blur="white", size=(200, 200))


def test_real_masks_with_alpha_are_read(shared: Path) -> None:
    """The 14 RGBA masks of CUHK are opaque and hold black and white only."""
    folder = shared / "data" / "cuhk" / "gt"
    with_alpha = [path for path in sorted(folder.iterdir()) if png_colour_type(path) == 6]
    assert len(with_alpha) == 14
    for path in with_alpha:
        values, full_scale = read_mask_values(path)
        assert full_scale == 255
        assert set(np.unique(values)) == {0, 255}


def png_colour_type(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(26)[25]


def test_the_real_polarities_agree(shared: Path) -> None:
    """CUHK's white and DUT's black both mark the blurred background at the corners of a portrait."""
    cuhk = read_blur_mask(shared / "data/cuhk/gt/out_of_focus0001.png", blur="white", size=None)
    dut = read_blur_mask(shared / "data/dut5/gt/1.bmp", blur="black", size=(320, 320))
    assert 0.2 < cuhk.mean() < 0.95
    assert dut[:20, :20].all()
    assert not dut[160, 130]
