"""`exact=test`: a run that is asked before it is trained."""

import contextlib

import pytest
from omegaconf import OmegaConf

from leyden.training import resumption


def test_a_run_that_is_asked_beforehand_says_what_was_found(monkeypatch, capsys):
    cfg = OmegaConf.create({"fork": None, "seed": 0})
    for is_same in (True, False):
        monkeypatch.setattr(
            resumption, "compare_killed", lambda *_, found=is_same: (found, f"found: {found}")
        )
        with contextlib.nullcontext() if is_same else pytest.raises(SystemExit):
            resumption.test_resume(cfg, [], is_job=False)
        assert f"found: {is_same}" in capsys.readouterr().out
