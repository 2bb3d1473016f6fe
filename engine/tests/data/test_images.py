"""What is read of image files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from leyden.config.errors import UserError
from leyden.data import images

MODES = {"L": 1, "RGB": 3}


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
            return images.read_center_crop(path, (channels, 32, 40))
        except UserError as error:
            return str(error)


@pytest.mark.parametrize("damage", ["none", "bytes", "end"])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_what_pillow_makes_of_it(drawn, tmp_path, monkeypatch, mode, damage):
    path, num_images = tmp_path / "a.jpg", 0
    for _ in range(40):
        exif = Image.Exif()
        exif[274] = drawn.choice([1, 1, 6])
        options = {"progressive": drawn.random() < 0.3, "exif": exif.tobytes()}
        if mode == "RGB":
            options["subsampling"] = drawn.choice([0, 1, 2])
        content = bytearray(jpeg(drawn, mode, drawn.randint(1, 90), drawn.randint(1, 90), **options))
        if damage == "bytes":
            for _ in range(drawn.randint(1, 4)):
                content[drawn.randrange(2, len(content) - 2)] = drawn.randrange(256)
        path.write_bytes(content[: drawn.randrange(2, len(content))] if damage == "end" else content)
        for channels in (1, 3):
            ours, pillows = (read(path, channels, monkeypatch, by_pillow=each) for each in (False, True))
            assert type(ours) is type(pillows)
            assert torch.equal(ours, pillows) if isinstance(ours, torch.Tensor) else ours == pillows
            num_images += isinstance(ours, torch.Tensor)
    assert num_images > 20 or damage == "end"


def test_the_error_for_what_is_no_image_is_the_same_each_time(tmp_path, monkeypatch):
    (path := tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\x00 not a JPEG")
    error = read(path, 3, monkeypatch, by_pillow=True)
    assert error == f"{path}: not a PNG, JPEG or WebP image that can be read"


def test_a_jpeg_is_decoded_by_torchvision_unless_a_part_of_its_size_is_enough(drawn, tmp_path, monkeypatch):
    sizes, decode = [], images.decode_jpeg

    def counted(*arguments):
        sizes.append(tuple((pixels := decode(*arguments)).shape))
        return pixels

    monkeypatch.setattr(images, "decode_jpeg", counted)
    path = tmp_path / "a.jpg"
    for width in (40, 79, 80):
        path.write_bytes(jpeg(drawn, "RGB", width, 80))
        assert images.read_center_crop(path, (3, 40, 40)).shape == (3, 40, 40)
    assert sizes == [(3, 80, 40), (3, 80, 79)]
