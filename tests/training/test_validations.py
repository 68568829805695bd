"""In which validations a callback computes its metrics."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from oodgan.errors import UserError
from oodgan.training.validations import EveryNthValidation


def test_every_nth_and_the_last_validation_are_due_also_after_a_resume() -> None:
    trainer = SimpleNamespace(sanity_checking=False, max_steps=9, global_step=1)
    hook, resumed = EveryNthValidation(3), EveryNthValidation(3)
    assert [hook.due(trainer) for _ in range(4)] == [False, False, True, False]
    resumed.load_state_dict(hook.state_dict())
    trainer.sanity_checking = True
    assert not resumed.due(trainer)
    trainer.sanity_checking = False
    assert [resumed.due(trainer) for _ in range(2)] == [False, True]
    trainer.global_step = 9
    assert resumed.due(trainer)
    with pytest.raises(UserError, match="every=0"):
        EveryNthValidation(0)
