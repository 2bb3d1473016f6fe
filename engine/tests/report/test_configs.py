"""Configurations that are compared with a parsed one are what YAML makes of them."""

import random

import pytest

from leyden.config.errors import UserError
from leyden.config.values import flatten
from leyden.report.configs import Base, ConfigReader, FlatConfig
from leyden.run.directory import RunContents

TEXT = """\
name: mnist_mlp
seed: 3
data:
  root: /data/mnist
  size: [28, 28]
  flat: {a: 1, b: x}
  none: null
model:
  _target_: project.models.mlp.MLP
  hidden_sizes:
  - 512
  - 64
  dropout: 0.5  # of the inputs
  text: "a: 1"
  folded: one
    two
  block: |
    lr: 1
optimizer:
  lr: 1.0e-07
  groups: {}
  list:
  - a: 1
    b: 2
  - a: 3
objective:
  metric: val/acc
  mode: max
"""
# What else a stranger's file may have.
ODD = {
    "an anchor": TEXT.replace("seed: 3", "seed: &s 3") + "other: *s\n",
    "an anchor of a part": TEXT.replace("flat: {a: 1", "flat: &f {a: 1") + "other: {<<: *f}\n",
    "a merged part": TEXT + "other:\n  <<:\n    a: 1\n  b: 2\n",
    "a part that is merged elsewhere": TEXT + "base: &b\n  x: 1\n  y: 2\nother:\n  <<: *b\n",
    "more lines in YAML": "# a\u2028# b\nx1: 1\nx2: 1\nx3: 1\n" + TEXT,
    "still more lines in YAML": "# a\r# b\nx1: 1\nx2: 1\nx3: 1\n" + TEXT,
    "a tag": TEXT.replace("seed: 3", "seed: !!str 3"),
    "a repeated key": TEXT + "seed: 3\n",
    "a repeated part": TEXT + "model:\n  dropout: null\n",
    "keys that are numbers": TEXT + "1: 2\n1.5: 3\n",
    "several documents": TEXT + "---\na: 1\n",
    "other line ends": TEXT.replace("\n", "\r\n"),
    "letters": TEXT.replace("mnist_mlp", "é"),
    "a line separator": TEXT.replace("mnist_mlp", "a\u2028b"),
}
VALUES = ["0", "1", "-1", "+1", "1e3", "1.0e+3", ".5", "-.inf", ".nan", "0x1F", "0o17", "010", "1_000", "9" * 29]
VALUES += ["9" * 41, "0x" + "f" * 27, "null", "~", "true", "no", "yes", "y", "2026-01-01", "1:30", "a", "a.b", "-a"]
VALUES += [
    "---",
    "...",
    "",
    "'a'",
    "a:b",
    "a#b",
    "a b",
    "a: b",
    "a #b",
    "[1, 2]",
    "{a: 1}",
    "- a",
    "&a 1",
    "*s",
    "|",
]
VALUES += ["!!str 1"]


def read(text, tmp_path, reader):
    """The flat configuration, or the words of the refusal."""
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8", newline="")
    try:
        base, changed, config = reader.read(RunContents(tmp_path))
    except UserError as error:
        return str(error)
    flat = {**base.recorded, **changed}
    assert [*FlatConfig(base, changed)] == [*flat]
    return repr((flat, config.get("objective")))


def parse(text, tmp_path):
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8", newline="")
    run = RunContents(tmp_path)
    try:
        return repr((dict(flatten(run.recorded)), run.recorded.get("objective")))
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", ["as written", *ODD])
def test_one_value_after_another_is_replaced(name, tmp_path):
    text = ODD.get(name, TEXT)
    draw, reader, lines = random.Random(name), ConfigReader(), text.split("\n")
    expected = parse(text, tmp_path)
    for number, line in enumerate(lines):
        head, separator, _ = line.rpartition(": ") if ": " in line else line.rpartition("- ")
        for value in draw.sample(VALUES, 9) if separator else ():
            other = "\n".join([*lines[:number], head + separator + value, *lines[number + 1 :]])
            assert read(other, tmp_path, reader) == parse(other, tmp_path), (line, value)
        assert read(text, tmp_path, reader) == expected


def test_any_characters_are_replaced(tmp_path):
    draw, reader = random.Random(0), ConfigReader()
    alphabet = "01e-.x_aA:#[]{},'\"&*!|>%@?~ \n\t"
    for _ in range(500):
        text = ODD[draw.choice([*ODD])] if draw.random() < 0.2 else TEXT
        for _ in range(draw.choice((1, 1, 2, 3))):
            start = draw.randrange(len(text))
            text = text[:start] + draw.choice(alphabet) + text[start + draw.choice((0, 1, 1)) :]
        assert read(text, tmp_path, reader) == parse(text, tmp_path), text


def test_alike_configurations_are_parsed_once(tmp_path, monkeypatch):
    parsed = []
    original = RunContents.parse_config
    monkeypatch.setattr(RunContents, "parse_config", lambda run, text: parsed.append(1) or original(run, text))
    reader = ConfigReader()
    for seed in range(5):
        text = TEXT.replace("seed: 3", f"seed: {seed}").replace("- 64", f"- {seed}").replace("1.0e-07", f"0.{seed}")
        assert f"'model.hidden_sizes': [512, {seed}]" in read(text, tmp_path, reader)
    assert len(parsed) == 1


def test_targets_have_the_packages_current_name(monkeypatch):
    monkeypatch.setattr("leyden.report.configs.current_target", lambda target: f"new.{target}")
    config = FlatConfig(Base({"a._target_": "x", "b._target_": "x", "_target_": 1, "c": "x"}), {"b._target_": "y"})
    assert dict(config) == {"a._target_": "new.x", "b._target_": "new.y", "_target_": 1, "c": "x"}


def test_a_flat_config_is_a_mapping():
    config = FlatConfig(Base({"a": 1, "b": None}), {"b": 2, "c": 3})
    assert dict(config) == {"a": 1, "b": 2, "c": 3}
    assert len(config) == 3
    assert ("b" in config, "d" in config, config.get("d", 0)) == (True, False, 0)
    with pytest.raises(KeyError):
        config["d"]
