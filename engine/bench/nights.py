"""How often a night of proposals keeps one that is no better, by simulated nights, and finds one that is.

    python engine/bench/nights.py [NIGHTS]

A run's value is normal with deviation 1. Of 60 proposals none is better than the base, or one, the 30th, by two
deviations. On the same nights stand two usual rules beside `leyden propose`: greedy keeps what beats the best run so
far, with one seed; the other one keeps what beats it by 1.5 deviations, which are estimated from five runs of the base.
"""

import random
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

from leyden.sweep.proposals import Rule

NUM_PROPOSALS = 60
SIZE = 2.0  # deviations by which one proposal is better
PLACE = 30  # of that proposal
NOISE = 1.5  # deviations, of the other rule
NUM_OF_BASE = 5

Values = Callable[[int, int], float]  # the value of a proposal's run with a seed


class Told(NamedTuple):
    """What a rule has kept in a night: equal or worse ones, the better one; and the number of runs."""

    num_false: int
    is_found: bool
    num_runs: int


def sequential(values: Values, means: list[float], num_seeds: int) -> Told:
    """Return what `leyden propose` keeps."""
    rule = Rule("max", NUM_PROPOSALS, num_seeds)
    best = [values(0, seed) for seed in range(num_seeds)]
    mean_of_best = 0.0
    num_runs = num_seeds
    num_false = 0
    is_found = False
    for number in range(1, NUM_PROPOSALS + 1):
        known: list[float] = []
        is_open = True
        while is_open and len(known) < num_seeds:
            known.append(values(number, len(known)))
            num_runs += 1
            if len(known) < num_seeds:
                is_open = not rule.is_hopeless(known, best)
        if is_open and rule.verdict(known, best).better == "a":
            num_false += means[number] <= mean_of_best
            is_found |= means[number] > mean_of_best
            best = known
            mean_of_best = means[number]
    return Told(num_false, is_found, num_runs)


def single(values: Values, means: list[float], factor: float) -> Told:
    """Return what is kept by one run each: one that is better by so many estimated deviations."""
    of_base = [values(0, seed) for seed in range(NUM_OF_BASE)]
    best = of_base[0]
    mean_of_best = 0.0
    num_false = 0
    is_found = False
    for number in range(1, NUM_PROPOSALS + 1):
        value = values(number, 0)
        if value > best + factor * statistics.stdev(of_base):
            num_false += means[number] <= mean_of_best
            is_found |= means[number] > mean_of_best
            best = value
            mean_of_best = means[number]
    return Told(num_false, is_found, NUM_PROPOSALS + NUM_OF_BASE)


def night(seed: int) -> Values:
    """Return the values of a night without any better proposal."""

    def value(number: int, seed_of_run: int) -> float:
        return random.Random(f"{seed} {number} {seed_of_run}").gauss(0, 1)

    return value


def main(num_nights: int) -> None:
    """Print the rates of each rule, and the runs that it takes."""
    rules: dict[str, Callable[[Values, list[float]], Told]] = {
        "greedy": lambda values, means: single(values, means, 0.0),
        f"{NOISE} x the noise": lambda values, means: single(values, means, NOISE),
    }
    for num_seeds in (12, 14, 16):
        rules[f"propose seeds={num_seeds}"] = lambda values, means, num=num_seeds: sequential(
            values, means, num
        )
    print("rule | nights with a false keep | false keeps in a night | better one found | runs")
    for name, rule in rules.items():
        told: dict[float, list[Told]] = {}
        for size in (0.0, SIZE):
            means = [size if number == PLACE else 0.0 for number in range(NUM_PROPOSALS + 1)]
            told[size] = []
            for seed in range(num_nights):
                values = night(seed)
                moved = lambda number, of_run, v=values, m=means: v(number, of_run) + m[number]  # noqa: E731
                told[size].append(rule(moved, means))
        null, better = told[0.0], told[SIZE]
        share = sum(each.num_false > 0 for each in null) / num_nights
        false = sum(each.num_false for each in null) / num_nights
        found = sum(each.is_found for each in better) / num_nights
        runs = statistics.fmean(each.num_runs for each in better)
        print(f"{name} | {share:.1%} | {false:.2f} | {found:.1%} | {runs:.0f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
