"""Verdicts on any table: what is a setting, what is refused, and the sentences."""

import math
import random
import re
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leyden import verdict


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
    text = str(verdict.rank(table(), "acc", mode="max")).splitlines()
    assert text[0].split() == ["row", "setting", "acc", "n"]
    assert [line.split()[1] for line in text[1:3]] == ["model=cnn", "model=cnn"]
    assert text[7] == "With 95 % confidence the best setting is row 1 or one marked ≈."
    assert text[8] == "Ask leyden compare before you claim that a certain row is worse."
    of_four = [row for row in table() if row["model"] != "moe"]
    assert "leyden compare" not in str(verdict.rank(of_four, "acc", mode="max"))
    assert max(map(len, text)) <= 80
    sides = table(), "acc", {"model": "mlp"}, {"model": "cnn"}
    compared = verdict.compare(*sides, mode="max")
    text = str(compared).splitlines()
    assert text[3] == "Verdict: B is better"
    assert text[4].endswith("(3 pairs)")
    assert "Add planned=true if both were named before any result: now all 15 pairs count." in text
    assert max(map(len, text)) <= 80
    assert verdict.compare(*sides, mode="max", planned=True).found.level > compared.found.level
    assert "B is higher" in str(verdict.compare(*sides))
    for noise in (0.01, 0.03, 0.05):  # what `compare` calls better is excluded by `rank`
        rows = table(noise=noise)
        ranked = verdict.rank(rows, "acc", mode="max")
        best, *others = [setting.choices for setting in ranked.settings]
        for choices, like in zip(others, ranked.like_best[1:], strict=True):
            found = verdict.compare(rows, "acc", best, choices, mode="max")
            assert not found.found.better or like is False


def test_a_notebook_shows_the_text_escaped():
    rows = [{**row, "model": f"<b>{row['model']}&"} for row in table()]
    found = verdict.rank(rows, "acc", mode="max")._repr_html_()
    assert "model=&lt;b&gt;cnn&amp;" in found
    assert (found.count("<"), found[:5], found[-6:]) == (2, "<pre>", "</pre>")


def test_files_and_data_frames_are_the_same_table(tmp_path):
    rows = table()
    lines = [[*rows[0]], *(row.values() for row in rows)]
    forms = [
        ("a.csv", ",", "", ""),
        ("a.tsv", "\t", "\ufeff", ""),
        ("b.csv", ";", "", ""),
        ("c.csv", ", ", "", ","),
    ]
    for name, delimiter, begin, index in forms:
        (tmp_path / name).write_text(
            begin + "\n".join(index + delimiter.join(map(str, line)) for line in lines)
        )
    frame = SimpleNamespace(iterrows=None, to_dict={"records": rows}.__getitem__)  # of pandas
    of_polars = SimpleNamespace(to_dicts=lambda: rows)
    by_number = []
    for row in rows:
        others = {key: value for key, value in row.items() if key != "lr"}
        by_number.append({**others, 1.5: row["lr"]})
    assert len(verdict.rank(by_number, "acc", mode="max").settings) == 6
    files = [verdict.read(path) for path in tmp_path.iterdir()]
    assert (
        len(
            {
                str(verdict.rank(each, "acc", mode="max"))
                for each in (rows, frame, of_polars, *files)
            }
        )
        == 1
    )
    cells = [f'"{cell}",0,1\n' * 2 for cell in ("1_2", "12", "007", "a\nb")] + [
        "12 ,0,1\n007 ,0,1\n"
    ]
    (tmp_path / "names.csv").write_text("m,seed,acc\n" + "".join(cells))
    assert {row["m"] for row in verdict.read(tmp_path / "names.csv")} == {"1_2", 12, "007", "a\nb"}
    (tmp_path / "twice.csv").write_text("m,seed,acc\nx,0,1\nm,seed,acc\nx,1,2\n")
    with pytest.raises(verdict.TableError, match="the header stands in it again"):
        verdict.read(tmp_path / "twice.csv")
    # An export has columns that are no settings.
    rows = [
        {**row, "Name": f"run-{n}", "Runtime": 3.5 + n, "State": "finished"}
        for n, row in enumerate(rows)
    ]
    with pytest.raises(
        verdict.TableError, match=r"a setting of its own; ignore= names .*: Name, Runtime"
    ):
        verdict.rank(rows, "acc", mode="max")
    assert len(verdict.rank(rows, "acc", mode="max", ignore=["Name", "Run*"]).settings) == 6


HUGE = (12345678901234567890, 12345678901234567891, 10**400)
SETTINGS = [
    ((1, 1.0, "1", 2), {"m=1", "m=2"}),
    ((np.int64(1), 1, torch.tensor(0.5), 0.5, Decimal("0.50")), {"m=1", "m=0.5"}),
    ((np.float32(0.1), 0.1, 1), {"m=0.1", "m=1"}),
    (
        (torch.tensor(0.50001), torch.tensor(0.50002)),
        {"m=0.5000100135803223", "m=0.5000200271606445"},
    ),
    (HUGE, {f"m={each}" for each in HUGE}),
    ((None, math.nan, 0.3, 0.1 + 0.2), {"m=null", "m=0.3", "m=0.30000000000000004"}),
    (([1, 2], np.array([1, 2]), {"x": 1}), {"m=[1, 2]", "m={'x': 1}"}),
    (("b\nx", "\x1b[31m"), {"m=b\nx", "m=\x1b[31m"}),
]


@pytest.mark.parametrize(("settings", "names"), SETTINGS)
def test_equal_values_are_one_setting_whatever_their_type(settings, names):
    rows = [{"m": each, "seed": seed, "acc": str(seed)} for each in settings for seed in range(3)]
    found = verdict.rank(rows, "acc", mode="max")
    assert {each.name for each in found.settings} == names
    assert all(line.isprintable() for line in str(found).split("\n"))
    assert ("Runs that repeat another one count once" in str(found)) == (
        len(found.settings) < len(settings)
    )


def test_gaps_repetitions_and_equal_values_are_named():
    rows = table(4)
    rows[0]["acc"], rows[4]["acc"], rows[9]["acc"] = None, math.nan, "failed"
    rows += [dict(rows[-1]), dict(rows[-1])]
    found = verdict.rank(rows, "acc", mode="max")
    counts = {setting.name: (len(setting.values), setting.lost) for setting in found.settings}
    assert sorted(counts.values()) == [(3, 1), (3, 1), (3, 1), (4, 0), (4, 0), (4, 0)]
    assert "3 of 4" in str(found)
    assert "by the runs that finished" in str(found)
    assert "Finished runs only: 1 of A and" in str(
        verdict.compare(rows, "acc", {"model": "mlp"}, {"model": "moe"})
    )
    # Without a seed, each row is a run of its own.
    assert verdict.rank(rows, "acc", mode="max", seed=None, ignore=["seed"]).settings[0].lost == 0
    unpaired = verdict.compare(
        rows, "acc", {"model": "mlp"}, {"model": "moe"}, seed=None, ignore="seed"
    )
    assert "(not paired)" in str(unpaired)
    rows = [{**row, "acc": 0.99} if row["model"] == "cnn" else row for row in table(5)]
    compared = str(
        verdict.compare(rows, "acc", {"model": "moe"}, {"model": "cnn", "lr": 0.1}, mode="max")
    )
    assert "B: all values are equal; does the seed take effect?" in compared.splitlines()
    assert (
        "Add runs up to 16 to see failures in 1 of 10: 5 miss one with probability 59 %."
        in compared
    )


def test_values_of_any_size_end_in_a_verdict_that_promises_nothing():
    for sizes in ((1e300, 1e308), (1e149, 1e-149), (0, 0)):
        rows = [
            {"m": m, "seed": seed, "loss": sizes[m % 2] * (1 + seed)}
            for m in range(4)
            for seed in range(3)
        ]
        assert not re.search("(worse by|up to) 0 ", str(verdict.rank(rows, "loss", mode="min")))
        assert str(verdict.compare(rows, "loss", {"m": 0}, {"m": 1}))


def test_settings_are_ranked_over_several_data_sets():
    rows = [
        {**row, "data": name, "acc": row["acc"] - ord(name) / 10}
        for name in "abcdefghij"
        for row in table()
    ]
    found = verdict.rank(rows, "acc", mode="max", over="data")
    assert [len(each.settings) for each in found.each.values()] == 10 * [6]
    assert "Over 10 data sets, mean ranks closer than 2.47 can't be told apart" in str(found)
    assert len(found.like_best) == 3
    assert found.remarks[-1] == "Ask leyden compare before you claim that a certain row is worse."
    assert all(name.startswith("model=cnn") for name in found.like_best[:2])
    # A value per data set is enough to rank over them.
    single = verdict.rank(
        [row for row in rows if not row["seed"]], "acc", mode="max", over="data", seed=None
    )
    assert len(single.like_best) < 6
    few = verdict.rank([row for row in rows if row["data"] < "e"], "acc", mode="max", over="data")
    assert "Add data sets: 4 have all settings, and a ranking takes 5." in str(few)
    none = verdict.rank(
        [row for row in rows if (row["model"] == "mlp") == (row["data"] < "e")],
        "acc",
        mode="max",
        over="data",
    )
    assert {*none.shown.values()} == {"-"}


def ranks(rows=None, metric="acc", mode="max", **options):
    return lambda: verdict.rank(table() if rows is None else rows, metric, mode=mode, **options)


def compares(a, b, **options):
    return lambda: verdict.compare(table(), "acc", a, b, **options)


NO_NUMBERS = ["0,98", "98 %", [0.98], 10**400, 1j, "²"]
REFUSED = [
    (ranks([]), "the table has no rows"),
    (ranks(metric="loss"), "no column is named loss; there are model, lr, seed, acc"),
    (ranks(mode="best"), "mode=best: must be min or max"),
    (ranks(seed="s"), "no column is named s"),
    (ranks(look=0), "look=0: must be a positive whole number"),
    (ranks(looks=-1), "looks=-1: must be a whole number, 0 or more"),
    (lambda: verdict.plan(1.0, difference=-1), "difference=-1: must be a positive number"),
    (lambda: verdict.plan(1.0, runs=9, seconds=-1), "seconds=-1: must be a positive number"),
    (ranks(over="acc"), "must be different columns"),
    (ranks("results.csv"), "a table is a list of dictionaries"),
    (ranks([{"\x1b[31m": 1}]), "there are \\x1b[31m"),
    (compares({"model": "rnn"}, {"model": "mlp"}), "a={'model': 'rnn'}: no row"),
    (compares({"net": "rnn"}, {"model": "mlp"}), "a: net is no setting; there are model, lr"),
    (compares({"model": "mlp", "seed": 0}, {"model": "moe"}), "a: seed is no set"),
    (compares({"lr": 0.1}, {"model": "mlp"}), "a and b share the setting"),
    (compares({"lr": 0.1}, {"lr": 0.2}, margin=-1), "margin=-1: must be a positive"),
    (ranks([*table(), {**table()[0], "seed": None}]), "seed: a row has none"),
    (lambda: verdict.read("/nowhere.csv"), "/nowhere.csv: can't be read as a table"),
    (
        ranks([{**row, "State": "crashed" if row["seed"] else "finished"} for row in table()]),
        "State: says how runs",
    ),
    (ranks(SimpleNamespace(collect=None)), "a lazy frame has no rows yet"),
    (
        ranks(mode=""),
        "mode= is missing: min or max, the better direction",
    ),
    (
        lambda: verdict.compare_with_control(table(), "acc", {"lr": 0.1}, mode="max"),
        "control: must be one",
    ),
    *((ranks([*table(), {"acc": each}]), "is no number") for each in NO_NUMBERS),
]
DAMAGED = (b"a,b\n1,2,3\n", b"a,b,a\n1,2,3\n", b"\xff\xfe\x00", b'"' + b"x" * 200000)


def test_what_is_no_table_or_does_not_fit_it_is_refused_in_a_line(tmp_path):
    for number, text in enumerate(DAMAGED):
        (tmp_path / f"{number}.csv").write_bytes(text)
    files = [
        (lambda path=path: ranks(verdict.read(path), "a")(), "") for path in tmp_path.iterdir()
    ]
    for call, said in (*REFUSED, *files):
        with pytest.raises(verdict.TableError) as error:
            call()
        assert said in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def runs(model, values, **more):
    """Runs of a model with these accuracies, by seed."""
    return [{"model": model, "seed": seed, "acc": acc, **more} for seed, acc in enumerate(values)]


GOOD, NEAR = [0.950, 0.954, 0.946, 0.952, 0.948], [0.930, 0.927, 0.934, 0.929, 0.931]
OTHERS = {
    "diverged": [-1e12, -1e11, -3e11, -2e12, -1e10],
    "unstable": [0.1, 0.9, 0.5, 0.3, 0.8],
    "constant": [0.1] * 5,
}


def test_no_other_row_decides_a_planned_pair():
    pair = [*runs("a", GOOD), *runs("b", NEAR)]
    found = set()
    for number in range(len(OTHERS) + 1):
        others = [*OTHERS.items()][:number]
        rows = pair + [row for name, values in others for row in runs(name, values)]
        compared = verdict.compare(
            rows, "acc", {"model": "a"}, {"model": "b"}, mode="max", planned=True
        )
        found.add(str(compared))
    assert len(found) == 1
    assert "Verdict: A is better" in found.pop()


@pytest.mark.parametrize("name", OTHERS)
def test_a_wild_row_silences_nobody(name):
    rows = [*runs("a", GOOD), *runs("b", NEAR), *runs("c", NEAR), *runs(name, OTHERS[name])]
    found = verdict.rank(rows, "acc", mode="max")
    like = dict(zip((setting.name for setting in found.settings), found.like_best, strict=True))
    assert like["model=b"] is False
    assert like["model=c"] is False
    compared = verdict.compare(rows, "acc", {"model": "a"}, {"model": "b"}, mode="max")
    assert compared.found.better == "a"


def test_values_vary_or_not_whatever_their_size():
    energies = (
        [-75999.997 + 0.006 * value for value in GOOD],
        [-75999.9 + 0.006 * value for value in NEAR],
    )
    rows = [*runs("a", energies[0]), *runs("b", energies[1])]
    assert (
        verdict.compare(rows, "acc", {"model": "a"}, {"model": "b"}, mode="min").found.better == "a"
    )
    equal = [*runs("a", [0.1 + 0.2, 0.3, 0.3]), *runs("b", [0.5] * 3)]
    assert "the values don't vary" in str(
        verdict.compare(equal, "acc", {"model": "a"}, {"model": "b"})
    )


def test_pairs_are_taken_from_four_seeds_where_that_was_planned():
    source = random.Random(3)
    common = [source.gauss(0, 1) for _ in range(5)]
    a = [each + 0.1 * source.gauss(0, 1) + 0.5 for each in common]
    b = [each + 0.1 * source.gauss(0, 1) for each in common]
    rows = [*runs("a", a), *runs("b", b)]
    sides = rows, "acc", {"model": "a"}, {"model": "b"}
    assert verdict.compare(*sides, mode="max").found.num_pairs == 0
    for asked in ({"planned": True}, {"pairs": True}):
        found = verdict.compare(*sides, mode="max", **asked)
        assert (found.found.num_pairs, found.found.better) == (5, "a")
    # One more run of A alone: what is compared is said.
    more = [*rows, {"model": "a", "seed": 9, "acc": -50.0}]
    text = str(verdict.compare(more, *sides[1:], mode="max", planned=True))
    assert "Over the 5 seeds that both have: A " in text


SIDES = {"model": "a"}, {"model": "b"}


def over_sets(num, a=0.0, b=0.0, num_runs=2):
    """Runs of each of two models on each data set."""
    source = random.Random(num)
    rows = []
    for data in range(num):
        for model, mean in (("a", a), ("b", b)):
            rows += runs(
                model, [mean + source.gauss(0, 1) + data for _ in range(num_runs)], data=f"d{data}"
            )
    return rows


def test_two_settings_on_several_data_sets_are_compared_on_each_and_over_all():
    sides = SIDES
    with pytest.raises(
        verdict.TableError, match="several values of data, such as d0 and d1: over=data"
    ):
        verdict.compare(over_sets(6), "acc", *sides, mode="max")
    on_one = {"model": "a", "data": "d0"}, {"model": "b", "data": "d0"}
    assert verdict.compare(over_sets(6), "acc", *on_one, mode="max").found.nums == (2, 2)
    for a, said in ((0.0, "can't be told apart"), (9.0, "A is better"), (-9.0, "B is better")):
        rows = over_sets(6, a)
        found = verdict.compare(rows, "acc", *sides, mode="max", over="data")
        assert f"Verdict over 6 data sets: {said}" in str(found)
        best = verdict.rank(rows, "acc", mode="max", over="data").like_best
        assert len(best) == (2 if "apart" in said else 1)
    assert found.over.p_value == 2 / 2**6
    # The second look spends less than six data sets can show.
    later = verdict.compare(rows, "acc", *sides, mode="max", over="data", look=2)
    assert "can't be told apart" in str(later)
    # Of three settings, the two may have been chosen among three pairs.
    third = [{**row, "model": "c"} for row in rows if row["model"] == "a"]
    for planned, said in ((False, "can't be told apart"), (True, "B is better")):
        found = verdict.compare(
            [*rows, *third], "acc", *sides, mode="max", over="data", planned=planned
        )
        assert f"Verdict over 6 data sets: {said}" in str(found)
    two = [*over_sets(6), *runs("a", [0.5], data="d0", lr=1)]
    with pytest.raises(verdict.TableError, match="a: over=data takes one setting a side"):
        verdict.compare(two, "acc", *sides, mode="max", over="data")


def lossy_sets(num_left):
    """Three runs of each of two models on each of nine data sets; of a some have no value."""
    rows = []
    for row in over_sets(9, a=9.0, num_runs=3):
        is_lost = row["model"] == "a" and row["seed"] >= num_left
        rows.append({**row, "acc": math.nan if is_lost else row["acc"]})
    return rows


@pytest.mark.parametrize("num_left", [0, 1, 2])
def test_data_sets_with_few_runs_left_count_for_no_verdict_over_them(num_left):
    rows = lossy_sets(num_left)
    said = f"Runs without a value: {9 * (3 - num_left)}."
    found = verdict.compare(rows, "acc", *SIDES, mode="max", over="data")
    assert not found.facts()["better"]
    assert "Add data sets: 0 have all settings, and a ranking takes 6." in str(found)
    assert said in str(found)
    ranked = verdict.rank(rows, "acc", mode="max", over="data")
    assert not ranked.like_best
    assert ranked.shown["model=a"] == "-"
    # A setting without runs keeps no verdict from the other two.
    base = [row for row in over_sets(9, b=20.0, num_runs=3) if row["model"] == "b"]
    third = [{**row, "model": "c"} for row in base]
    ranked = verdict.rank([*rows, *third], "acc", mode="max", over="data")
    assert ranked.like_best == ("model=c",)
    assert said in str(ranked)


def test_a_verdict_over_data_sets_says_that_runs_were_lost():
    rows = over_sets(9, a=9.0, num_runs=4)
    rows = [{**row, "acc": math.nan if row["seed"] == 3 else row["acc"]} for row in rows]
    found = verdict.compare(rows, "acc", *SIDES, mode="max", over="data")
    assert "Verdict over 9 data sets: A is better, by the runs that finished" in str(found)
    assert found.facts()["lost"] == 18
    apart = verdict.compare_with_control(rows, "acc", {"model": "a"}, mode="max", over="data")
    assert "Runs without a value, which are not counted: 2." in str(apart)


def test_data_sets_that_are_mixed_are_refused_or_named():
    rows = over_sets(3)
    sides = {"model": "a", "data": "d0"}, {"model": "b"}

    def not_the_last(row):
        return row["data"] != "d2" and row["model"] == "b"

    not_the_last.columns = ("data", "model")
    for a, b in (sides, sides[::-1], (sides[0], not_the_last)):
        with pytest.raises(verdict.TableError, match="several values of data, such as d0 and d1"):
            verdict.compare(rows, "acc", a, b, mode="max")
    said = "over=data where data names the data set: these rows mix several."
    assert verdict.rank(rows, "acc", mode="max").remarks[0] == f"Say {said}"
    with pytest.raises(verdict.TableError, match="several values of data, such as d0 and d1"):
        verdict.compare_with_control(rows, "acc", sides[0], mode="max")
    apart = verdict.compare_with_control(rows, "acc", {"model": "a"}, mode="max", over="data")
    assert [*apart.each] == ["d0", "d1", "d2"]
    assert {each.control.name for each in apart.each.values()} == {"model=a"}
    one = [row for row in rows if row["data"] == "d0"]
    assert said not in str(verdict.rank(one, "acc", mode="max"))


def test_a_row_that_diverges_changes_no_size_that_is_printed():
    rows = [*runs("a", GOOD), *runs("b", NEAR), *runs("c", [each - 0.003 for each in GOOD])]
    texts = []
    for wild in (0.0, 1e5):
        last = runs("d", [0.5 + 0.004 * n - wild * sign for n, sign in enumerate((0, 1, -1, 2, 3))])
        texts.append("\n".join(verdict.rank([*rows, *last], "acc", mode="max").remarks))
    sizes = [float(re.search(r"up to ([0-9.e+-]+) too good", text)[1]) for text in texts]
    assert max(sizes) < 0.003, texts


def test_runs_are_advised_only_where_they_show_more():
    for num in range(3, 29):
        a = [0.1 * (seed % 4) for seed in range(num)]
        found = verdict.compare(
            [*runs("a", a), *runs("b", a[::-1])], "acc", {"model": "a"}, {"model": "b"}
        )
        sizes = [*map(float, re.findall(r"(?:difference of|, and) (\S+) (?:shows|is)", str(found)))]
        assert sizes == sorted(sizes, reverse=True)


def test_settings_are_compared_with_a_control():
    rows = [
        *runs("base", GOOD),
        *runs("worse", NEAR),
        *runs("equal", GOOD[::-1]),
        *runs("wild", OTHERS["unstable"]),
    ]
    rows += runs("better", [0.99, 0.991, 0.992, 0.99, 0.989])
    found = verdict.compare_with_control(rows, "acc", {"model": "base"}, mode="max")
    verdicts = [each.in_words("better", "worse") for each in found.found]
    assert verdicts[:2] == ["better is better", "can't be told apart"]
    assert [one.name for one in found.settings] == [
        f"model={name}" for name in ("better", "equal", "worse", "wild")
    ]
    assert found.found[2].better == "b"
    assert found.found[0].level == pytest.approx(0.0375 / 4)
    lines = str(found).splitlines()
    assert lines[1].endswith("control")
    assert lines[2].endswith("better")
    assert lines[4].endswith("worse")
    assert lines[-1] == "Intervals of 99.06 %, together 96.25 %: 4 comparisons with the control."
    few = "Add runs: 1 setting has fewer than 3, and can't be compared."
    assert few not in lines
    rows += runs("few", [0.9])
    again = verdict.compare_with_control(rows, "acc", {"model": "base"}, mode="max")
    assert few in str(again).splitlines()
