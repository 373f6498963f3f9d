"""What an evaluation reads: a dense model, a run or a fine-tuned run, and the digests that identify it."""

from typing import TYPE_CHECKING, Any

from pipelines.schema import Compute, Subject, parse
from secateur.artifacts import identity
from stages._io import ARTIFACTS, read_section

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_subject(row: Subject) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]":
    """The assembled model, its tokenizer and the provenance of both, with threads and seeds fixed by `compute`."""
    from secateur.determinism import prepare
    from secateur.finetune.load import finetuned
    from secateur.models.load import assemble, load_tokenizer

    compute = parse(Compute, read_section("compute"), "params.yaml: compute")
    prepare(compute.threads)
    dense, source, adapter = ARTIFACTS / "models" / row.model, ARTIFACTS / row.source, ARTIFACTS / row.adapter
    pruned = None if source == dense else source
    provenance = {"model": identity(dense), "masks": None if pruned is None else identity(pruned)}
    if row.mode is None:
        return assemble(dense, pruned, compute.device), load_tokenizer(dense), provenance
    model = finetuned(dense, pruned, adapter, row.mode, compute.device)
    return model, load_tokenizer(dense), provenance | {"adapter": identity(adapter)}
