"""The headers of the YAML files: every file that they name is there, every command that they give exists, times agree."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer
import yaml

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("pipelines/*.yaml", "*.yaml", ".github/workflows/*.yml")
    for path in ROOT.glob(pattern)
)
MADE = ("artifacts", "results")  # what running stages makes need not be there
WORD = r"[\w.-]+"


def header(text: str) -> str:
    """The comment that a file begins with."""
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.removeprefix("#") for line in lines[:end])


def paths(text: str) -> Iterator[str]:
    """What reads like a file or folder of the project."""
    for found in re.findall(rf"(?<![\w/.<$}}-]){WORD}(?:/{WORD})*/?", text):
        path = found.rstrip("./")
        folder = path.partition("/")[0]
        file = re.search(r"\.(csv|json|lock|md|py|svg|toml|ya?ml)$", path)
        if folder not in MADE and (file or ("/" in path and (ROOT / folder).is_dir())):
            yield path


def is_there(path: str, file: str) -> bool:
    """In the project, beside the file that names it, or a file that everybody knows by its name alone."""
    return (ROOT / path).exists() or ((ROOT / file).parent / path).exists() or path in ("config.json", "my.yaml")


def problems(text: str, file: str) -> Iterator[str]:
    """What a header names that is not there."""
    yield from (f"{path}: no such file" for path in paths(text) if not is_there(path, file))
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    yield from (
        f"make {name}: no such target"
        for name in re.findall(r"\bmake ([a-z-]+)(?=[`\s]*(?:$|\s\s|\())", text)
        if name not in targets
    )
    for module, command, arguments in re.findall(r"python -m (\w+) ([a-z-]+)((?: [a-z0-9-]+)*)", text):
        if not (ROOT / module / "__main__.py").is_file():
            yield f"python -m {module}: no such module"
            continue
        known = getattr(typer.main.get_command(import_module(f"{module}.__main__").app), "commands", {})
        if command not in known:
            yield f"python -m {module} {command}: no such command"
        studies = arguments.split() if module == "pipelines" else []
        yield from (f"study {name}: no such file" for name in studies if not (ROOT / "pipelines" / f"{name}.yaml").is_file())
    listed = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    names = [f"{entry['entrypoint'].rpartition(':')[2]}/{entry['name']}" for entry in listed]
    yield from (f"deployment {name}: unknown" for name in re.findall(r"prefect deployment run (\S+)", text) if name not in names)


@pytest.mark.parametrize("file", FILES)
def test_what_a_header_names_is_there(file: str) -> None:
    assert list(problems(header((ROOT / file).read_text(encoding="utf-8")), file)) == []


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("pipelines/") and not file.endswith("assets.yaml")])
def test_a_study_says_how_to_run_it(file: str) -> None:
    text = header((ROOT / file).read_text(encoding="utf-8"))
    assert all(re.search(rf"^ {part} {{2,}}\S", text, flags=re.MULTILINE) for part in ("command", "hardware", "expect", "source"))
    assert re.search(rf"python -m pipelines use .*\b{Path(file).stem}\b", text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (" source  README of DLP, also in stages/published.csv; protocol A", "stages/published.csv: no such file"),
        (" expect  the table in docs/field.md", "docs/field.md: no such file"),
        (" see pipelines/gone and more", "pipelines/gone: no such file"),
        (" command  make everything", "make everything: no such target"),
        (" command  python -m pipelines use smok && dvc repro", "study smok: no such file"),
        (" command  python -m pipelines list smoke", "python -m pipelines list: no such command"),
        (" command  python -m reports show", "python -m reports: no such module"),
        ("   prefect deployment run reproduce/gpu-proces --param x", "deployment reproduce/gpu-proces: unknown"),
    ],
)
def test_what_is_gone_is_found(text: str, problem: str) -> None:
    assert list(problems(text, "pipelines/smoke.yaml")) == [problem]


def test_the_readme_and_the_study_name_one_time() -> None:
    pattern = r"([\d.]+)(?: hours)? with two (?:rows )?side by side"
    files = [ROOT / "README.md", ROOT / "pipelines" / "field.yaml"]
    times = [re.findall(pattern, " ".join(file.read_text(encoding="utf-8").split())) for file in files]
    assert times == [["3.7"], ["3.7"]]
