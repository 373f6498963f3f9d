"""Under which conditions the committed state was made, and whether they are the present ones."""

from pathlib import Path

import yaml

from pipelines.schema import Compute, parse
from secateur.artifacts import read_json, write_json
from secateur.errors import UserError

FINGERPRINT = "fingerprint.json"
CPUINFO = Path("/proc/cpuinfo")


def here(root: Path) -> dict[str, str]:
    """The fingerprint of this machine for the project in `root`, whose params.yaml says how many threads compute.

    `secateur.determinism.fingerprint`, and which processor it is: two with the same instructions, but other caches, cut a matrix
    product into other blocks, and so add in another order.
    """
    import torch

    from secateur import determinism

    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    compute = parse(Compute, params["compute"], "params.yaml: compute")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(compute.threads)
        return determinism.fingerprint() | {"cpu": _cpu()}
    finally:
        torch.set_num_threads(threads)


def _cpu() -> str:
    """Name, family and model of the first processor, where the system tells."""
    if not CPUINFO.is_file():
        return "unknown"
    first = CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    known = [facts.get("model name", "")]
    known += [f"{name} {facts[name]}" for name in ("cpu family", "model", "CPU part", "CPU variant") if name in facts]
    return ", ".join(filter(None, known)) or "unknown"


def committed(root: Path) -> dict[str, str]:
    """The fingerprint that the project in `root` carries."""
    found = read_json(root / FINGERPRINT) if (root / FINGERPRINT).is_file() else None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UserError(f"{FINGERPRINT} is not committed, or no mapping of texts; `python -m flows check --accept` writes it")
    return found


def write(root: Path) -> None:
    """Say in the project that its state is of this machine."""
    write_json(root / FINGERPRINT, here(root))
