"""The result files that the stages write, as the report reads them."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Result(BaseModel):
    """A result file; fields that the report does not use may be added by a stage at any time."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Perplexity(Result):
    """One file of eval-ppl. `windows` of `length` tokens were used of `windows_available`; `mean_nll` is in nats.

    A single window has no standard error.
    """

    subject: str
    corpus: str
    split: str
    protocol: str
    length: int
    windows: int
    windows_limit: int | None
    windows_available: int
    tokens: int
    perplexity: float
    nll_standard_error: float | None
    provenance: dict[str, str | None]


class Score(Result):
    """One zero-shot task; accuracies and standard errors are fractions, normed ones only where the task has them.

    A single item has no standard error. `split` is the one that was evaluated.
    """

    acc: float
    acc_stderr: float | None
    acc_norm: float | None = None
    acc_norm_stderr: float | None = None
    samples: int
    split: str = "validation"

    @property
    def preferred(self) -> tuple[str, float, float | None]:
        """Metric name, value and standard error: acc_norm where the task defines it, else acc."""
        if self.acc_norm is not None:
            return "acc_norm", self.acc_norm, self.acc_norm_stderr
        return "acc", self.acc, self.acc_stderr


class Mean(Result):
    """A mean under a named rule: over the tasks that were run, of the number that the rule asks for."""

    mean: float
    tasks: list[str]
    of: int


class Zeroshot(Result):
    """One file of eval-zeroshot; `limit` is the number of items per task, or None for all."""

    subject: str
    data: str
    limit: int | None
    tasks: dict[str, Score]
    means: dict[str, Mean]
    provenance: dict[str, str | None]


class Bytes(Result):
    """Sizes of the pruned linears: `dense`; `packed` as masks and all survivors; `masks` and `values` that the run stores.

    `values` is 0 for a method that leaves survivors as they are: those are read from the dense checkpoint.
    """

    dense: int
    masks: int
    values: int
    packed: int


class Layer(Result):
    """Share of zeros in one weight matrix."""

    sparsity: float


class Block(Result):
    """Share of zeros in one block and in each of its layers."""

    sparsity: float
    layers: dict[str, Layer]


class Settings(Result):
    """The row of params.yaml that a run was made from, and that of its calibration if it needed one."""

    run: dict[str, Any]
    calibration: dict[str, Any] | None


BlockName = Annotated[str, Field(pattern="^block_[0-9]+$")]


class State(Result):
    """What d2prune measured of one state of q, k and v: the relative squared error of their outputs, and the KL divergence of
    the attention probabilities, both against the weights before pruning."""

    L_rel: float
    KL: float


class KlChoice(Result):
    """A block whose state, a U (updated) or N (not) for each of q, k and v, is the best of all eight by attention."""

    dynamic: Literal["kl"]
    states: dict[str, State]
    state: Annotated[str, Field(pattern="^[UN]{3}$")]
    no_update: str

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """`before` and `after` are there, and `no_update` says what `state` says."""
        if missing := {"UUU", self.state} - self.states.keys():
            raise ValueError(f"no numbers for the state {min(missing)!r}")
        letters = "".join(letter for letter, form in zip("qkv", self.state, strict=True) if form == "N") or "none"
        if self.no_update != letters:
            raise ValueError(f"state {self.state!r} leaves {letters} without an update, not {self.no_update}")
        return self

    @property
    def before(self) -> State:
        """All three updated, as without a choice."""
        return self.states["UUU"]

    @property
    def after(self) -> State:
        """As chosen."""
        return self.states[self.state]


class Shares(Result):
    """For each of q, k and v the fraction of weights (or scores) above their mean."""

    q: float
    k: float
    v: float


class OutlierChoice(Result):
    """A block in which the one of q, k and v with the largest share is not updated; `metric` is what was looked at."""

    dynamic: Literal["outlier"]
    metric: str
    share: Shares
    no_update: Literal["q", "k", "v"]


Choice = Annotated[KlChoice | OutlierChoice, Field(discriminator="dynamic")]


class CurvePoint(Result):
    """One step of a training; held-out perplexity is measured at some of them, step 0 is before the first."""

    step: int
    loss: float | None
    learning_rate: float | None
    held_out_perplexity: float | None


class FineTuned(Result):
    """What `lora-finetune` wrote: perplexity on held-out text before training and of what was kept, if there was any."""

    finetune: str
    steps: int
    kept_step: int | None
    trained_parameters: int
    perplexity_before: float | None
    perplexity_after: float | None
    curve: list[CurvePoint]
    provenance: dict[str, str | None]


class Sparsity(Result):
    """What `prune` wrote about one run; `choices`, by block, only for a method that decides something block by block."""

    run: str
    method: str
    pattern: str
    target: float
    achieved: float
    bytes: Bytes
    blocks: dict[str, Block]
    settings: Settings
    choices: dict[BlockName, Choice] | None = None
    provenance: dict[str, str | None]
