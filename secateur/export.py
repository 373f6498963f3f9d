"""A run, or what a fine-tuning made of it, as a plain checkpoint that any program reads: dense tensors with zeros in them."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.artifacts import whole_folder
from secateur.errors import UserError
from secateur.finetune.load import attach, check, check_export
from secateur.finetune.origin import Origin
from secateur.models.load import assemble

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*")


def export(model: Path, pruned: Path | None, to: Path, tuned: Path | None = None, mode: str | None = None) -> None:
    """Write the model of folder `model`, pruned by the run `pruned`, with the fine-tuning in folder `tuned` merged as `mode`
    says (fp32), and the tokenizer to the new folder `to`, for stock `from_pretrained`.

    Raises a `UserError`, before anything is written, if `to` exists, if the folders do not belong together, or if merging
    would fill the run's zeros, as `unmerged` does wherever there are masks.
    """
    if to.exists():
        raise UserError(f"{to} exists already; name a folder that does not")
    if not to.parent.is_dir():
        raise UserError(f"{to.parent} is not a folder; make it first, or name another place")
    whole = _whole(model, pruned, tuned, mode)
    with whole_folder(to) as folder:
        whole.save_pretrained(folder)
        for pattern in TOKENIZER_FILES:
            for file in sorted(model.glob(pattern)):
                shutil.copyfile(file, folder / file.name)


def _whole(model: Path, pruned: Path | None, tuned: Path | None, mode: str | None) -> "PreTrainedModel":
    if tuned is None or mode is None:
        if tuned or mode:
            raise UserError("export: a fine-tuning needs a mode, and a mode a fine-tuning; give both or neither")
        return assemble(model, pruned, device="cpu")
    origin = Origin(model, pruned)
    check(tuned, mode, origin)
    check_export(tuned, mode)
    plain = "masked_merge" if mode == "unmerged" else mode  # where nothing is masked, the two are the same weights
    return attach(assemble(model, pruned, device="cpu"), tuned, plain, origin)
