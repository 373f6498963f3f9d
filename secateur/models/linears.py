"""The one place that knows how linears store their weights: everywhere else they are [out, in]."""

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

LINEARS = (nn.Linear, Conv1D)


def linear_at(block: nn.Module, path: str) -> nn.Linear | Conv1D:
    """The linear at a dotted path of a block."""
    module = block.get_submodule(path)
    if not isinstance(module, LINEARS):
        raise TypeError(f"{path} is a {type(module).__name__}, not a linear layer")
    return module


def weight_of(linear: nn.Linear | Conv1D) -> Tensor:
    """An [out, in] VIEW of the weight: writing to it writes to the layer. GPT-2's Conv1D stores [in, out]."""
    return linear.weight.data.T if isinstance(linear, Conv1D) else linear.weight.data


def as_stored(linear: nn.Linear | Conv1D, tensor: Tensor) -> Tensor:
    """A tensor [out, in] in the layout of `linear.weight`."""
    return tensor.T if isinstance(linear, Conv1D) else tensor


def inputs_first(linear: nn.Module) -> bool:
    """Whether the layer stores its weight [in, out]."""
    return isinstance(linear, Conv1D)


def bias_of(linear: nn.Linear | Conv1D) -> Tensor | None:
    """The bias [out], itself and not a copy; None if the layer has none."""
    return None if linear.bias is None else linear.bias.data


def attention_letters(path: str) -> str:
    """Which of the queries, keys and values a linear computes, in the order of its rows: "q", "k", "v", "qkv" for GPT-2's fused
    layer (three equal parts), "" for any other linear."""
    return {"q_proj": "q", "k_proj": "k", "v_proj": "v", "c_attn": "qkv"}.get(path.rpartition(".")[2], "")
