"""Killed at drawn steps, within an exchange, and resumed by a drawn number of processes."""

import pytest

from tests.exact.elastic import KINDS
from tests.exact.test_elastic import ends_of

RANKS = 8
STEPS = 12
pytestmark = pytest.mark.faults


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_step_any_number_of_processes_goes_on_to_the_same_bits(
    tmp_path, kind, rng, trials
):
    whole = ends_of([kind], RANKS, tmp_path / "whole", (1, -1))
    num_kills = 0
    while num_kills < trials // 13:  # three by default, and a hundred in all with FAULTS_N=325
        schedule = []
        for step in sorted(rng.sample(range(STEPS), 3)):
            schedule.append((rng.choice((1, 1, 2, 2, 4, 8)), step))
        ended = ends_of([kind], RANKS, tmp_path / str(num_kills), *schedule, (2, -1))
        assert ended == whole, schedule
        num_kills += len(schedule)
        print(f"{kind}: {num_kills} kills, the last at {schedule}", flush=True)
