"""What a model's config.json, or the catalogue's facts of it, lacks for the rules on widths and lengths."""

from collections.abc import Mapping
from typing import Any

from secateur.errors import UserError
from secateur.models.adapters import adapter_for

Config = Mapping[str, Any]


def config_problems(config: Config) -> list[str]:
    """What keeps the adapters from reading a model's sizes."""
    try:
        adapter_for(config).sizes(config)
    except UserError as error:
        return [str(error)]
    return []


def fact_problems(config: Config) -> list[str]:
    """The same of what the catalogue says of a model that is not at hand: nothing may be left to a family's defaults there."""
    try:
        missing = [key for key in adapter_for(config).keys if key not in config]
    except UserError as error:
        return [str(error)]
    return [f"{missing[0]!r} is missing"] if missing else config_problems(config)
