"""How to fine-tune: every setting in one place, and the published recipes as defaults of its subclasses."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from secateur.errors import UserError, unknown_name

TRAININGS = {"unmerged": "lora", "masked_merge": "lora", "masked_training": "masked_lora", "dense": "dense"}
"""Ways to evaluate what was trained, and the training that each needs (`FineTuning.train`)."""

KEEPS = ("last", "best")
AUTOCASTS = ("none", "fp16", "bf16")


@dataclass(frozen=True)
class FineTuning:
    """AdamW without weight decay, gradients clipped to norm 1, a rate that rises for `warmup` steps and then falls linearly to 0:
    what the published recipes share, together with `transformers.Trainer`'s own defaults.

    `train`: `lora` adds (α/r)·B·A to the frozen W; `masked_lora` trains under the mask, P̄ ⊙ (W + (α/r)·B·A), so that the merge
    is exact; `dense` trains the surviving weights themselves, their zeros fixed (`rank`, `alpha`, `dropout` have no meaning).
    `targets`: names as LLaMA's blocks have them; see `resolve_targets` for other families.
    `batch`: examples a step; `micro_batch` of them go through a device at once, which changes rounding but nothing else.
    `interval`: steps between two looks at the held-out text, which are also the points where a killed run continues.
    `keep`: `last` step, or the `best` by held-out loss among those points.
    `autocast`: half precision of matrix products on CUDA; on the CPU everything is fp32.
    `length`, `blocks` (None: all) and `validation` say how much data to draw; `finetune` records what it was given.
    """

    train: str = "lora"
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    rank: int = 8
    alpha: float = 16
    dropout: float = 0.05
    rate: float = 1e-4
    epochs: int = 1
    warmup: int = 5
    batch: int = 128
    micro_batch: int = 1
    length: int = 1024
    blocks: int | None = 30_000
    validation: int = 128
    interval: int = 50
    keep: str = "last"
    autocast: str = "fp16"
    seed: int = 42

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))  # lists come out of YAML
        self._check_names()
        for name in ("rank", "alpha", "epochs", "batch", "micro_batch", "interval", "rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"fine-tuning {name} {getattr(self, name)}: must be above 0")
        for name in ("warmup", "validation", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"fine-tuning {name} {getattr(self, name)}: must not be negative")
        if not 0 <= self.dropout < 1:
            raise UserError(f"fine-tuning dropout {self.dropout}: must be at least 0 and below 1")
        if self.batch % self.micro_batch:
            raise UserError(f"fine-tuning batch {self.batch}: must be a multiple of micro_batch {self.micro_batch}")
        if self.length < 2:
            raise UserError(f"fine-tuning length {self.length}: fewer than 2 tokens predict nothing")
        if self.blocks is not None and self.blocks < 1:
            raise UserError(f"fine-tuning blocks {self.blocks}: must be at least 1, or null for all")

    def _check_names(self) -> None:
        if not self.targets:
            raise UserError("fine-tuning targets: must name at least one linear")
        for kind, value, known in (
            ("training", self.train, dict.fromkeys(TRAININGS.values())),
            ("keep", self.keep, KEEPS),
            ("autocast", self.autocast, AUTOCASTS),
        ):
            if value not in known:
                raise unknown_name(kind, value, known)

    @property
    def scale(self) -> float:
        """α/r."""
        return self.alpha / self.rank

    def settings(self) -> dict[str, Any]:
        """Everything that defines the training, as JSON values."""
        return asdict(self) | {"targets": list(self.targets)}


EVERY_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class WandaLora(FineTuning):
    """Wanda's LoRA recipe, used by D2Prune, Pruner-Zero and OWL (240 000 blocks) too: C4 in blocks of 1024, about 234 steps."""


@dataclass(frozen=True)
class WandaDense(FineTuning):
    """Wanda's `dense_ft`: gradients are zeroed where the mask is. Its repository states no settings; these are those of its LoRA
    recipe. It trains every parameter; here it is the prunable linears, which are what pruning damaged and what a run stores."""

    train: str = "dense"
    targets: tuple[str, ...] = EVERY_LINEAR
    dropout: float = 0.0


@dataclass(frozen=True)
class LLMPruner(FineTuning):
    """LLM-Pruner's recovery of structurally pruned models: cleaned Alpaca, of which 2000 examples validate; bf16 for LLaMA-2."""

    targets: tuple[str, ...] = EVERY_LINEAR
    epochs: int = 2
    warmup: int = 100
    batch: int = 64
    micro_batch: int = 4
    length: int = 256
    blocks: int | None = None
    validation: int = 2000
    interval: int = 100
    keep: str = "best"


RECIPES: Mapping[str, type[FineTuning]] = {"wanda": WandaLora, "llm-pruner": LLMPruner, "dense_ft": WandaDense}


def recipe(name: str, **changes: Any) -> FineTuning:
    """A published recipe with some settings changed; unknown names are `UserError`s that suggest near ones."""
    if name not in RECIPES:
        raise unknown_name("fine-tuning recipe", name, RECIPES)
    for change in changes:
        if change not in RECIPES[name].__dataclass_fields__:
            raise unknown_name(f"setting of the fine-tuning recipe {name}", change, RECIPES[name].__dataclass_fields__)
    return RECIPES[name](**changes)
