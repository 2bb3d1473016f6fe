"""Verdicts on any table: what is a setting, what is refused, and the sentences."""

import math
import random
from decimal import Decimal

import numpy as np
import pytest
import torch

from leyden import verdict
from leyden.verdict.tables import Ranking


def table(num=3, noise=0.01, **more):
    """Runs of three models with two learning rates each; `cnn` is the best."""
    source = random.Random(0)
    return [
        {"model": model, "lr": lr, "seed": seed, "acc": mean + source.gauss(0, noise), **more}
        for model, mean in (("mlp", 0.9), ("moe", 0.93), ("cnn", 0.98))
        for lr in (0.1, 0.2)
        for seed in range(num)
    ]


def test_a_table_is_ranked_and_two_settings_are_compared():
    found = verdict.rank(table(), "acc", mode="max")
    assert [setting.choices["model"] for setting in found.settings[:2]] == ["cnn", "cnn"]
    text = str(found).splitlines()
    assert text[0].split() == ["row", "setting", "acc", "n"]
    assert text[7] == "With 95 % confidence the best setting is row 1 or one marked ≈."
    assert max(map(len, text)) <= 80
    compared = verdict.compare(table(), "acc", {"model": "mlp"}, {"model": "cnn"}, mode="max")
    text = str(compared).splitlines()
    assert text[3] == "Verdict: B is better"
    assert text[4].endswith("(3 pairs)")
    assert "Widened, since the two may be chosen among 6 settings; planned=true if not." in text
    assert max(map(len, text)) <= 80
    planned = verdict.compare(table(), "acc", {"model": "mlp"}, {"model": "cnn"}, mode="max", planned=True)
    assert planned.found.level > compared.found.level
    assert str(verdict.compare(table(), "acc", {"model": "mlp"}, {"model": "cnn"})).count("B is higher") == 1


def test_a_setting_whose_values_are_all_equal_is_named_and_what_its_number_of_runs_hides():
    rows = [row for row in table(5) if row["model"] != "mlp" or row["seed"] < 3]
    rows = [row if row["model"] != "cnn" else {**row, "acc": 0.99} for row in rows]
    compared = str(verdict.compare(rows, "acc", {"model": "moe"}, {"model": "cnn", "lr": 0.1}, mode="max"))
    assert "B: all values are equal; does the seed take effect?" in compared.splitlines()
    assert "Of 5 runs, one that fails in ten" in compared
    assert "Rows 1, 2: all values are equal" in str(verdict.rank(rows, "acc", mode="max"))


def test_what_compare_calls_better_is_excluded_by_rank():
    for noise in (0.01, 0.03, 0.05):
        rows = table(noise=noise)
        ranked = verdict.rank(rows, "acc", mode="max")
        best = ranked.settings[0].choices
        for setting, like in zip(ranked.settings[1:], ranked.like_best[1:], strict=True):
            found = verdict.compare(rows, "acc", best, setting.choices, mode="max")
            assert not found.found.better or like is False


def test_files_and_data_frames_are_the_same_table(tmp_path):
    rows = table()
    lines = [[*rows[0]], *(row.values() for row in rows)]
    for name, delimiter, begin in (
        ("a.csv", ",", ""),
        ("a.tsv", "\t", "\ufeff"),
        ("b.csv", ";", ""),
        ("c.csv", ", ", ","),
    ):
        text = "\n".join(("," if begin == "," else "") + delimiter.join(map(str, line)) for line in lines)
        (tmp_path / name).write_text(begin.strip(",") + text)

    class Frame:
        iterrows = None  # of pandas alone

        def to_dict(self, orient):
            assert orient == "records"
            return rows

    files = [verdict.read(path) for path in tmp_path.iterdir()]
    assert len({str(verdict.rank(each, "acc", mode="max")) for each in (rows, Frame(), *files)}) == 1


def test_an_export_has_columns_that_are_no_settings():
    rows = [{**row, "Name": f"run-{n}", "Runtime": 3.5 + n, "State": "finished"} for n, row in enumerate(table())]
    with pytest.raises(
        verdict.TableError, match=r"each row is a setting of its own; ignore= names .*: Name, Runtime"
    ):
        verdict.rank(rows, "acc", mode="max")
    assert len(verdict.rank(rows, "acc", mode="max", ignore=["Name", "Run*"]).settings) == 6


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ((1, 1.0, "1", 2), {"m=1", "m=2"}),
        (
            (np.int64(1), 1, np.float32(0.1), 0.1, torch.tensor(0.5), 0.5, Decimal("0.50")),
            {"m=1", "m=0.1", "m=0.5"},
        ),
        ((torch.tensor(0.50001), torch.tensor(0.50002)), {"m=0.5000100135803223", "m=0.5000200271606445"}),
        ((12345678901234567890, 12345678901234567891, 10**400), None),
        ((None, math.nan, 0.3, 0.1 + 0.2), {"m=null", "m=0.3", "m=0.30000000000000004"}),
        (([1, 2], np.array([1, 2]), {"x": 1}), {"m=[1, 2]", "m={'x': 1}"}),
        (("b\nx", "\x1b[31m"), {"m=b\nx", "m=\x1b[31m"}),
    ],
)
def test_equal_values_are_one_setting_whatever_their_type(settings, names):
    rows = [{"m": each, "seed": seed, "acc": str(seed)} for each in settings for seed in range(3)]
    found = verdict.rank(rows, "acc", mode="max")
    assert {each.name for each in found.settings} == (names or {f"m={each}" for each in settings})
    assert all(line.isprintable() for line in str(found).split("\n"))
    assert ("Runs that repeat another one count once" in str(found)) == (len(found.settings) < len(settings))


def test_names_that_look_like_numbers_and_cells_of_several_lines_are_kept(tmp_path):
    (tmp_path / "a.csv").write_text(
        "m,seed,acc\n" + "".join(f'"{m}",0,1\n' * 2 for m in ("1_2", "12", "007", "a\nb"))
    )
    assert {row["m"] for row in verdict.read(tmp_path / "a.csv")} == {"1_2", 12, "007", "a\nb"}


@pytest.mark.parametrize("sizes", [(1e300, 1e308), (1e149, 1e-149), (0, 0)])
def test_values_of_any_size_end_in_a_verdict_that_promises_nothing(sizes):
    rows = [{"m": m, "seed": seed, "loss": sizes[m % 2] * (1 + seed)} for m in range(4) for seed in range(3)]
    assert "worse by 0 " not in str(found := verdict.rank(rows, "loss", mode="min"))
    assert "up to 0 " not in str(found)
    assert str(verdict.compare(rows, "loss", {"m": 0}, {"m": 1}))


def test_gaps_and_repetitions_do_not_count():
    rows = table(4)
    rows[0]["acc"], rows[4]["acc"], rows[9]["acc"] = None, math.nan, "failed"
    rows += [dict(rows[-1]), dict(rows[-1])]
    found = verdict.rank(rows, "acc", mode="max")
    counts = {setting.name: (len(setting.values), setting.lost) for setting in found.settings}
    assert sorted(counts.values()) == [(3, 1), (3, 1), (3, 1), (4, 0), (4, 0), (4, 0)]
    assert "3 of 4" in str(found)
    assert "by the runs that finished" in str(found)
    assert "Finished runs only: 1 of A and" in str(verdict.compare(rows, "acc", {"model": "mlp"}, {"model": "moe"}))
    # Without a seed, each row is a run of its own.
    assert verdict.rank(rows, "acc", mode="max", seed=None, ignore=["seed"]).settings[0].lost == 0


def test_settings_are_ranked_over_several_data_sets():
    rows = [
        {**row, "data": name, "acc": row["acc"] - n / 10} for n, name in enumerate("abcdefghij") for row in table()
    ]
    found = verdict.rank(rows, "acc", mode="max", over="data")
    assert len(found.each) == 10
    assert all(isinstance(each, Ranking) and len(each.settings) == 6 for each in found.each.values())
    text = str(found)
    assert "Over 10 data sets, mean ranks closer than 2.38 can't be told apart" in text
    assert len(found.like_best) == 3
    assert all(name.startswith("model=cnn") for name in found.like_best[:2])
    # A value per data set is enough to rank over them.
    single = verdict.rank([row for row in rows if not row["seed"]], "acc", mode="max", over="data", seed=None)
    assert len(single.like_best) < 6
    few = verdict.rank([row for row in rows if row["data"] < "e"], "acc", mode="max", over="data")
    assert "Too few data sets have all settings, 4: to rank over them takes 5." in str(few)


def ranks(rows=None, metric="acc", mode="max", **options):
    return lambda: verdict.rank(table() if rows is None else rows, metric, mode=mode, **options)


def compares(a, b, **options):
    return lambda: verdict.compare(table(), "acc", a, b, **options)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (ranks([]), "the table has no rows"),
        (ranks(metric="loss"), "no column is named loss; there are model, lr, seed, acc"),
        (ranks(mode="best"), "mode=best: must be min or max"),
        (ranks(seed="s"), "no column is named s"),
        (ranks(look=0), "look=0: must be a positive whole number"),
        (ranks(over="acc"), "must be different columns"),
        (ranks("results.csv"), "a table is a list of dictionaries"),
        (ranks([{"\x1b[31m": 1}]), "there are \\x1b[31m"),
        (compares({"model": "rnn"}, {"model": "mlp"}), "a={'model': 'rnn'}: no row"),
        (compares({"net": "rnn"}, {"model": "mlp"}), "a: net is no setting; there are model, lr"),
        (compares({"model": "mlp", "seed": 0}, {"model": "moe"}), "a: seed is no set"),
        (compares({"lr": 0.1}, {"model": "mlp"}), "a and b share the setting"),
        (compares({"lr": 0.1}, {"lr": 0.2}, margin=-1), "margin=-1: must be a positive"),
        (lambda: verdict.read("/nowhere.csv"), "/nowhere.csv: can't be read as a table"),
        *(
            (ranks([*table(), {"acc": value}]), "is no number")
            for value in ("0,98", "98 %", [0.98], 10**400, 1j, "²")
        ),
    ],
)
def test_what_is_no_table_or_does_not_fit_it_is_refused_in_a_line(call, said):
    with pytest.raises(verdict.TableError) as error:
        call()
    assert said in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_damaged_file_is_refused_in_a_line(tmp_path):
    for text in (b"a,b\n1,2,3\n", b"a,b,a\n1,2,3\n", b"\xff\xfe\x00", b'"' + b"x" * 200000):
        (tmp_path / "a.csv").write_bytes(text)
        with pytest.raises(verdict.TableError) as error:
            ranks(verdict.read(tmp_path / "a.csv"), "a")()
        assert len(str(error.value).splitlines()) == 1
