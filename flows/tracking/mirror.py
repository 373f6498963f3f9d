"""Subjects written as runs. What a run says is never edited: parameters cannot change in MLflow, and a second value of a
metric would look like a history, so a subject that changed becomes a new run and the old one is deleted. MLflow keeps deleted
runs (until `mlflow gc`): one that holds the content that is wanted comes back instead of a new one.

The digest of its content is a run's last tag: a run without it was being written when its writer was killed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.tracking.address import DIGEST, ROLE, STUDY, SUBJECT
from flows.tracking.content import Content
from flows.tracking.live import pages, speed
from flows.tracking.origin import commit_is_late
from flows.tracking.upload import attached
from secateur.artifacts import write_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

LIVE = "secateur.live_run"
BATCH, PARAMS = 1000, 100  # what MLflow takes in one call: values of metrics, parameters
CHOSEN = f"tags.`{ROLE}` = 'subject'"
DELETED = 2  # mlflow.entities.ViewType
Key = tuple[str, str]  # study, subject


@dataclass
class Summary:
    """How many subjects' runs were written for the first time, replaced by another, deleted, or left alone."""

    created: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0


class Mirror:
    """The subjects' runs of one experiment, as they were when this was made."""

    def __init__(self, client: "MlflowClient", experiment: str, commit: Mapping[str, str]) -> None:
        self.client, self.experiment, self.commit = client, experiment, commit
        self.there: dict[Key, list[Any]] = {}
        for run in pages(client, experiment, CHOSEN):
            self.there.setdefault(_key(run), []).append(run)
        self._deleted: dict[tuple[Key, str], Any] | None = None
        self.summary = Summary()

    def write(self, content: Content, parent: str) -> None:
        """Make the subject's one run below the study's run `parent` equal to `content`."""
        digest = content.digest(parent)
        runs = self.there.pop((content.study, content.subject), [])
        whole = [run for run in runs if _whole(run)]
        same = next((run for run in whole if run.data.tags[DIGEST] == digest), None)
        if same is None:
            self._restore_or_create(content, parent, digest)
            self.summary.changed += bool(whole)
            self.summary.created += not whole
        elif self._amend(same, content):
            self.summary.changed += 1
        else:
            self.summary.unchanged += 1
        for run in runs:
            if run is not same:
                self.client.delete_run(run.info.run_id)

    def delete_rest(self) -> None:
        """Delete the runs of all subjects that were not written: their rows are gone, or their results."""
        for runs in self.there.values():
            self.summary.deleted += any(_whole(run) for run in runs)
            for run in runs:
                self.client.delete_run(run.info.run_id)
        self.there = {}

    def _restore_or_create(self, content: Content, parent: str, digest: str) -> None:
        if self._deleted is None:
            found = pages(self.client, self.experiment, CHOSEN, view=DELETED)
            self._deleted = {(_key(run), run.data.tags[DIGEST]): run for run in found if _whole(run)}
        known = self._deleted.get(((content.study, content.subject), digest))
        if known:
            self.client.restore_run(known.info.run_id)
            self._amend(known, content)
        else:
            self._create(content, parent, digest)

    def _amend(self, run: Any, content: Content) -> bool:
        """Add what was not known when the run was written: the commit that has its results, and its live run."""
        from mlflow.entities import Metric, RunTag

        late = dict(self.commit) if commit_is_late(run.data.tags, self.commit) else {}
        seen = []
        if content.live_run and LIVE not in run.data.tags:
            late[LIVE] = content.live_run
            seen = [Metric(name, value, run.info.start_time, step) for name, value, step in speed(self.client, content.live_run)]
        if late:
            self.client.log_batch(run.info.run_id, seen, tags=[RunTag(name, value) for name, value in late.items()])
        return bool(late)

    def _create(self, content: Content, parent: str, digest: str) -> None:
        from mlflow.entities import Metric, Param

        tags = {"mlflow.parentRunId": parent, STUDY: content.study, SUBJECT: content.subject, ROLE: "subject"}
        tags |= {**content.tags, **self.commit, "mlflow.source.name": "python -m flows track"}
        run = self.client.create_run(self.experiment, tags=tags, run_name=content.subject)
        run_id = run.info.run_id
        metrics = [Metric(name, value, run.info.start_time, step) for name, value, step in content.points]
        params = [Param(name, value) for name, value in content.params.items()]
        self.client.log_batch(run_id, metrics[: BATCH - PARAMS], params[:PARAMS])
        for part in _parts(metrics[BATCH - PARAMS :], BATCH):
            self.client.log_batch(run_id, part)
        for part in _parts(params[PARAMS:], PARAMS):
            self.client.log_batch(run_id, params=part)
        if content.inputs:
            self.client.log_inputs(run_id, [dataset(*source) for source in content.inputs])
        with attached(self.client, run) as folder:
            write_json(folder / "model" / "secateur.json", content.descriptor)
        self._amend(run, content)
        self.client.set_terminated(run_id)
        self.client.set_tag(run_id, DIGEST, digest)


def dataset(role: str, path: str, md5: str) -> Any:
    """An artifact in DVC as an input of a run: a name, a digest and a path, no bytes."""
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource  # pyright: ignore[reportAttributeAccessIssue]
    from mlflow.entities import Dataset, DatasetInput, InputTag

    described = MetaDataset(LocalArtifactDatasetSource(path), name=path, digest=md5).to_dict()
    return DatasetInput(Dataset(**described), [InputTag("mlflow.data.context", role)])


def _key(run: Any) -> Key:
    return run.data.tags.get(STUDY, ""), run.data.tags.get(SUBJECT, "")


def _whole(run: Any) -> bool:
    return bool(run.data.tags.get(DIGEST))


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
