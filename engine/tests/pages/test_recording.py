"""The picture at the top of the README says what the commands say today."""

import importlib.util
import re
from html import unescape

import pytest

from tests import ENGINE

PICTURE = ENGINE / "docs" / "images" / "killed.svg"
SHORT = ("trainer.max_epochs=2", "trainer.limit_train_batches=120", "data.val_size=40000", "callbacks=bare")


def shape(text):
    """Lines of a terminal without what differs between two recordings: numbers, and overrides that make one short."""
    text = " ".join(word for word in text.split() if word not in SHORT)
    return re.sub(
        r"\b[0-9a-f]{32}\b", "HASH", re.sub(r"\d+(\.\d+)?", "1", re.sub(r"\b[0-9a-f]{32}\b", "HASH", text))
    )


@pytest.mark.slow(minutes=0.4)
def test_a_new_recording_has_the_same_lines(tmp_path):
    spec = importlib.util.spec_from_file_location("recording", ENGINE / "scripts" / "recording.py")
    recording = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recording)
    lines = recording.record(tmp_path, SHORT, killed_at=119)
    shown = re.findall(r'<text class="killed-r\d+"[^>]*>(.*?)</text>', PICTURE.read_text())
    shown = {shape(unescape(line).replace("\xa0", " ")) for line in shown} - {""}
    assert {shape(line) for line in lines} - {""} == shown
    hashes = [line for line in lines if re.fullmatch(r"\d+,[0-9a-f]{32}", line)]
    assert len(hashes) == 2
    assert len({*hashes}) == 1
    assert (
        "http" not in re.sub(r'xmlns="\S+"', "", PICTURE.read_text()).partition("<style>")[2]
    )  # it asks no other host
