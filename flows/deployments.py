"""What prefect.yaml has for workers of the process pools."""

from pathlib import Path

import yaml

from secateur.errors import UserError

POOLS = ("gpu-process", "coordinate")
FILE = Path("prefect.yaml")


def deployments() -> list[str]:
    """Names of the deployments that run on the process pools; those of Docker and Kubernetes wait for their pools."""
    try:
        listed = yaml.safe_load(FILE.read_text(encoding="utf-8"))["deployments"]
        return list(dict.fromkeys(entry["name"] for entry in listed if entry["work_pool"]["name"] in POOLS))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{FILE}: must have a list `deployments`, each with a name and a work pool ({why})") from None
