"""What a study may say, what the catalogue may say, and reading both from YAML."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from pipelines.catalogue import CATALOGUE, ROOT, Catalogue
from pipelines.schema import Compute, Mode, Pattern, Positive, Slug, Sparsity, Strict, Table, parse
from secateur.artifacts import read_json, read_text
from secateur.errors import UserError, unknown_name
from secateur.shares import DENSE

TASKS = ("arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "piqa", "rte", "winogrande")

T = TypeVar("T")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _tables_as_list(value: Any) -> Any:
    """A list of numbers, or of patterns, is one allocation, not several."""
    one = isinstance(value, list) and all(not isinstance(item, list | dict) and not _is_name(item) for item in value)
    return value if isinstance(value, list) and not one else [value]


def _is_name(item: Any) -> bool:
    return isinstance(item, str) and ":" not in item and item != DENSE


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Axis = Annotated[list[T], BeforeValidator(_as_list), Field(min_length=1)]


class Calibration(Strict):
    """Which tokens the models are shown. `bundle` is what `dense` runs may read; left out, it follows from the runs.

    The sampler `alpaca` makes examples for fine-tunings out of a corpus with the columns instruction, input and output: its first
    `samples` documents, or all if there are fewer, cut off after `length` tokens."""

    corpus: str
    split: str = "train"
    sampler: str = "documents"
    samples: Positive
    length: Positive
    seed: Annotated[int, Field(ge=0)] = 0
    bundle: Literal["tokens", "moments", "gram", "outputs"] | None = None  # gradients are collected for whoever reads them


class Choice(Strict):
    """Something by name, and its options beside it."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


Named = Annotated[Choice, BeforeValidator(_named)]


TableOrRule = Annotated[
    Annotated[Table, Tag("table")] | Annotated[Named, Tag("rule")],
    Discriminator(lambda value: "table" if isinstance(value, list) else "rule"),
]


class FineTune(Strict):
    """How the survivors of a run are trained: a recipe of `secateur.finetune` and options of it beside its name. `data` and
    `validation` are calibrations of the study: `data` should be drawn by the sampler `packed` or `alpaca`, `validation` is what
    the perplexity is measured on before, during and after. Every one of `modes` becomes a subject of the evaluations."""

    model_config = ConfigDict(extra="allow")

    recipe: str
    data: str
    validation: str | None = None
    modes: Axis[Mode] = Field(["unmerged"])

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class RunGrid(Strict):
    """Runs: every value may be a list, and the product is taken. Left out: every model, the only calibration. `gradients` is
    the calibration whose gradients a method reads that needs them; left out, that of the run. `finetune` names fine-tunings
    of the study; each is a subject beside the run itself."""

    model: Axis[str] | None = None
    calibration: Axis[str] | None = None
    gradients: str | None = None
    method: Axis[Named]
    sparsity: Axis[Sparsity] | None = None
    pattern: Axis[Pattern] = Field(["unstructured"])
    count: Axis[Literal["reference", "exact"]] = Field(["reference"])
    propagation: Axis[Literal["site", "block", "dense"]] = Field(["site"])
    allocation: Annotated[list[TableOrRule], BeforeValidator(_tables_as_list)] = Field([Choice(name="uniform")])
    refinement: Axis[Named] = Field([Choice(name="none")])
    update: Axis[Named] = Field([Choice(name="none")])
    finetune: Axis[str] = Field([])


class Perplexity(Strict):
    """A perplexity of every subject, or of those of some `models`. The papers' C4 is `documents: 1100`, `joiner: " "` and
    `windows: 256`."""

    models: Axis[str] | None = None
    corpus: str
    split: str
    joiner: str = "\n\n"
    documents: Positive | None = None
    protocol: Literal["A", "B"] = "A"
    length: Annotated[int, Field(ge=2)]
    windows: Positive | None = None


class Zeroshot(Strict):
    """Zero-shot tasks for every subject, or for those of some `models`; left out, `tasks` are all that the data has."""

    models: Axis[str] | None = None
    data: str
    tasks: Annotated[list[str], Field(min_length=1)] | None = None
    limit: Positive | None = None


class Study(Strict):
    """One YAML file. `assets` defines models, corpora and task data of its own, in the form of the catalogue."""

    title: str
    compute: Compute = Compute()
    assets: Catalogue = Catalogue()
    models: Annotated[list[str], Field(min_length=1)]
    calibrations: dict[Slug, Calibration] = Field(default_factory=dict)
    finetunes: dict[Slug, FineTune] = Field(default_factory=dict)
    runs: list[RunGrid] = Field(default_factory=list)
    perplexity: list[Perplexity] = Field(default_factory=list)
    zeroshot: list[Zeroshot] = Field(default_factory=list)


def read_yaml(path: Path) -> Any:
    """YAML 1.2 (an unquoted 2:4 is text, not minutes and seconds); a key given twice is an error."""
    if not path.exists():
        raise UserError(f"{path} does not exist here; run in the project's folder")
    text = read_text(path)
    try:
        return YAML(typ="safe", pure=True).load(text)
    except ReaderError:
        raise UserError(f"{path} is not YAML text in UTF-8") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be read") from None
    except MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}:{line} {error.problem}") from None


def read_catalogue() -> Catalogue:
    """The catalogue of the project."""
    return parse(Catalogue, read_yaml(CATALOGUE), str(CATALOGUE))


def study_files() -> dict[str, Path]:
    """Every study below pipelines/ by the stem of its file."""
    files: dict[str, Path] = {}
    for path in sorted(ROOT.rglob("*.yaml")):
        if path == CATALOGUE:
            continue
        if path.stem in files:
            raise UserError(f"{path} and {files[path.stem]} have the same name: rename one")
        files[path.stem] = path
    return files


def read_study(name: str) -> tuple[str, Study]:
    """The study called `name`, or in the file `name`; with the name that params.yaml and the report use for it."""
    files = study_files()
    path = files.get(name) or Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise unknown_name("study", name, files)
    return parse_name(path), parse(Study, read_yaml(path), path.as_posix())


def parse_name(path: Path) -> str:
    """The stem of a study's file, which becomes a key of params.yaml."""
    return parse(_StudyName, {"name": path.stem}, f"the file name {path.name}").name


class _StudyName(Strict):
    name: Slug


def known_configs(catalogue: Catalogue) -> Mapping[str, Mapping[str, Any]]:
    """config.json of every model if known: in its `file:` source, else downloaded, else the facts of the catalogue."""
    configs = {}
    for name, asset in catalogue.models.items():
        local = Path(asset.source.removeprefix("file:")).expanduser() if asset.source.startswith("file:") else None
        places = [local] if local else [Path("artifacts/models") / name]
        found = next((place / "config.json" for place in places if (place / "config.json").is_file()), None)
        if found or asset.config:
            configs[name] = read_json(found) if found else asset.config
            if not isinstance(configs[name], dict):
                raise UserError(f"{found} is not a model's configuration: must be a JSON object")
    return configs
