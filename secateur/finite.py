"""Inf and nan, found before they spread and named by the tensor that holds them."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from secateur.artifacts import open_tensors
from secateur.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

REMEDY = "fetch or make the model again"


def not_finite(tensor: "Tensor") -> str | None:
    """Which of "nan" and "inf" the tensor holds; None if every entry is a finite number.

    The least and the largest entry tell, since nan beats both: one pass, and no copy of a tensor that may be large.
    """
    if not (tensor.is_floating_point() and tensor.numel()):
        return None
    known = tensor if tensor.element_size() > 1 else tensor.float()  # 8-bit types know few operations
    ends = torch.stack(known.aminmax())
    return None if ends.isfinite().all() else "nan" if ends.isnan().any() else "inf"


def weight_not_finite(module: "nn.Module") -> str | None:
    """The first parameter in memory that holds inf or nan, as `NAME holds nan`."""
    found = ((name, not_finite(weight.data)) for name, weight in module.named_parameters() if not weight.is_meta)
    return next((f"{name} holds {kind}" for name, kind in found if kind), None)


def check_weights(module: "nn.Module") -> None:
    """A `UserError` that names a parameter with inf or nan, if there is one."""
    if found := weight_not_finite(module):
        raise UserError(f"{found}: {REMEDY}")


def check_files(files: Iterable[Path]) -> None:
    """The same for safetensors files, one tensor in memory at a time."""
    for file in files:
        with open_tensors(file) as opened:
            for name in opened.keys():  # noqa: SIM118  # safetensors' own class has no iterator
                if kind := not_finite(opened.get_tensor(name)):
                    raise UserError(f"{file}: {name} holds {kind}: {REMEDY}")


def why_not_finite(module: "nn.Module", what: str) -> str:
    """Why `what`, which `module` computes in fp32, is not finite."""
    found = weight_not_finite(module)
    return f"{found}: {REMEDY}" if found else f"{what} overflows fp32, although all its weights are finite"


def why_not_stored(exact: "Tensor", dtype: torch.dtype) -> str:
    """Why new weights cannot be stored in `dtype`."""
    if kind := not_finite(exact):
        return f"a new weight is {kind}, made of weights and statistics that are finite: raise percdamp or use more samples"
    name, largest = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
    return (
        f"a new weight of {float(exact[exact.abs().argmax()]):.3g} does not fit {name} (largest {largest:.6g}), in which the "
        "checkpoint stores it: save the checkpoint in bfloat16 or float32 first, or prune with a method that keeps the weights"
    )
