"""What an evaluation reads: the dense model or the run that its row names, and the digests that identify both."""

from typing import TYPE_CHECKING, Any

from pipelines.schema import Compute, parse
from secateur.artifacts import identity
from stages._io import ARTIFACTS, read_params

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_subject(model: str, source: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]":
    """The assembled model, its tokenizer and the provenance of both, with threads and seeds fixed by `compute`.

    `source` is relative to `artifacts/`: a model folder (dense), or a run to apply to the model named `model`.
    """
    from secateur.determinism import prepare
    from secateur.models.load import assemble, load_tokenizer

    compute = parse(Compute, read_params()["compute"], "params.yaml: compute")
    prepare(compute.threads)
    dense = ARTIFACTS / "models" / model
    pruned = None if ARTIFACTS / source == dense else ARTIFACTS / source
    provenance = {"model": identity(dense), "masks": None if pruned is None else identity(pruned)}
    return assemble(dense, pruned, compute.device), load_tokenizer(dense), provenance
