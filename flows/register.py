"""Register the best run of a study as a model: `python -m flows register STUDY --rule lowest-perplexity`.

The model is called secateur-STUDY, each of its versions is one subject, and an alias with the name of the rule points to the
version that the rule chose last. A version links the subject's run and names the DVC md5 of its tensors; nothing is uploaded.
"""

from typing import TYPE_CHECKING, Any

import typer

from flows.tracking.address import DIGEST, ROLE, STUDY, SUBJECT, answering, shown, tracked_study
from flows.tracking.alone import alone
from flows.tracking.live import pages
from flows.tracking.origin import COMMIT, COMMITTED
from flows.tracking.rules import Wanted, best

if TYPE_CHECKING:
    from mlflow import MlflowClient

TENSORS = ("dvc.model", "dvc.masks", "dvc.adapter")


def run(study: str, rule: str, wanted: Wanted) -> str:
    """The version that the rule chose, after it was registered unless it was; `UserError` if nothing fulfils the rule."""
    with alone(), answering() as client:
        experiment, _ = tracked_study(client, study)
        chosen = f"tags.`{ROLE}` = 'subject' and tags.`{STUDY}` = '{study}' and tags.`{DIGEST}` != ''"
        found, metric = best(study, pages(client, experiment, chosen), rule, wanted)
        subject, name = found.data.tags[SUBJECT], f"secateur-{study}"
        _model(client, name, study)
        version, is_new = _version(client, name, found)
        why = f"{metric} = {found.data.metrics[metric]:.10g}"
        client.set_model_version_tag(name, version, f"secateur.rule.{rule}", f"{why} ({wanted})" if str(wanted) else why)
        client.set_registered_model_alias(name, rule, version)
    said = "registered" if is_new else "was registered already"
    typer.echo(f"{subject}: {why}; {said} as {name} version {version} in {shown()}")
    return version


def _model(client: "MlflowClient", name: str, study: str) -> None:
    if not client.search_registered_models(f"name = '{name}'", max_results=1):
        client.create_registered_model(name, {STUDY: study}, "Pruned models; their tensors are in DVC")


def _version(client: "MlflowClient", name: str, found: Any) -> tuple[str, bool]:
    """The version of these tensors, and whether it was made just now. A newer run of the same tensors is linked by a tag."""
    tags = found.data.tags
    what = {SUBJECT: tags[SUBJECT]}
    for tensor in TENSORS:
        if path := tags.get(tensor):
            what |= {tensor: path, f"{tensor}.md5": tags[f"dvc.md5/{path}"]}
    link = {"secateur.run": found.info.run_id, DIGEST: tags[DIGEST]}
    for version in client.search_model_versions(f"name = '{name}'"):
        if {tag: version.tags.get(tag) for tag in what} == what:
            for tag, value in link.items():
                if version.tags.get(tag) != value:
                    client.set_model_version_tag(name, version.version, tag, value)
            return str(version.version), False
    tensors = " ".join(tags[tensor] for tensor in TENSORS if tensor in tags)
    at = f"at commit {tags[COMMIT]}" if tags.get(COMMITTED) == "true" else "that has these results"
    fetch = f"dvc pull {tensors} (without a DVC remote: dvc repro)"
    described = f"In a clone {at}: {fetch}, then python -m stages export {tags[SUBJECT]} --to DIR"
    source = f"runs:/{found.info.run_id}/model"
    made = client.create_model_version(name, source, found.info.run_id, what | link, description=described)
    return str(made.version), True
