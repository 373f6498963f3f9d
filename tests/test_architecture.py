"""Imports point down only, and `--help` is quick."""

import ast
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "secateur": {"dvc", "prefect", "mlflow", "typer", "pydantic", "stages", "pipelines", "flows"},
    "stages": {"dvc", "prefect", "mlflow", "flows"},
    "pipelines": {"dvc", "prefect", "mlflow", "flows", "stages"},
}
LIVE = ROOT / "stages" / "_live.py"  # tells MLflow of a training while it runs
# What only evaluation may need beyond torch, transformers and safetensors (tqdm comes with transformers).
LIBRARY = {"torch", "transformers", "safetensors", "tqdm", "secateur"}
HEAVY = {"torch", "transformers", "prefect", "mlflow"}  # a command that only shows its help needs none of these
# Fine-tuning alone may ask for these, and only when it begins.
FINETUNE = {"accelerate", "peft"}


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_down(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not imported(file) & (FORBIDDEN[package] - ({"mlflow"} if file == LIVE else set())), file


def test_the_core_needs_three_packages() -> None:
    for file in sorted((ROOT / "secateur").rglob("*.py")):
        if "evaluation" not in file.parts:
            allowed = LIBRARY | FINETUNE if "finetune" in file.parts else LIBRARY
            assert imported(file) <= allowed | set(sys.stdlib_module_names), file


def test_the_library_is_there_without_what_fine_tuning_needs() -> None:
    """Settings and data can be made, a trained run loaded and merged; training says what to install, before any work."""
    without = """
        import sys
        sys.modules["peft"] = sys.modules["accelerate"] = None
        from pathlib import Path
        import torch
        from secateur import UserError, engine, examples, export
        from secateur.calibration import alpaca
        from secateur.finetune import held_out, load, merge, origin, recipes, targets, train
        try:
            train.finetune(Path("m"), None, torch.ones(2, 4), Path("o"), work=Path("w"), settings=recipes.recipe("wanda"))
        except UserError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", dedent(without)], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "fine-tuning needs peft and accelerate: pip install peft accelerate\n"


@pytest.mark.parametrize("module", ["stages", "pipelines", "flows"])
def test_help_is_quick_and_teaches(module: str) -> None:
    shown = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Commands" in shown.stdout
    heavy = f"import sys, {module}.__main__; sys.exit(bool({HEAVY} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", heavy], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("package", ["secateur", "stages", "pipelines", "flows"])
def test_files_stay_small(package: str) -> None:
    long = {file.name: lines for file in (ROOT / package).rglob("*.py") if (lines := len(file.read_text().splitlines())) > 250}
    assert not long
