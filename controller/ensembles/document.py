"""An ensemble as it is kept: what its callers want of it, and what is. Pure values.

Callers write what is desired (through `verbs`); the system writes what serves and which deployments
are held (through `steps`). All of it stands in this one document, so that one compare-and-set is
the whole transaction: there is one serving document, whoever writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from ..deployments.document import Deployment, InstancePhase, Spec, Target

KEPT_REVISIONS = 20
"""Older ones are forgotten, but those that are loaded."""
ROLLBACK_WINDOW_S = 600.0


@dataclass(frozen=True, slots=True)
class ClassModel:
    """The model of one class of a revision."""

    class_label: str
    model: str
    version: int
    digest: str
    """SHA-256 of the artifact of that version."""


@dataclass(frozen=True, slots=True)
class EnsembleRevision:
    """What is answered. But for `failure`, it never changes."""

    number: int
    """1 and up."""
    classes: tuple[ClassModel, ...]
    """In the order that settles ties."""
    created: datetime
    note: str = ""
    failure: str = ""
    """Why it could not be prepared when that was last tried; empty if it could."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the requests."""

    revision: int
    percent: int
    """1 to 100; those of all shares together are 100."""


@dataclass(frozen=True, slots=True)
class Resources:
    """How one class is served."""

    replicas: int = 1
    cpus: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What a deployment must be to answer for a class; equal classes of revisions share it."""

    digest: str
    cpus: float | None
    memory_bytes: int | None
    loaded: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """A deployment that the ensemble has or will have.

    It is written before the deployment is made, and taken out before that is terminated; its id is
    never used again. So whoever reads the deployments first and the ensemble then may terminate
    what is not held, however late that is carried out.
    """

    deployment: str
    need: Need
    model: str
    version: int
    class_label: str


_USUAL = Resources()


@dataclass(frozen=True, slots=True)
class EnsembleDocument:
    """The document."""

    id: str
    life: str
    """Distinguishes it from earlier ensembles of that id: part of the ids of its deployments."""
    created: datetime
    updated: datetime
    target: Target = Target.LOADED
    wanted: tuple[Share, ...] = ()
    """Highest share first."""
    resources: Mapping[str, Resources] = field(default_factory=dict)
    """By class."""
    rollback_window_s: float = ROLLBACK_WINDOW_S
    revisions: tuple[EnsembleRevision, ...] = ()
    """Oldest first; their numbers ascend."""
    last_revision: int = 0
    generation: int = 0
    """Grows with every change of what is desired; what had failed is tried again."""
    requests: tuple[str, ...] = ()
    """Ids of the requests that were last carried out on it."""

    serving: tuple[Share, ...] = ()
    serving_since: datetime | None = None
    before: int = 0
    """The revision that had most requests before those that have them now; 0 if there was none."""
    resting: tuple[int, ...] = ()
    """Revisions that stay loaded, though they have no share."""
    resting_until: datetime | None = None
    holds: tuple[Hold, ...] = ()
    last_hold: int = 0
    """Number of the last hold that was ever made."""

    def revision(self, number: int) -> EnsembleRevision | None:
        """The revision of that number; None if it is not kept."""
        return next((each for each in self.revisions if each.number == number), None)

    def resources_of(self, class_label: str) -> Resources:
        """How that class is to be served."""
        return self.resources.get(class_label, _USUAL)

    def need_of(self, model: ClassModel) -> Need:
        """What a deployment must be to answer for that class."""
        resources = self.resources_of(model.class_label)
        loaded = self.target is Target.LOADED
        return Need(model.digest, resources.cpus, resources.memory_bytes, loaded)

    @property
    def kept_loaded(self) -> tuple[int, ...]:
        """Every revision that is to be loaded, those with most requests first."""
        shares = [*self.serving, *self.wanted]
        return tuple(dict.fromkeys((*(each.revision for each in shares), *self.resting)))

    @property
    def retry_id(self) -> str:
        """The request id of what is asked of deployments now: what failed is asked once more for
        each generation."""
        return f"{self.life}-{self.generation}"


Owned: TypeAlias = Mapping[str, Deployment]
"""The live deployments of one ensemble, by id."""


def spec_of(hold: Hold, replicas: int) -> Spec:
    """The spec of a held deployment."""
    return Spec(
        model=hold.model,
        version=hold.version,
        digest=hold.need.digest,
        class_label=hold.class_label,
        replicas=replicas,
        cpus=hold.need.cpus,
        memory_bytes=hold.need.memory_bytes,
    )


def serving_count(deployment: Deployment | None, digest: str) -> int:
    """The number of predictors of a deployment that may be asked for that model."""
    if deployment is None or deployment.spec.target is not Target.LOADED:
        return 0
    phases = (InstancePhase.SERVING, InstancePhase.REPLACING)
    return sum(each.phase in phases and each.digest == digest for each in deployment.instances)


def is_ready(deployment: Deployment | None, digest: str) -> bool:
    """Whether requests for that model may be sent to a deployment: some predictors serve it, and no
    other one is about to."""
    if deployment is None or not serving_count(deployment, digest):
        return False
    settled = (
        InstancePhase.SERVING,
        InstancePhase.REPLACING,
        InstancePhase.BACKOFF,
        InstancePhase.FAILED,
    )
    needed = deployment.instances[: deployment.spec.replicas]
    return all(each.phase in settled for each in needed)


def hold_for(holds: Iterable[Hold], need: Need) -> Hold | None:
    """The hold that meets a need."""
    return next((each for each in holds if each.need == need), None)


def unprepared(
    ensemble: EnsembleDocument, revision: EnsembleRevision, owned: Owned
) -> Sequence[ClassModel]:
    """The classes of a revision that no deployment is ready to answer for."""
    ready = {
        hold.need.digest
        for hold in ensemble.holds
        if is_ready(owned.get(hold.deployment), hold.need.digest)
    }
    return [each for each in revision.classes if each.digest not in ready]
