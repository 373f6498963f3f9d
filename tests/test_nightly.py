"""The nightly flow on a real project: equal to the day before, or a failure that shows what is not."""

import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from secateur.artifacts import read_json, write_json
from secateur.errors import UserError
from tests.check_project import METRIC, PPL, dvc, make_project, make_state
from tests.flow_project import run

pytestmark = pytest.mark.slow
AWAY = "from flows import track; from tests.test_nightly import away; track.run = away"
NIGHT = "from flows.nightly import nightly; state = nightly(return_state=True); print('ended:', state.type.value, state.message)"


def away() -> None:
    """What `track` says when its server does not answer."""
    raise UserError("MLflow is away")


def test_a_night_is_as_the_day_before_or_says_what_is_not(
    tiny_model: Callable[[str], Path], prefect_server: str, tmp_path: Path
) -> None:
    root = make_project(tmp_path / "project", tiny_model("llama"))
    make_state(root)
    settings = {"PREFECT_API_URL": prefect_server, "PYTHONPATH": str(root)}
    night = run(root, sys.executable, "-c", NIGHT, **settings).stdout
    assert "ended: COMPLETED as it was the day before" in night, night
    assert (root / "mlflow.db").is_file(), "it was tracked"

    metric = root / METRIC
    changed = read_json(metric)
    changed["perplexity"] *= 1.5
    write_json(metric, changed)
    dvc(root, "commit", "--force", f"eval-ppl@{PPL}")  # somebody's improvement
    night = run(root, sys.executable, "-c", NIGHT, **settings).stdout
    assert "ended: FAILED drift: " in night, night
    (shown,) = httpx.post(f"{prefect_server}/artifacts/latest/filter", json={"artifacts": {"key": {"any_": ["drift"]}}}).json()
    assert f"eval-ppl@{PPL}" in shown["data"] and "perplexity" in shown["data"]
    night = run(root, sys.executable, "-c", f"{AWAY}; {NIGHT}", **settings).stdout
    assert "ended: FAILED as it was the day before; not tracked: MLflow is away" in night, night
