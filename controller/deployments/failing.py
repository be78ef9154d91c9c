"""What follows from a failed attempt: another one after a pause, or none any more. Pure.

Machines, engines and stores come back, so attempts go on, ever more rarely. Only what no attempt
can help ends them: a model that is refused, an order that the runtime cannot carry out.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from .actions import Change, entering
from .document import Instance, InstancePhase, Spec

MOST_COUNTED = 1_000_000
"""Failures beyond are no longer counted."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0
STABLE_S = 60.0
"""A predictor that was up for this long has proved itself: failures are counted anew."""


def failed(
    instance: Instance,
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
    up_s = ((worked_until or now) - instance.since).total_seconds() if instance.since else 0.0
    proved = instance.phase in (InstancePhase.IDLE, InstancePhase.SERVING) and up_s > STABLE_S
    anew = proved or instance.generation != spec.generation
    failures = 1 if anew else min(MOST_COUNTED, instance.failures + 1)
    doublings = min(failures - 1, 16)  # More make a number that no float holds.
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**doublings)
    gone = replace(
        instance,
        failures=failures,
        generation=spec.generation,
        reason=why,
        retry_time=None if for_good else now + timedelta(seconds=pause_s),
        digest="",
        incoming="",
    )
    return entering(gone, InstancePhase.FAILED if for_good else InstancePhase.BACKOFF, now, why)


def refused(instance: Instance, spec: Spec, why: str, now: datetime) -> Change:
    """The change after a predictor refused the model that it was given.

    An instance that was serving another version goes on serving that; otherwise it fails for good.
    """
    if instance.phase is InstancePhase.REPLACING:
        kept = replace(
            instance,
            refused=instance.incoming,
            incoming="",
            failures=0,
            generation=spec.generation,
            reason=why,
        )
        return entering(kept, InstancePhase.SERVING, now, f"the new version was refused: {why}")
    return failed(instance, spec, why, now, for_good=True)
