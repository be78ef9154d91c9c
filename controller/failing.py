"""What follows from a failed attempt: another one after a pause, or none any more. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from controller.actions import Change, entering
from controller.deployment import Phase, Slot, Spec

MAX_FAILURES = 5
"""Attempts that may fail one after the other; then the slot is FAILED."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STABLE_S = 60.0
"""A predictor that was up for so long has proved itself: failures are counted anew."""


def failed(
    slot: Slot,
    spec: Spec,
    why: str,
    now: datetime,
    *,
    for_good: bool = False,
    worked_until: datetime | None = None,
) -> Change:
    """The change that gives an attempt up; `for_good` when trying again would not help.

    `worked_until` is when it failed, if that was before `now`.
    """
    up_s = ((worked_until or now) - slot.since).total_seconds() if slot.since else 0.0
    proved = slot.phase in (Phase.IDLE, Phase.SERVING) and up_s > STABLE_S
    anew = proved or slot.generation != spec.generation
    failures = 1 if anew else slot.failures + 1
    over = for_good or failures > MAX_FAILURES
    doublings = min(failures - 1, 16)  # More make a number that no float holds.
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**doublings)
    gone = replace(
        slot,
        failures=failures,
        generation=spec.generation,
        reason=why,
        retry_time=None if over else now + timedelta(seconds=pause_s),
        digest="",
        incoming="",
    )
    return entering(gone, Phase.FAILED if over else Phase.BACKOFF, now, why)


def refused(slot: Slot, spec: Spec, why: str, now: datetime) -> Change:
    """The change after a predictor refused the model that it was given.

    A slot that was serving another version goes on serving that; otherwise it fails for good.
    """
    if slot.phase is Phase.REPLACING:
        kept = replace(
            slot,
            refused=slot.incoming,
            incoming="",
            failures=0,
            generation=spec.generation,
            reason=why,
        )
        return entering(kept, Phase.SERVING, now, f"the new version was refused: {why}")
    return failed(slot, spec, why, now, for_good=True)
