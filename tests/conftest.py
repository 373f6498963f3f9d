"""Tiny random models of every family, saved as checkpoint folders, and the tokens to calibrate them with."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stages._io import offline_and_silent

offline_and_silent()  # before torch starts its threads

import pytest  # noqa: E402
import torch  # noqa: E402

if TYPE_CHECKING:
    from mlflow import MlflowClient

VOCABULARY = 96
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
}
FAMILIES = {
    "llama": ("llama", LLAMA),
    "llama-tied": ("llama", LLAMA | {"tie_word_embeddings": True}),
    "mistral-window": ("mistral", LLAMA | {"sliding_window": 8}),
    "qwen2-mixed": ("qwen2", LLAMA | {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8}),
    "qwen3": ("qwen3", LLAMA | {"head_dim": 16}),
    "opt-pre-norm": ("opt", OPT),
    "opt-post-norm": ("opt", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "gpt2": (
        "gpt2",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
}


def save_tiny_model(family: str, folder: Path) -> Path:
    """A random model of the family, weights large enough for its outputs to differ, with a SHA256SUMS like any artifact."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from secateur.outputs import whole_folder

    model_type, settings = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    with whole_folder(folder) as partial:
        model.save_pretrained(partial)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests begin first, so that nobody waits for them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_model("gpt2")` → a checkpoint folder, made once a session. Do not write into it."""
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("models")

    def make(family: str) -> Path:
        if family not in made:
            made[family] = save_tiny_model(family, root / family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def tokens() -> torch.Tensor:
    """Six sequences of 24 tokens."""
    return torch.randint(0, VOCABULARY, (6, 24), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the results of a study, once tracked in a database of its own."""
    from flows import track
    from tests.tracked_data import make_project, write_report

    make_project(root := tmp_path_factory.mktemp("tracked"))
    write_report(root)
    with pytest.MonkeyPatch.context() as patch:
        _inside(root, patch)
        track.run()
    return root


@pytest.fixture
def tracked_copy(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of its files and its database; artifacts of its runs stay where they were."""
    root = shutil.copytree(tracked, tmp_path / "project")
    _inside(root, monkeypatch)
    return root


@pytest.fixture
def client(project: Path) -> "MlflowClient":
    """Of the database of the test's own project."""
    from mlflow import MlflowClient

    return MlflowClient(database := f"sqlite:///{project}/mlflow.db", database)


def _inside(root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(root)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        patch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Prefect server on the loopback, with the project's pools and deployments."""
    from tests import flow_project

    folder = flow_project.make(tmp_path_factory.mktemp("server") / "served")
    port = flow_project.free_port()
    address = f"http://127.0.0.1:{port}/api"
    serve = f"from flows import serve; serve.prefect({port})"
    flow_project.run(folder, sys.executable, "-c", f"{serve}.start()")
    flow_project.run(folder, *flow_project.flows("deploy"), PREFECT_API_URL=address)
    yield address
    flow_project.run(folder, sys.executable, "-c", f"{serve}.stop()")


@pytest.fixture(autouse=True)
def two_threads() -> None:
    """Every test runs under the thread count of the default study."""
    torch.set_num_threads(2)
