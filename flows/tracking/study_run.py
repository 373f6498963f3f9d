"""The run above a study's subjects: title, report, plots and environment. It has no parameters and no metrics, so that it can
be brought up to date in place and the subjects below it need not move."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.tracking.address import DIGEST, ROLE, STUDY
from flows.tracking.content import FORMAT, digest
from flows.tracking.live import pages
from flows.tracking.origin import environment
from flows.tracking.upload import attached
from stages._io import RESULTS
from stages.reporting.results import Study

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHOSEN = f"tags.`{ROLE}` = 'study'"
ALL = 3  # mlflow.entities.ViewType
REPORT = (RESULTS / "report.html", RESULTS / "report.csv")
PLOTS = (RESULTS / "plots" / "perplexity.csv", RESULTS / "plots" / "layers.csv")
LOCK = Path("requirements.lock")


class StudyRuns:
    """The studies' runs of one experiment, deleted ones too, as they were when this was made."""

    def __init__(self, client: "MlflowClient", experiment: str, commit: Mapping[str, str]) -> None:
        self.client, self.experiment, self.commit = client, experiment, commit
        self.there: dict[str, list[Any]] = {}
        for run in pages(client, experiment, CHOSEN, ["attributes.start_time ASC"], ALL):
            self.there.setdefault(run.data.tags[STUDY], []).append(run)

    def write(self, study: Study) -> str:
        """The id of the study's run, which holds the report as it is now; missing parts of the report stay as they were."""
        runs = self.there.pop(study.name, [])
        active = [run for run in runs if run.info.lifecycle_stage == "active"]
        run = (active or runs or [None])[0]
        wanted = digest([FORMAT, study.title, [_sha256(path) for path in (*REPORT, *PLOTS, LOCK)]])
        for other in active[1:]:
            self.client.delete_run(other.info.run_id)
        if run is not None and run.info.lifecycle_stage == "deleted":
            self.client.restore_run(run.info.run_id)
        if run is not None and run.data.tags.get(DIGEST) == wanted:
            return run.info.run_id
        return self._write(study, run, wanted)

    def delete_rest(self) -> None:
        """Delete the runs of studies that are not in use any more."""
        for runs in self.there.values():
            for run in runs:
                if run.info.lifecycle_stage == "active":
                    self.client.delete_run(run.info.run_id)

    def _write(self, study: Study, known: Any, wanted: str) -> str:
        tags = {STUDY: study.name, ROLE: "study", "mlflow.note.content": study.title, **self.commit}
        run = known or self.client.create_run(self.experiment, tags=tags, run_name=study.name)
        run_id = run.info.run_id
        for name, value in (tags | {DIGEST: ""}).items():  # until all of it is there
            self.client.set_tag(run_id, name, value)
        with attached(self.client, run) as folder:
            _artifacts(study, folder)
        if run.info.status != "FINISHED":
            self.client.set_terminated(run_id)
        self.client.set_tag(run_id, DIGEST, wanted)
        return run_id


def _artifacts(study: Study, folder: Path) -> None:
    """The report, the tables behind its plots, a picture, and the environment."""
    from secateur.artifacts import write_text
    from stages.reporting.markdown import perplexity_svg

    for place, files in (("report", REPORT), ("plots", PLOTS), ("environment", (LOCK,))):
        for file in files:
            if file.is_file():
                (folder / place).mkdir(exist_ok=True)
                (folder / place / file.name).write_bytes(file.read_bytes())
    if picture := perplexity_svg(study):
        write_text(folder / "plots" / "perplexity.svg", picture)
    write_text(folder / "environment" / "environment.json", environment())


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
