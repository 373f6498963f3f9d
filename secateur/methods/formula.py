"""A score given as a tree of operations in a JSON file: any metric that Pruner-Zero's search can find."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.artifacts import read_json
from secateur.errors import UserError, unknown_name
from secateur.finite import not_finite
from secateur.methods.gradient_score import GradientScore, gradient_of, min_max
from secateur.statistics import SiteStatistics

DEPTH, NODES = 32, 512
"""The largest tree that is read; the search of the paper makes trees of depth 4."""

TERMINALS = ("W", "G", "X")
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "exp": lambda x: x.clamp(max=100).exp().clamp(max=torch.finfo(x.dtype).max),
    "log": lambda x: (x.abs() + 0.001).log(),
    "mms": min_max,
    "neg": torch.neg,
    "pow": torch.square,
    "skp": lambda x: x,
    "sqr": torch.square,
    "sqrt": lambda x: x.abs().sqrt(),
    "tanh": torch.tanh,
    "zsn": lambda x: (x - x.mean()) / x.std(),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "div": lambda x, y: x / torch.broadcast_tensors(x, y)[1].norm(),
    "mul": torch.mul,
    "sub": torch.sub,
}


@dataclass(frozen=True)
class Node:
    """A terminal, or an operation on one (`left`) or two values."""

    data: str
    children: tuple["Node", ...]

    def value(self, terminals: dict[str, Tensor]) -> Tensor:
        """The tree's value, in fp32."""
        values = [child.value(terminals) for child in self.children]
        if self.data in TERMINALS:
            return terminals[self.data]
        return UNARY[self.data](*values) if self.data in UNARY else BINARY[self.data](*values)


def parse(content: Any) -> Node:
    """The tree that parsed JSON describes: {"data": operation or terminal, "left": node, "right": node}."""
    budget = NODES

    def node(content: Any, place: str, depth: int) -> Node:
        nonlocal budget
        budget -= 1
        if depth > DEPTH or budget < 0:
            raise UserError(f"{place}: the tree is too large; at most {DEPTH} levels and {NODES} nodes are allowed")
        if not isinstance(content, dict) or not isinstance(content.get("data"), str):
            raise UserError(f"{place}: must be an object with 'data', the name of an operation or of W, G or X")
        name = content["data"]
        known = {**dict.fromkeys(TERMINALS, 0), **dict.fromkeys(UNARY, 1), **dict.fromkeys(BINARY, 2)}
        if name not in known:
            raise UserError(f"{place}: {unknown_name('operation', name, known)}")
        wanted = {"left", "right"} if known[name] == 2 else {"left"} if known[name] else set()
        if (found := set(content) - {"data"}) != wanted:
            has, needs = (", ".join(sorted(keys)) or "nothing" for keys in (found, wanted))
            raise UserError(f"{place}: {name} must have {needs} beside 'data', it has {has}")
        return Node(name, tuple(node(content[side], f"{place}.{side}", depth + 1) for side in sorted(wanted)))

    return node(content, "root", 1)


@dataclass(frozen=True)
class Formula(GradientScore):
    """S = the value of the tree in `file`, with the terminals W = |weight| and G = gradient magnitude, both [out, in], and
    X = a, the energy of the inputs, as a row [1, in]. In every row the k lowest go, or n of m. No weight update.

    add, sub, mul are the arithmetic ones with broadcasting; div(x, y) = x / ‖y‖_F, y broadcast. sqr and pow are both x²; neg,
    abs, tanh as named; log = ln(|x| + 0.001), exp = e^min(x, 100) and at most the largest fp32, sqrt = √|x|, skp = x,
    mms = (x - min)/(max - min) (1 if x is constant), zsn = (x - mean)/std (unbiased), the last two over the whole tensor.

    Dong et al., Pruner-Zero: Evolving Symbolic Pruning Metric From Scratch for Large Language Models (arXiv 2406.02924).
    """

    file: str = ""

    needs: ClassVar[str] = "moments"

    def __post_init__(self) -> None:
        if not self.file:
            raise UserError("formula needs the option 'file': the path of a tree in JSON")
        _ = self.tree  # a bad file is refused before any work

    @cached_property
    def tree(self) -> Node:
        """The parsed file."""
        path = Path(self.file)
        if not path.is_file():
            raise UserError(f"formula file {self.file}: no such file")
        try:
            content = read_json(path)
        except (RecursionError, UnicodeDecodeError, UserError) as error:
            raise UserError(f"formula file {self.file}: not a tree in JSON ({error})") from None
        try:
            return parse(content)
        except UserError as error:
            raise UserError(f"formula file {self.file}: {error}") from None

    def score(self, weight: Tensor, statistics: SiteStatistics) -> Tensor:
        """The tree's value, expanded to [out, in]."""
        row = statistics.input_energy[None]
        value = self.tree.value({"W": weight.abs(), "G": gradient_of(statistics), "X": row})
        if kind := not_finite(value):
            raise UserError(
                f"formula file {self.file}: the scores are not finite, they hold {kind}: the formula divides by zero or "
                "overflows fp32 on these weights; change the formula"
            )
        return value.expand_as(weight)
