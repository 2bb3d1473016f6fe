"""Objects with all kinds of state that no `state_dict` holds, as somebody writes them."""

import collections
import functools
import random

import numpy as np
import torch

NUMBERS = np.random.default_rng(0)
TOTAL = 0
LOG = []
Step = collections.namedtuple("Step", "number weight")


class World:
    """An environment: an array, a generator of its own, and what happened."""

    def __init__(self):
        self.state, self.rng, self.log = np.zeros(4), random.Random(0), []

    def step(self):
        self.state += self.rng.random()
        self.log.append((float(self.state[0]), "x"))


class Learner:
    """Counts, remembers and draws, in all the places that Python has."""

    num_made = 0

    def __init__(self):
        self.world, self.worlds = World(), [World(), World()]
        self.alias = self.world.log
        self.replay = collections.deque(maxlen=2)
        self.found = []
        self.drawn = functools.partial(draw, rng=np.random.RandomState(3))
        self.names = set()
        self.counts = collections.defaultdict(int)
        self.hidden = None
        self.layer = torch.nn.Linear(1, 1)
        self.layer.register_buffer("mean", torch.zeros(2), persistent=False)

    def learn(self):
        global TOTAL
        TOTAL += 1
        LOG.append(TOTAL)
        Learner.num_made += 1
        self.world.step()
        self.worlds[1].step()
        self.replay.append(Step(TOTAL, torch.full((2,), float(NUMBERS.random()))))
        self.found.append((TOTAL, "x"))
        self.names.add(f"n{TOTAL}")
        self.counts["steps"] += 1
        self.hidden = torch.ones(2) * TOTAL
        self.layer.mean += self.drawn()
        self.layer.eval()

    def seen(self):
        worlds = [(world.state.tolist(), world.rng.random(), world.log) for world in (self.world, *self.worlds)]
        mine = (self.replay, len(self.found), sorted(self.names), self.counts, self.hidden, self.layer.mean)
        shared = (TOTAL, LOG, Learner.num_made, NUMBERS.random(), self.drawn(), self.layer.training)
        return worlds, mine, shared


def draw(rng):
    return rng.random()


def counter():
    """A function that counts how often it was called."""
    number = [0]

    def call():
        number[0] += 1

    return call
