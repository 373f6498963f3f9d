"""A pruned run as a plain checkpoint that any program reads: dense tensors with zeros in them."""

import shutil
from pathlib import Path

from secateur.artifacts import whole_folder
from secateur.errors import UserError
from secateur.models.load import assemble

TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*")


def export(model: Path, pruned: Path | None, to: Path) -> None:
    """Write the assembled model (fp32) and the tokenizer to the new folder `to`, for stock `from_pretrained`."""
    if to.exists():
        raise UserError(f"{to} exists already; name a folder that does not")
    if not to.parent.is_dir():
        raise UserError(f"{to.parent} is not a folder; make it first, or name another place")
    with whole_folder(to) as folder:
        assemble(model, pruned, device="cpu").save_pretrained(folder)
        for pattern in TOKENIZER_FILES:
            for file in sorted(model.glob(pattern)):
                shutil.copyfile(file, folder / file.name)
