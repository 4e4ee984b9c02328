"""What plans may lose: trials, and splits that do not pay."""

from __future__ import annotations

from micro_batch_handler.planning.trial_budget import SplitBalance, TrialBudget


def test_trials_come_in_bursts_that_become_rare():
    """Three in a row, then after 32 batches, after 64, and so on."""
    trials = TrialBudget(first=3)
    begun = [batch for batch in range(150) if trials.due(batch) and trials.begin(batch, 0.0)]

    assert [*range(3, 6), *range(37, 40), *range(103, 106)] == begun


def test_a_trial_waits_until_it_can_be_paid():
    """It may lose what was granted and 1 % of time, no more."""
    trials = TrialBudget(first=0)
    assert not trials.begin(0, 0.5)
    assert not trials.due(1)
    for _ in range(49):
        trials.account(1.0, 0.0)
    assert not trials.begin(8, 0.5)
    trials.account(1.1, 0.0)
    assert trials.begin(16, 0.5)

    trials.allow(1.0)
    trials.account(0.0, 2.0)
    assert not trials.begin(17, 0.0)


def test_after_a_change_trials_come_soon_again():
    """The interval begins anew when the plan has changed from one kind to the other."""
    trials = TrialBudget(first=0)
    for batch in range(2000):
        if trials.due(batch):
            trials.begin(batch, 0.0)
    trials.restart(2000)

    assert not trials.due(2031)
    assert trials.due(2032)


def test_the_ledger_stops_splits_that_lose_and_lets_them_try_again():
    """What a split has lost stands against it until it is made up or has shrunk to nothing."""
    balance = SplitBalance()
    balance.account(0.5, 1.0, split=True)
    assert not balance.is_negative
    for _ in range(2):
        balance.account(1.5, 1.0, split=True)
    assert balance.is_negative

    unsplit = 0
    while balance.is_negative:
        balance.account(1.0, 1.0, split=False)
        unsplit += 1
    assert 80 <= unsplit <= 120


def test_the_ledger_bears_a_pause_and_keeps_no_treasure():
    """One long pause does not stop a good split; long success does not cover later loss."""
    balance = SplitBalance()
    for _ in range(1000):
        balance.account(0.6, 1.0, split=True)
    balance.account(60.0, 1.0, split=True)
    assert not balance.is_negative

    for _ in range(10):
        balance.account(1.2, 1.0, split=True)
    assert balance.is_negative
    balance.reset()
    assert not balance.is_negative
