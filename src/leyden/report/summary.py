"""Many runs as one table and picture, with remarks: which is best, which have not finished, what to do next."""

import csv
import io
import json
import math
import os
import shlex
import statistics
import warnings
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from leyden.config.objective import Objective
from leyden.config.terminal import Terminal, quoted_override, text_table
from leyden.report.held_out import test_set_remarks
from leyden.report.listing import as_json, format_value
from leyden.report.ranking import MARK, Contenders, Row, contenders, described, merge, pareto_front, varied
from leyden.report.records import Record, position, read_records
from leyden.run.directory import Run
from leyden.run.files import write_whole

NUM_TICKS = 6  # values that are written at the axis one by one
MAX_LABEL = 24  # characters; of longer texts, as paths, the end tells more


def draw_summary(
    points: Sequence[tuple[dict[str, Any], Sequence[float]]],
    metrics: Sequence[str],
    *,
    log: Collection[str] | None,
    averaged: Collection[str],
    further: Sequence[Callable[[Any], None]] = (),
) -> bytes:
    """Draw each objective against each choice that varies: one point per run, a line through the means.

    Several objectives are drawn against the first one, too. A run without a choice has no point in its panel.

    Args:
        points: Choices and objectives of each run.
        metrics: Names of the objectives.
        log: The choices with a logarithmic axis; None: those whose values span about a decade or more.
        averaged: Those that are no settings, and have no axis where there is another one.
        further: Draw panels of their own, each on the axes that it is given; they stand in the last row.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps state

    choices = [chosen for chosen, _ in points]
    several = [key for key in varied(choices) if len({str(c[key]) for c in choices if key in c}) > 1]
    keys = [key for key in several if key not in averaged] or several
    if not keys:
        choices, keys = [{"run": number + 1} for number in range(len(points))], ["run"]
    num_columns = max(len(keys) + (len(metrics) > 1), len(further))
    num_rows = len(metrics) + bool(further)
    figure = Figure(figsize=(4 * num_columns, 3.5 * num_rows), layout="constrained")
    for row, metric in enumerate(metrics):
        panels = [
            (key, [(c[key], v[row]) for c, (_, v) in zip(choices, points, strict=True) if key in c]) for key in keys
        ]
        if row:
            panels.append((metrics[0], [(values[0], values[row]) for _, values in points]))
        for column, (name, along) in enumerate(panels):
            axes = figure.add_subplot(num_rows, num_columns, row * num_columns + column + 1)
            _scatter(axes, along, log=None if log is None else name in log, line=name in keys)
            axes.set_xlabel(name)
            axes.set_ylabel(metric)
            axes.grid(alpha=0.3)
    for column, draw_panel in enumerate(further):
        draw_panel(figure.add_subplot(num_rows, num_columns, len(metrics) * num_columns + column + 1))
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    return content.getvalue()


def shorten(text: str) -> str:
    """The end of a text that is too long for an axis."""
    return text if len(text) <= MAX_LABEL else f"…{text[1 - MAX_LABEL :]}"


def _scatter(axes: Any, points: Sequence[tuple[Any, float]], *, log: bool | None, line: bool) -> None:
    numeric = all(_is_number(x) for x, _ in points)
    order = sorted({_text(x): x for x, _ in points}.items(), key=lambda item: _rank(item[1]))
    place = {text: x if numeric else number for number, (text, x) in enumerate(order)}
    axes.scatter([place[_text(x)] for x, _ in points], [y for _, y in points], s=18, alpha=0.7)
    if line:
        means = [statistics.fmean(y for x, y in points if _text(x) == text) for text, _ in order]
        axes.plot(list(place.values()), means, alpha=0.6)
    values = list(place.values())
    if not numeric:
        axes.set_xticks(values, [shorten(text) for text in place], rotation=20)
    elif values and values[0] > 0 and (values[-1] / values[0] > 9 if log is None else log):
        axes.set_xscale("log")
        if len(values) <= NUM_TICKS:
            axes.set_xticks(values, [f"{x:g}" for x in values])
            axes.set_xticks([], minor=True)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _text(x: Any) -> str:
    return "null" if x is None else str(x)


def _rank(x: Any) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    return (False, x, "") if _is_number(x) else (True, 0.0, _text(x))


LEAST = 10  # settings; fewer tell nothing of importance
NUM_TOP = 5  # settings at least that are compared with all; Optuna's advice


def search_panels(rows: Sequence[Row], aim: Objective, log: Collection[str]) -> list[Callable[[Any], None]]:
    """What draws the panels, each on the axes that it is given. Few settings have none.

    Args:
        rows: Settings, each the mean over its runs.
        aim: What was searched for.
        log: The keys that were searched by orders of magnitude.
    """
    found = []
    for row in rows:
        if (finished := row.finished) and math.isfinite(
            mean := statistics.fmean(record.values[0] for record in finished)
        ):
            ends = [record.ended for record in finished if record.ended is not None]
            found.append((row.choices, mean, max(ends) if len(ends) == len(finished) else None))
    drawn: list[Callable[[Any], None]] = []
    shares = importances([(choices, mean) for choices, mean, _ in found], aim.mode, log)
    if shares:
        drawn.append(lambda axes: _draw_importances(axes, shares))
    known = [(end, mean) for _, mean, end in found if end is not None]
    if len(known) == len(found) > 1:
        history = [mean for _, mean in sorted(known, key=lambda each: each[0])]
        drawn.append(lambda axes: _draw_history(axes, history, aim))
    return drawn


def importances(found: Sequence[tuple[dict[str, Any], float]], mode: str, log: Collection[str]) -> dict[str, float]:
    """How much each key decides whether a setting is among the best, as shares of one, by PED-ANOVA.

    A key that only some settings have counts where it is (Watanabe et al., PED-ANOVA, IJCAI 2023, and Optuna's extension to
    conditional keys). Empty where there are fewer than `LEAST` settings, or where all are equally good.

    Args:
        found: Choices and value of each setting.
        mode: `min` or `max`: what is better.
        log: The keys that were searched by orders of magnitude.
    """
    keys = list(dict.fromkeys(key for choices, _ in found for key in choices))
    share = max(0.1, NUM_TOP / max(1, len(found)))
    order = sorted((value for _, value in found), reverse=mode == "max")
    if not keys or len(found) < LEAST or order[math.ceil(share * len(found)) - 1] == order[-1]:
        return {}
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {key: _distribution([c[key] for c, _ in found if key in c], key in log) for key in keys}
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    for choices, value in found:
        own = {key: distributions[key] for key in choices}
        params = {
            key: str(choice) if isinstance(own[key], optuna.distributions.CategoricalDistribution) else choice
            for key, choice in choices.items()
        }
        study.add_trial(optuna.create_trial(params=params, distributions=own, value=value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a key that hardly any setting has, or lacks
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=share))


def _distribution(values: Sequence[Any], log: bool) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in values)
    if not numeric:
        return CategoricalDistribution(list(dict.fromkeys(map(str, values))))
    low, high = min(values), max(values)
    log = log and low > 0
    if all(isinstance(x, int) for x in values):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _draw_importances(axes: Any, shares: dict[str, float]) -> None:
    ordered = sorted(shares.items(), key=lambda item: item[1])
    bars = axes.barh([shorten(key) for key, _ in ordered], [share for _, share in ordered])
    axes.bar_label(bars, [f" {share:.2f}" for _, share in ordered])
    axes.set_xlim(0, 1.15)
    axes.set_xlabel("importance (PED-ANOVA)")


def _draw_history(axes: Any, history: Sequence[float], aim: Objective) -> None:
    numbers = range(1, len(history) + 1)
    axes.scatter(numbers, history, s=18, alpha=0.7)
    best = list(accumulate(history, max if aim.mode == "max" else min))
    axes.step(numbers, best, where="post", alpha=0.6, label="best so far")
    axes.legend()
    axes.set_xlabel("settings, in the order of their end")
    axes.set_ylabel(aim.metric)
    axes.grid(alpha=0.3)


def remarks(
    records: Sequence[Record], aims: Sequence[Objective], winners: Sequence[Record], directory: Path
) -> list[str]:
    """The lines.

    Args:
        records: All runs.
        aims: What they were selected on.
        winners: The best run, or of several objectives the Pareto front.
        directory: Where the runs are.
    """
    lines = []
    testable = [winner for winner in winners if winner.result is None or winner.result.can_be_tested]
    if len(aims) == 1 and winners:
        lines.append(f"Best: {winners[0].run.directory.name}.{' Its test evaluation:' if testable else ''}")
    elif winners:
        names = ", ".join(f"{aim.metric} ({aim.mode})" for aim in aims)
        then = " The test evaluation of one:" if testable else ""
        lines.append(f"Pareto front of {names}: {len(winners)} of {len(records)} runs.{then}")
    for winner in testable:
        reached = ", ".join(f"{value:.6g}" for value in winner.values)
        lines.append(
            f"    python -m leyden.evaluate {quoted_override('run', winner.run.directory)}"
            + f"  # {reached}" * (len(aims) > 1)
        )
    if (study := directory / "study.journal").is_file():
        lines.append(f"The search in a browser: optuna-dashboard {shlex.quote(str(study.absolute()))}")
    for state in ("failed", "diverged", "pruned", "queued", "running", "interrupted"):
        for record in records:
            if record.status == state:
                more = record.error or ("" if state in ("diverged", "pruned") else position(record))
                lines.append(f"{state}: {record.run.directory.name}{f' ({more})' if more else ''}")
    return lines


NUM_SHOWN = 20  # rows in the terminal; the files have them all


def summarize(directory: Path, form: str = "table") -> list[Run]:
    """Write `summary.csv`, `summary.md` and `summary.png` for the runs below a directory, and print the table.

    Args:
        directory: Any folder with runs in or below it.
        form: Of what is printed, `table` or `json`.

    Returns:
        The best run, or of several objectives those that no other beats.

    Raises:
        UserError: There is no run.
    """
    records = read_records(directory)
    log_keys, averaged = described(directory)
    rows = merge(records, averaged)
    keys = varied([row.choices for row in rows])
    aims = next((record.objectives for record in records if record.objectives), ())
    metrics = [objective.metric for objective in aims] or ["objective"]
    is_single = len(aims) == 1
    like = contenders(rows, averaged, aims[0].mode) if is_single else Contenders([None] * len(rows), None, [])
    cells = [
        {
            **dict.fromkeys(keys, ""),
            **row.cells(metrics, averaged),
            "like_best": {None: "", True: "yes", False: "no"}[is_like],
        }
        for row, is_like in zip(rows, like.like_best, strict=True)
    ]
    file = csv.DictWriter(written := io.StringIO(newline=""), fieldnames=list(cells[0]))
    file.writeheader()
    file.writerows(cells)
    _write(directory / "summary.csv", written.getvalue().encode(errors="surrogateescape"))
    # Of several seeds the best is that of the best row, not the luckiest of all.
    winners = pareto_front(rows[0].records if is_single else records)
    evaluations = test_set_remarks(records)
    repeats = any(cell["n"] < len(row.counted) for cell, row in zip(cells, rows, strict=True))
    once = ["Runs that repeat others, the seed too, count once in n."] if repeats else []
    said = [*once, *like.remarks, *remarks(records, aims, winners, directory), *evaluations]
    head = [*keys, *metrics, *HEAD]
    shown = [
        _texts(cell, keys, metrics, is_first=not number, num_all=row.num_all(averaged))
        for number, (cell, row) in enumerate(zip(cells, rows, strict=True))
    ]
    lines = [f"| {' | '.join(texts)} |" for texts in (head, *shown)]
    lines.insert(1, "|" + "---|" * len(head))
    _write(directory / "summary.md", "\n".join([*lines, "", *said, ""]).encode(errors="surrogateescape"))
    picture = draw_summary(
        [(record.choices, record.values) for record in records if record.values],
        metrics,
        log=log_keys,
        averaged=averaged,
        # Only a search has written down what it tries by orders of magnitude.
        further=search_panels(rows, aims[0], log_keys) if is_single and log_keys is not None else (),
    )
    _write(directory / "summary.png", picture)
    if form == "json":
        best = str(winners[0].run.directory) if is_single and winners else None
        print(
            json.dumps(_for_programs(rows, metrics, averaged, like, best, evaluations), indent=2)
        )  # as ASCII: it steers no terminal
        return [winner.run for winner in winners]
    short = [key.rpartition(".")[2] for key in keys]  # where it is clear
    names = [name if short.count(name) == 1 else key for key, name in zip(keys, short, strict=True)]
    table = text_table(*names, *metrics, *HEAD)
    for texts in shown[:NUM_SHOWN]:
        table.add_row(*texts)
    console = Terminal()
    console.print(table)
    if len(cells) > NUM_SHOWN:
        console.print(f"... and {len(cells) - NUM_SHOWN} more rows")
    console.print("\n".join([*said, f"written: {directory}/summary.csv, summary.md, summary.png"]))
    return [winner.run for winner in winners]


def _write(path: Path, content: bytes) -> None:
    """Write a file whole; sweeps that share jobs can end at once, so each process has a name of its own for it."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_whole(own, content)
    own.replace(path)


HEAD = ("n", "epochs", "seconds", "status")


def _texts(
    cells: dict[str, Any], keys: Sequence[str], metrics: Sequence[str], *, is_first: bool, num_all: int
) -> list[str]:
    value, deviation = cells["objective"], cells["deviation"]
    objective = "" if value is None else f"{value:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
    objective += f" {MARK}" * (cells["like_best"] == "yes" and not is_first)
    further = ["" if cells[name] is None else f"{cells[name]:.6g}" for name in metrics[1:]]
    numbers = ["" if cells[name] is None else f"{cells[name]:.4g}" for name in ("epochs", "seconds")]
    num = f"{cells['n']} of {num_all}" if cells["n"] < num_all else str(cells["n"])
    return [*(format_value(cells[key]) for key in keys), objective, *further, num, *numbers, cells["status"]]


def _for_programs(
    rows: Sequence[Row],
    metrics: Sequence[str],
    averaged: Sequence[str],
    like: Contenders,
    best: str | None,
    evaluations: list[str],
) -> Any:
    """The table as JSON has it; a row has no choice where there is a gap."""
    lines = []
    for row, is_like in zip(rows, like.like_best, strict=True):
        cells = {key: value for key, value in row.cells(metrics, averaged).items() if key not in row.choices}
        runs = [str(record.run.directory) for record in row.records]
        lines.append({"choices": row.choices, **cells, "like_best": is_like, "runs": runs})
    told = {"objectives": list(metrics), "rows": lines, "best": best, "further_seeds": like.further}
    return as_json({**told, "test_evaluations": evaluations})
