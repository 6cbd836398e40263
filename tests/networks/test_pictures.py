import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kanlib.errors import BadInputError
from kanlib.networks.pictures import opened, rgb


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def saved(image, folder, name, **options):
    image.save(folder / name, **options)
    return pixels(opened(folder / name))


def grey(values):
    return [[[value] * 3 for value in row] for row in values]


DEEP = np.array([[0, 128, 129], [257, 32768, 65535]], np.uint16)
AS_BYTES = grey([[0, 0, 1], [1, 128, 255]])


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16N", "I;16B"])
def test_grey_values_of_16_bits_are_divided_by_257(mode):
    order = ">u2" if mode == "I;16B" else "=u2" if mode == "I;16N" else "<u2"
    assert pixels(rgb(Image.frombytes(mode, (3, 2), DEEP.astype(order).tobytes()))) == AS_BYTES


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_files_of_16_bits_are_too(tmp_path, name):
    assert saved(Image.fromarray(DEEP), tmp_path, name) == AS_BYTES


def test_integers_of_32_bits_are_read_as_16(tmp_path):
    assert saved(Image.fromarray(DEEP.astype(np.int32)), tmp_path, "a.tif") == AS_BYTES
    assert saved(Image.fromarray(np.zeros((1, 1), np.int32)), tmp_path, "black.tif") == grey([[0]])


def test_a_dark_file_of_16_bits_is_dark(tmp_path):
    dark = Image.fromarray(np.array([[0, 200]], np.uint16))
    for name in ("a.png", "a.tif", "a.pgm"):
        assert saved(dark, tmp_path, name) == grey([[0, 1]])


def tiff(folder, values, bits, photometric):
    """A grey TIFF without compression, as no version of Pillow writes it."""
    packed = (
        values.astype("<u2").tobytes() if bits == 16 else bytes.fromhex("".join(f"{v:03x}" for v in values[0]))
    )
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags[279] = len(packed)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    (folder / "made.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory)
    return folder / "made.tif"


def test_a_tiff_that_counts_from_white_is_not_a_negative(tmp_path):
    file = tiff(tmp_path, DEEP, 16, photometric=0)
    assert pixels(opened(file)) == grey([[255, 255, 254], [254, 127, 0]])
    assert pixels(opened(tiff(tmp_path, DEEP, 16, photometric=1))) == AS_BYTES


def test_grey_values_of_12_bits_are_scaled_to_what_they_mean(tmp_path):
    file = tiff(tmp_path, np.array([[0, 4095, 2048, 16]]), 12, photometric=1)
    assert pixels(opened(file)) == grey([[0, 255, 128, 1]])


def test_fractions_are_of_255(tmp_path):
    values = np.array([[0, 0.5, 1], [0.25, 1 / 255, 0.999]], np.float32)
    assert saved(Image.fromarray(values), tmp_path, "a.tif") == grey([[0, 128, 255], [64, 1, 255]])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.array([[0, 65536]], np.int32), r"from 0 to 65536, expected integers from 0 to 65535; scale them"),
        (np.array([[-1, 5]], np.int32), "from -1 to 5, expected integers from 0 to 65535"),
        (np.array([[0, 255]], np.int32), "from 0 to 255 in 32 bits, .* save it with 8 bits"),
        (np.array([[0, 1.5]], np.float32), r"from 0 to 1\.5, expected fractions from 0 to 1; scale them"),
        (np.array([[-0.1, 1]], np.float32), r"from -0\.1 to 1, expected fractions"),
        (np.array([[0.5, np.nan]], np.float32), "from nan to nan, expected fractions"),
        (np.array([[0.5, np.inf]], np.float32), r"from 0\.5 to inf, expected fractions"),
    ],
)
def test_grey_values_that_may_mean_anything_are_refused(tmp_path, values, sentence):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(BadInputError, match=rf"a\.tif has grey values {sentence}"):
        opened(tmp_path / "a.tif")


def test_rgb_stays_as_it_is(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for name in ("a.png", "a.bmp", "a.tif", "a.ppm"):
        assert saved(Image.fromarray(values), tmp_path, name) == values.tolist()
    whole = Image.fromarray(values)
    assert rgb(whole) is not whole
    assert whole.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, [255, 255, 255]),
        ("L", 77, [77, 77, 77]),
        ("CMYK", (255, 0, 0, 0), [0, 255, 255]),
        ("YCbCr", (100, 128, 128), [100, 100, 100]),
        ("LAB", (255, 128, 128), [255, 255, 255]),
        ("HSV", (0, 255, 255), [255, 0, 0]),
        ("RGBX", (1, 2, 3, 0), [1, 2, 3]),
    ],
)
def test_other_colours_are_converted(mode, colour, expected):
    found = pixels(rgb(Image.new(mode, (1, 1), colour)))
    # Through a colour profile, white is white but for a rounding.
    np.testing.assert_allclose(found, [[expected]], atol=mode == "LAB", rtol=0)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I", "I;16", "F"])
@pytest.mark.parametrize("size", [(0, 3), (3, 0)])
def test_a_picture_without_pixels_is_refused(mode, size):
    with pytest.raises(BadInputError, match=r"^this one has no pixels; replace it or leave it out\.$"):
        rgb(Image.new(mode, size), "this one")


def test_a_palette_is_looked_up(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert saved(image, tmp_path, "a.png") == saved(image, tmp_path, "a.gif") == [[[9, 8, 7], [200, 100, 50]]]


@pytest.mark.parametrize(
    ("mode", "clear", "half", "whole", "expected"),
    [
        ("RGBA", (9, 9, 9, 0), (0, 100, 255, 51), (1, 2, 3, 255), [[255] * 3, [204, 224, 255], [1, 2, 3]]),
        ("LA", (9, 0), (0, 51), (7, 255), [[255] * 3, [204] * 3, [7] * 3]),
        # Colours that are multiplied by their opacity already.
        ("RGBa", (0, 0, 0, 0), (0, 20, 51, 51), (1, 2, 3, 255), [[255] * 3, [204, 224, 255], [1, 2, 3]]),
        ("La", (0, 0), (0, 51), (7, 255), [[255] * 3, [204] * 3, [7] * 3]),
    ],
)
def test_what_is_transparent_lies_over_white(mode, clear, half, whole, expected):
    raw = bytes(value for colour in (clear, half, whole) for value in colour)
    if mode == "La":
        image = Image.new("La", (3, 1))
        for x, colour in enumerate((clear, half, whole)):
            image.putpixel((x, 0), colour)
    elif mode == "LA":
        image = Image.new("LA", (3, 1))
        image.putdata([clear, half, whole])
    else:
        image = Image.frombytes(mode, (3, 1), raw)
    np.testing.assert_allclose(pixels(rgb(image)), [expected], atol=1)
    assert pixels(rgb(image))[0][2] == expected[2]


def test_palettes_with_transparent_colours_lie_over_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.putpixel((1, 0), 1)
    for name in ("a.png", "a.gif"):
        assert saved(image, tmp_path, name, transparency=0) == [[[255, 255, 255], [200, 100, 50]]]
    assert saved(image, tmp_path, "b.png", transparency=bytes([255, 0])) == [[[9, 8, 7], [255, 255, 255]]]
    alpha = Image.new("PA", (1, 1))
    alpha.putpalette([9, 8, 7])
    assert pixels(rgb(alpha)) == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    ("mode", "one", "other", "transparency"),
    [("RGB", (1, 2, 3), (4, 5, 6), (1, 2, 3)), ("L", 10, 20, 10), ("1", 0, 1, 0), ("I;16", 1000, 25700, 1000)],
)
def test_a_colour_that_stands_for_transparent_lies_over_white(tmp_path, mode, one, other, transparency):
    image = Image.new(mode, (2, 1), one)
    image.putpixel((1, 0), other)
    found = saved(image, tmp_path, "a.png", transparency=transparency)
    shown = {"RGB": [4, 5, 6], "L": [20] * 3, "1": [255] * 3, "I;16": [100] * 3}[mode]
    assert found == [[[255, 255, 255], shown]]


@pytest.mark.parametrize("first", [65280, 1])
def test_a_transparent_colour_of_16_bits_is_refused(tmp_path, first):
    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    colour = struct.pack(">3H", first, 1, 2)
    rest = chunk(b"tRNS", colour) + chunk(b"IDAT", zlib.compress(b"\0" + colour)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + rest)
    with pytest.raises(BadInputError, match=r"a\.png has a transparent colour of 16 bits"):
        opened(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.png"])
def test_a_photograph_stands_upright(tmp_path, name):
    values = np.zeros((8, 16, 3), np.uint8)
    values[:, 8:] = 255
    image = Image.fromarray(values)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / name, exif=exif)
    found = np.asarray(opened(tmp_path / name))
    # Turned by a quarter, clockwise: what was right is below.
    assert found.shape == (16, 8, 3)
    assert found[:7].max() < 10
    assert found[9:].min() > 245


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "F"])
def test_deep_photographs_stand_upright_too(tmp_path, mode):
    values = (
        np.array([[0, 1]], np.float32) if mode == "F" else np.array([[0, 65535]], ">u2" if "B" in mode else "<u2")
    )
    image = Image.frombytes(mode, (2, 1), values.tobytes())
    image.getexif()[0x0112] = 6
    assert pixels(rgb(image)) == grey([[0], [255]])


@pytest.mark.parametrize("name", ["a.gif", "a.tif"])
def test_of_several_frames_the_first_is_read(tmp_path, name):
    first, second = (Image.new("RGB", (2, 2), colour) for colour in ("red", "blue"))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    assert pixels(opened(tmp_path / name)) == [[[255, 0, 0]] * 2] * 2


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"])
@pytest.mark.parametrize("keep", [0, 3, 20, 60, 400])
def test_a_file_that_is_cut_short_is_refused(tmp_path, kind, keep):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    file = tmp_path / "cut.png"
    Image.fromarray(noise).save(file, kind)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        BadInputError, match=r"cut\.png is not a readable image \(.*\); replace it or leave it out"
    ):
        opened(file)


@pytest.mark.parametrize(
    "error", [struct.error("x"), OverflowError(), MemoryError(), RecursionError(), KeyError(3)]
)
def test_whatever_a_decoder_raises_is_one_sentence(tmp_path, monkeypatch, error):
    def fails(*_, **__):
        raise error

    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(BadInputError, match=rf"a\.png is not a readable image \({type(error).__name__}"):
        opened(tmp_path / "a.png")


@pytest.mark.parametrize(("size", "kind"), [((4, 4), "Warning"), ((6, 4), "Error")])
def test_more_pixels_than_pillow_takes_are_refused(tmp_path, monkeypatch, size, kind):
    Image.new("RGB", size).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BadInputError, match=rf"bomb\.png is not a readable image \(DecompressionBomb{kind}"):
        opened(tmp_path / "bomb.png")


def test_what_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("link.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("folder.png", "pipe.png", "link.png", "device.png", "none.png", "x" * 5000, "nul\0.png"):
        with pytest.raises(
            BadInputError, match=r"not a readable image .*no such file, or it is no regular"
        ) as caught:
            opened(tmp_path / name)
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()


def test_a_picture_starts_no_program(tmp_path):
    """Pillow would have PostScript drawn by Ghostscript, whatever the file is called."""
    file = tmp_path / "a.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch x) (w) file\n")
    with pytest.raises(BadInputError, match=r"a\.png is not a readable image \(it is of no known format"):
        opened(file)
