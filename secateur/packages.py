"""What some work needs beyond the rest of the library, asked for in time and by name."""

from importlib.util import find_spec

from secateur.errors import UserError


def need(work: str, *packages: str) -> None:
    """Raise a `UserError` that says how to install what is missing; nothing is imported."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(f"{work} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
