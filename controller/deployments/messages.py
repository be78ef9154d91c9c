"""Deployments, events and servers as messages."""

from __future__ import annotations

from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb

from ..names import DEPLOYMENTS, ENSEMBLES, RUNS
from ..runtime.port import Server
from ..store.records import Stored
from .document import Deployment, Event, Instance, InstancePhase, State, Target
from .inventory import Reachability

STATES = {state: deployment_pb.State.Value(f"STATE_{state.name}") for state in State}
_PHASES = {
    phase: deployment_pb.InstancePhase.Value(f"INSTANCE_PHASE_{phase.name}")
    for phase in InstancePhase
}
_TARGETS = {target: deployment_pb.Target.Value(f"TARGET_{target.name}") for target in Target}


def deployment_message(
    stored: Stored[Deployment], reachability: Reachability
) -> deployment_pb.Deployment:
    """A deployment as its message; `reachability` of the runtime becomes a condition."""
    deployment, spec = stored.value, stored.value.spec
    message = deployment_pb.Deployment(
        name=DEPLOYMENTS + deployment.id,
        model=spec.model,
        model_version=spec.version,
        model_digest=spec.digest,
        replica_count=spec.replicas,
        target=_TARGETS[spec.target],
        state=STATES[deployment.state],
        detail=deployment.detail,
        instances=[
            _instance(index, instance) for index, instance in enumerate(deployment.instances)
        ],
        revision=stored.rev,
        owner=_owner(deployment),
    )
    if spec.cpus is not None or spec.memory_bytes is not None:
        limits = deployment_pb.Limits(cpus=spec.cpus, memory_bytes=spec.memory_bytes)
        message.limits.CopyFrom(limits)
    condition = message.conditions.add(
        type="RUNTIME_REACHABLE", holds=reachability.holds, detail=reachability.detail
    )
    condition.change_time.FromDatetime(reachability.since)
    if deployment.created is not None:
        message.create_time.FromDatetime(deployment.created)
    if deployment.updated is not None:
        message.update_time.FromDatetime(deployment.updated)
    return message


def _owner(deployment: Deployment) -> str:
    if deployment.owner:
        return ENSEMBLES + deployment.owner
    return RUNS + deployment.run if deployment.run else ""


def _instance(index: int, instance: Instance) -> deployment_pb.Instance:
    message = deployment_pb.Instance(
        slot=index,
        attempt=instance.attempt,
        phase=_PHASES[instance.phase],
        container_id=instance.container_id,
        address=instance.address,
        model_digest=instance.digest,
        failure_count=instance.failures,
        reason=instance.reason,
        log_tail=instance.log_tail,
    )
    if instance.retry_time is not None:
        message.retry_time.FromDatetime(instance.retry_time)
    if instance.since is not None:
        message.phase_time.FromDatetime(instance.since)
    return message


def event_message(event: Event) -> pb.DeploymentEvent:
    """An event of the history as its message."""
    message = pb.DeploymentEvent(
        number=event.number,
        cause=event.cause,
        slot=event.instance,
        before=event.before,
        after=event.after,
        attempt=event.attempt,
    )
    message.time.FromDatetime(event.time)
    return message


def server_message(server: Server) -> pb.Server:
    """A server as its message."""
    return pb.Server(
        name=server.name,
        runtime=server.runtime,
        reachable=server.reachable,
        detail=server.detail,
        cpus=server.cpus,
        memory_bytes=server.memory_bytes,
        cpus_free=max(0.0, server.cpus - server.cpus_reserved),
        memory_bytes_free=max(0, server.memory_bytes - server.memory_bytes_reserved),
        container_count=server.container_count,
    )
