"""What plans may lose: trials, and splits that do not pay."""

from __future__ import annotations

from micro_batch_handler.planning.trials import Ledger, Trials


def test_trials_come_in_bursts_that_become_rare():
    """Three in a row, then after 32 batches, after 64, and so on."""
    trials = Trials(first=3)
    begun = [batch for batch in range(150) if trials.due(batch) and trials.begin(batch, 0.0)]

    assert [*range(3, 6), *range(37, 40), *range(103, 106)] == begun


def test_a_trial_waits_until_it_can_be_paid():
    """It may lose what was granted and 1 % of time, no more."""
    trials = Trials(first=0)
    assert not trials.begin(0, 0.5)
    assert not trials.due(1)
    for _ in range(49):
        trials.account(1.0, 0.0)
    assert not trials.begin(8, 0.5)
    trials.account(1.1, 0.0)
    assert trials.begin(16, 0.5)

    trials.grant(1.0)
    trials.account(0.0, 2.0)
    assert not trials.begin(17, 0.0)


def test_after_a_change_trials_come_soon_again():
    """The interval begins anew when the plan has changed from one kind to the other."""
    trials = Trials(first=0)
    for batch in range(2000):
        if trials.due(batch):
            trials.begin(batch, 0.0)
    trials.restart(2000)

    assert not trials.due(2031)
    assert trials.due(2032)


def test_the_ledger_stops_splits_that_lose_and_lets_them_try_again():
    """What a split has lost stands against it until it is made up or has shrunk to nothing."""
    ledger = Ledger()
    ledger.account(0.5, 1.0, split=True)
    assert not ledger.owes
    for _ in range(2):
        ledger.account(1.5, 1.0, split=True)
    assert ledger.owes

    unsplit = 0
    while ledger.owes:
        ledger.account(1.0, 1.0, split=False)
        unsplit += 1
    assert 80 <= unsplit <= 120


def test_the_ledger_bears_a_pause_and_keeps_no_treasure():
    """One long pause does not stop a good split; long success does not cover later loss."""
    ledger = Ledger()
    for _ in range(1000):
        ledger.account(0.6, 1.0, split=True)
    ledger.account(60.0, 1.0, split=True)
    assert not ledger.owes

    for _ in range(10):
        ledger.account(1.2, 1.0, split=True)
    assert ledger.owes
    ledger.forgive()
    assert not ledger.owes
