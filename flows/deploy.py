"""What the servers must know before a worker can work: pools, deployments, and what to do with a run that fell silent."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events import EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from flows.deployments import POOLS
from flows.prefect_server import api_url, one_line
from secateur.errors import UserError

SILENCE = "crash runs that fell silent"
GONE = "no heartbeat any more: its worker is gone"


def deploy(names: Sequence[str]) -> None:
    """Make the process pools, these deployments of prefect.yaml, and the rule for silent runs; again and again gives the
    same."""
    with one_line(api_url()), get_client(sync_client=True) as client:
        for pool in POOLS:
            template = ProcessWorker.get_default_base_job_template()
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
    chosen = [word for name in names for word in ("--name", name)]
    done = subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", *chosen], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"prefect deploy failed: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
    _crash_silent_runs()


def _crash_silent_runs() -> None:
    """A worker that was killed cannot say so: a run without three heartbeats in a row is crashed, so that its coordinator
    sends it to another worker."""
    heartbeat = get_current_settings().flows.heartbeat_frequency or 30
    rule = Automation(
        name=SILENCE,
        description="A flow run that sends no heartbeat any more belongs to a worker that is gone.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={f"prefect.flow-run.{event}" for event in ("heartbeat", "Completed", "Failed", "Cancelled", "Crashed")},
            match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=3 * heartbeat),
        ),
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message=GONE, force=False)],
    )
    with one_line(api_url()), get_client(sync_client=True) as client:
        known = client.read_automations_by_name(SILENCE)
    with one_line(api_url()):
        if known:
            rule.id = known[0].id
            rule.update()
        else:
            rule.create()
