"""What may be named as an asset: models, texts and task data, in pipelines/assets.yaml or under a study's `assets`."""

from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines.schema import Digests, Fetched, FetchedText, Slug, Source, Strict
from secateur.errors import UserError

ROOT = Path("pipelines")
CATALOGUE = ROOT / "assets.yaml"


class ModelAsset(Fetched):
    """A model. `config` holds facts of its config.json: widths and context are checked before the download."""

    config: dict[str, Any] = Field(default_factory=dict)


class CorpusAsset(FetchedText):
    """A text. `splits` lists the splits that exist, or maps each to its part of the source."""

    splits: list[str] | dict[str, str] | None = None

    def split_names(self) -> list[str]:
        """Every split that a study may name."""
        names = list(self.splits or ["train"])
        return [*names, "heldout"] if self.holdout and "heldout" not in names else names


class TasksAsset(Strict):
    """Zero-shot data for some of the known tasks."""

    source: Source
    sha256: Digests | None = None
    tasks: list[str]


class Catalogue(Strict):
    """Assets by kind and name."""

    models: dict[Slug, ModelAsset] = Field(default_factory=dict)
    corpora: dict[Slug, CorpusAsset] = Field(default_factory=dict)
    tasks: dict[Slug, TasksAsset] = Field(default_factory=dict)

    def join(self, other: "Catalogue", where: str) -> "Catalogue":
        """Both together; a name with two different entries is an error."""
        tables = {}
        for kind in Catalogue.model_fields:
            mine, theirs = getattr(self, kind), getattr(other, kind)
            for name in mine.keys() & theirs.keys():
                if mine[name] != theirs[name]:
                    raise UserError(f"{where}: assets.{kind}.{name}: {CATALOGUE} has another {name!r}; choose a different name")
            tables[kind] = mine | theirs
        return Catalogue(**tables)
