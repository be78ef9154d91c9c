"""`trillium up`: whole ensembles on this machine, from artifacts to scores, until Ctrl-C.

It reads as it runs: `plan`, `servers`, `ensembles`, `scores`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trillium.access.local import can_prove
from trillium.cli.ensemble import artifacts
from trillium.cli.show import Screen
from trillium.cli.state import held
from trillium.cli.up.plan import Plan
from trillium.cli.up.servers import Servers, keep, task_group
from trillium.server.process import EXIT_FAILED, EXIT_OK


async def up(plan: Plan, screen: Screen) -> int:
    """Start `plan`, score examples, show them, and stay up; returns the exit status.

    The first signal (Ctrl-C, SIGTERM, SIGHUP) stops everything in order, which is a success; a
    second one kills. No process is left in either case. Raises StartFailed.
    """
    files = {name: artifacts(plan.models, name) for name in plan.ensembles}
    plan.check_ports()
    servers = Servers(plan)
    with held(plan.state), servers.interruptible():
        try:
            screen.say(f"starting {servers} ...")
            if not can_prove():
                screen.say("every user of this machine may call them: this system proves no users")
            await servers.launch()
            async with servers.all_running():
                succeeded = await _show(plan, files, servers, screen)
            if not plan.demo:
                await _stay_up(plan, servers, screen)
            return EXIT_OK if succeeded else EXIT_FAILED
        except asyncio.CancelledError:
            screen.say("stopping ...")
            return EXIT_OK
        finally:
            await servers.stop()


async def _show(
    plan: Plan, files: Mapping[str, Sequence[Path]], servers: Servers, screen: Screen
) -> bool:
    """Load every model and score with it; returns whether all scores and the runs succeeded."""
    # Importing gRPC takes as long as a server takes to start, so both happen at the same time.
    from trillium.cli.up.ensembles import load_ensembles
    from trillium.cli.up.scores import run_dataset, score, until_ready
    from trillium.client.aio import AsyncClient
    from trillium.client.controller import AsyncControllerClient

    at, aggregator_at = servers.controller.address, servers.aggregator.address
    await servers.until_models_are_registered()
    succeeded = True
    async with AsyncControllerClient(at) as controller:
        ensembles = await load_ensembles(plan, files, controller, screen.say)
        await servers.until_listening()
        for name, members in ensembles.items():
            async with AsyncClient(aggregator_at, ensemble=name) as client:
                await until_ready(client, [member.class_label for member in members])
                scores = await score(client, members[0].examples)
            screen.say(f"{name} is up after {time.monotonic() - servers.began:.1f} s")
            screen.scores(name, members[0].feature_names, scores)
            succeeded &= await run_dataset(members[-1].name, name, controller, screen)
            succeeded &= not any(each.error for each in scores)
    if not plan.demo:
        gateways = [gateway.address for gateway in servers.gateways]
        first, *others = ensembles
        examples = ensembles[first][0].examples
        screen.how_to_call(aggregator_at, at, examples, gateways, first if others else "")
    return succeeded


async def _stay_up(plan: Plan, servers: Servers, screen: Screen) -> None:
    """Restart servers that end, and report changes of deployments, until cancelled."""
    from trillium.cli.up.ensembles import report_changes

    screen.say(f"logs are in {plan.logs}/; Ctrl-C stops everything")
    async with task_group() as group:
        for child in servers.children:
            group.create_task(keep(child, screen.event))
        await report_changes(servers.controller.address, plan.ensembles, screen.event)
