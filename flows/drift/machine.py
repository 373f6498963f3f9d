"""Under which conditions the committed state was made, and whether they are the present ones."""

from pathlib import Path

import yaml

from pipelines.schema import Compute, parse
from secateur.artifacts import read_json, write_json
from secateur.errors import UserError

FINGERPRINT = "fingerprint.json"


def here(root: Path) -> dict[str, str]:
    """The fingerprint of this machine for the project in `root`, whose params.yaml says how many threads compute."""
    import torch

    from secateur import determinism

    try:
        given = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))["compute"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"params.yaml: must be YAML with a mapping `compute` ({why}); `python -m pipelines use STUDY`") from None
    compute = parse(Compute, given, "params.yaml: compute")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(compute.threads)
        return determinism.fingerprint()
    finally:
        torch.set_num_threads(threads)


def committed(root: Path) -> dict[str, str]:
    """The fingerprint that the project in `root` carries."""
    found = read_json(root / FINGERPRINT) if (root / FINGERPRINT).is_file() else None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{FINGERPRINT} is not committed, or no mapping of texts; `python -m flows check --accept` writes it")
    return found


def write(root: Path) -> None:
    """Say in the project that its state is of this machine."""
    write_json(root / FINGERPRINT, here(root))
