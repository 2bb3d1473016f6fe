"""`scripts/proposals.py`: each proposal has a line in the ledger, also one that crashes or is refused."""

import json

import pytest

from leyden.config.paths import ROOT
from tests.example import script

TINY = ("trainer.max_epochs=1", "trainer.limit_train_batches=3", "trainer.limit_val_batches=1")
TINY = (*TINY, "callbacks=bare", "trainer.log_every_n_steps=1")


@pytest.mark.slow(minutes=1)
@pytest.mark.nightly
def test_the_ledger_has_each_proposal(tmp_path, monkeypatch, capsys):
    proposals = script(ROOT / "scripts" / "proposals.py")
    some = ("wider", "diverges", "no_units")
    assert len(proposals.PROPOSALS) == 10
    monkeypatch.setattr(proposals, "PROPOSALS", {name: proposals.PROPOSALS[name] for name in some})
    monkeypatch.chdir(ROOT)
    proposals.main(tmp_path, *TINY)
    ledger = {row["proposal"]: row for row in json.loads((tmp_path / "ledger.json").read_text())}
    assert [*ledger] == [*some]
    assert ledger["wider"]["interval"]
    assert ledger["diverges"]["verdict"].startswith("exit code ")
    assert ledger["no_units"]["verdict"].startswith("exit code 2: ")
    assert ledger["diverges"]["interval"] is None
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["base", *some, *some]
    assert not list(tmp_path.rglob("test_evaluations.csv"))
