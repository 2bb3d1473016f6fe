"""Lightning with `Exact`, two lines more than Lightning alone: python with_exact.py DIR SCENARIO."""

import sys

import lightning as L
import module
import task

from leyden import Exact


def main(folder, scenario):
    exact = Exact(folder, seed=0, every_n_steps=task.EVERY_N_STEPS)
    options = module.options_of(scenario)
    options["callbacks"].append(exact)
    trainer = L.Trainer(**options, enable_checkpointing=False)
    net = module.Module(scenario)
    exact.fit(trainer, net, module.Data(scenario))
    task.mark("end", net)


if __name__ == "__main__":
    main(*sys.argv[1:])
