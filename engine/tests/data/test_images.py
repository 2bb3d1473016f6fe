"""What is read of image files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from leyden.config.errors import UserError
from leyden.data import folder as images
from leyden.data.folder import read_center_crop
from tests.data import folders


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("is_wide", [True, False])
def test_the_middle_part_of_its_aspect_is_cut_out(tmp_path, is_wide):
    marked = np.zeros((40, 80, 3), np.uint8)
    marked[10:30, 30:50] = 255  # 20 x 20 in the middle
    found = read_center_crop(
        save(tmp_path / "x.png", marked if is_wide else marked.transpose(1, 0, 2)), (3, 20, 20)
    )
    assert found.shape == (3, 20, 20)
    assert (found[:, 6:14, 6:14] == 255).all()
    assert found[:, :4].sum() == found[:, -4:].sum() == found[:, :, :4].sum() == found[:, :, -4:].sum() == 0


def test_an_image_of_the_right_size_is_as_it_is_and_transparent_parts_are_black(tmp_path):
    array = folders.pixels(20, 16, 0)
    found = read_center_crop(save(tmp_path / "x.png", array), (3, 20, 16))
    assert np.array_equal(found.permute(1, 2, 0), array)
    assert found.is_contiguous()
    Image.new("RGBA", (20, 20), (255, 255, 255, 0)).save(tmp_path / "x.png")
    assert not read_center_crop(tmp_path / "x.png", (3, 20, 20)).any()


def modes(array):
    """The same picture in modes and depths that are found in the wild."""
    rgb = Image.fromarray(array)
    grey = rgb.convert("L")
    yield "rgb", rgb
    yield "rgba", Image.merge("RGBA", (*rgb.split(), Image.new("L", rgb.size, 255)))
    yield "cmyk", rgb.convert("CMYK")
    yield "grey", grey
    yield "16bit", Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    yield "grey-alpha", Image.merge("LA", (grey, Image.new("L", rgb.size, 255)))


@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_and_depth_is_the_same_picture(tmp_path, channels):
    array = folders.pixels(60, 60, 1)
    grey = np.asarray(Image.fromarray(array).convert("L"))
    for name, image in modes(array):
        image.save(path := tmp_path / f"{name}.{'jpg' if name == 'cmyk' else 'png'}")
        expected = grey if channels == 1 or name in ("grey", "16bit", "grey-alpha") else array
        expected = read_center_crop(save(tmp_path / "e.png", expected), (channels, 20, 20))
        assert (read_center_crop(path, (channels, 20, 20)).int() - expected.int()).abs().max() <= 4, name


def test_a_large_jpeg_is_nearly_what_all_its_pixels_are(tmp_path):
    array = folders.pixels(900, 1300, 2)
    whole = read_center_crop(save(tmp_path / "x.png", array), (3, 64, 64)).int()
    quick = read_center_crop(save(tmp_path / "x.jpg", array, quality=95), (3, 64, 64)).int()
    assert (whole - quick).abs().float().mean() < 1.5


@pytest.mark.parametrize("size", [(20, 30), (160, 240)])
def test_an_image_is_upright(tmp_path, size):
    upright = Image.fromarray(folders.pixels(*size, 3))
    upright.save(tmp_path / "e.jpg", quality=100, subsampling=0)
    expected = read_center_crop(tmp_path / "e.jpg", (3, 18, 12)).int()
    # What a camera that was held so has done.
    for orientation, turn in {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.items():
        lying = upright if turn is None else upright.transpose(Image.Transpose(turn))
        exif = Image.Exif()
        exif[0x112] = orientation
        lying.save(tmp_path / "x.jpg", quality=100, subsampling=0, exif=exif)
        found = read_center_crop(tmp_path / "x.jpg", (3, 18, 12)).int()
        assert (found - expected).abs().float().mean() < 3, orientation


def jpeg(drawn, mode, width, height, **options):
    small = np.frombuffer(drawn.randbytes(27 * 9), dtype=np.uint8).reshape(9, 9, 3)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=drawn.choice([30, 75, 95]), **options)
    return file.getvalue()


def read(path, channels, monkeypatch, *, by_pillow):
    """The pixels, or the error."""
    with monkeypatch.context() as patch:
        if by_pillow:
            patch.setattr(images, "_decode_jpeg", lambda *_: None)
        try:
            return read_center_crop(path, (channels, 32, 40))
        except UserError as error:
            return str(error)


@pytest.mark.parametrize("damage", ["none", "bytes", "end"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_what_pillow_makes_of_it(drawn, tmp_path, monkeypatch, mode, damage):
    path = tmp_path / "a.jpg"
    for _ in range(40):
        exif = Image.Exif()
        exif[274] = drawn.choice([1, 1, 6])
        options = {"progressive": drawn.random() < 0.3, "exif": exif.tobytes()}
        content = bytearray(jpeg(drawn, mode, drawn.randint(1, 90), drawn.randint(1, 90), **options))
        if damage == "bytes":
            for _ in range(drawn.randint(1, 4)):
                content[drawn.randrange(2, len(content) - 2)] = drawn.randrange(256)
        path.write_bytes(content[: drawn.randrange(2, len(content))] if damage == "end" else content)
        for channels in (1, 3):
            ours, pillows = (read(path, channels, monkeypatch, by_pillow=each) for each in (False, True))
            assert type(ours) is type(pillows)
            assert torch.equal(ours, pillows) if isinstance(ours, torch.Tensor) else ours == pillows
            assert damage != "none" or isinstance(ours, torch.Tensor)
