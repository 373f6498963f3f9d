"""Tokens, recipes and settings of the library that are wrong: one line each, and no file is touched."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur import Recipe
from secateur.allocation.owl import OWL
from tests.wrong import TOKENS, answers, check
from tests.wrong_calls import (
    TOKEN_TEXT,
    Call,
    Place,
    allocate,
    at,
    calibrate,
    furnished,
    gradients,
    perplexity,
    prune,
    row,
    sample,
    tuning,
)

pytestmark = pytest.mark.timeout(60)
HALF: Any = "0.5"
LONG = torch.zeros(2, 65, dtype=torch.int64)  # the model's context is 64
DIGEST = "api._digest takes the tokens for a tensor before anybody has looked at them"
LATE = "seen only when the work folder is made, which stays behind (.out.partial)"

TOKEN_ROWS = [
    row("none", prune(tokens=None), "tokens"),
    row("a list", prune(tokens=[[1, 2], [3, 4]]), "tokens are a list", "torch.tensor"),
    row("a text", prune(tokens="1 2 3"), "tokens are a str", "tokenise"),
    row("a numpy array", prune(tokens=TOKENS.numpy()), "tokens are a numpy array", "torch.from_numpy"),
    row("a tokenizer's answer", prune(tokens={"input_ids": TOKENS}), "tokens are a dict", "input_ids"),
    row("floats", prune(tokens=TOKENS.float()), "tokens are float32"),
    row("bfloat16", prune(tokens=TOKENS.bfloat16()), "tokens are bfloat16"),
    row("booleans", prune(tokens=TOKENS > 5), "tokens are bool"),
    row("one sequence", prune(tokens=TOKENS[0]), "(16,)", "tokens[None]"),
    row("three dimensions", prune(tokens=TOKENS[None]), "(1, 4, 16)"),
    row("a single number", prune(tokens=torch.tensor(5)), "()"),
    row("no sequence", prune(tokens=TOKENS[:0]), "(0, 16)", "empty"),
    row("no token", prune(tokens=TOKENS[:, :0]), "(4, 0)", "empty"),
    row("negative", prune(tokens=at(2, 3, -1)), "-1", "sequence 2", "position 3"),
    row("ignored label", prune(tokens=at(0, 0, -100)), "-100", "sequence 0"),
    row("beyond the embedding", prune(tokens=at(3, 15, 96)), "96", "sequence 3", "position 15", "from 0 to 95"),
    row("longer than the context", prune(tokens=LONG), "65", "64"),
    row("on no device", prune(tokens=TOKENS.to("meta")), "tokens", "meta"),
    row("sparse", prune(tokens=TOKENS.to_sparse()), "tokens", "sparse"),
    row("of one byte", prune(tokens=TOKENS.to(torch.uint8))),
    row("of 64 bits, not contiguous", prune(tokens=TOKENS.long().T.contiguous().T)),
    row("calibrate: a list", calibrate([[1, 2]]), "tokens are a list"),
    row("calibrate: beyond the embedding", calibrate(at(0, 0, 96)), "96", "from 0 to 95"),
    row("calibrate: longer than the context", calibrate(LONG), "65", "64"),
    row("gradients: a list", gradients([[1, 2]]), "tokens are a list"),
    row("gradients: one token each", gradients(TOKENS[:, :1]), "1 token"),
    row("gradients: longer than the context", gradients(LONG), "65", "64"),
    row("finetune: a list", tuning(tokens=[[1, 2]]), "tokens are a list"),
    row("finetune: beyond the embedding", tuning(tokens=at(1, 1, 500)), "500", "from 0 to 95"),
    row("finetune: longer than the context", tuning(tokens=LONG), "65", "64"),
    row("perplexity: two texts", perplexity(TOKENS), "(4, 16)", "ids[0]"),
    row("perplexity: a list", perplexity([1, 2, 3]), "ids are a list"),
    row("perplexity: beyond the embedding", perplexity(at(0, 2, 99)[0]), "99", "position 2"),
    row("perplexity: too short", perplexity(length=17), "16 tokens", "17"),
    row("perplexity: windows of one token", perplexity(length=1), "1"),
    row("perplexity: beyond the context", perplexity(torch.zeros(200, dtype=torch.int64), 100), "100", "64"),
    row("perplexity: no windows", perplexity(windows=0), "windows", "0"),
    row("perplexity: protocol", perplexity(protocol="C"), "protocol", "'C'"),
    row("sample: one text", sample(TOKEN_TEXT[0]), "one str"),
    row("sample: no text", sample([]), "texts are empty"),
    row("sample: a number among them", sample(["1 2", 3]), "document 1", "int"),
    row("sample: too short", sample(["1 2 3"] * 4), "longer than 8 tokens"),
    row("sample: none wanted", sample(samples=0), "samples 0"),
    row("sample: length a fraction", sample(length=8.5), "length 8.5"),
    row("sample: sampler", sample(sampler="streem"), "'streem'", "stream"),
]

RECIPES = [
    row("method", prune(lambda: Recipe("wandaa", 0.5)), "'wandaa'", "wanda"),
    row("no sparsity", prune(lambda: Recipe("wanda")), "sparsity"),
    row("sparsity 1", prune(lambda: Recipe("wanda", 1.0)), "sparsity 1.0"),
    row("sparsity in percent", prune(lambda: Recipe("wanda", 50)), "sparsity 50"),
    row("sparsity negative", prune(lambda: Recipe("wanda", -0.1)), "sparsity -0.1"),
    row("sparsity nan", prune(lambda: Recipe("wanda", float("nan"))), "sparsity nan"),
    row("sparsity a text", prune(lambda: Recipe("wanda", HALF)), "sparsity", "0.5"),
    row("pattern", prune(lambda: Recipe("wanda", pattern="4:2")), "'4:2'"),
    row("pattern of many lines", prune(lambda: Recipe("wanda", pattern="2:4\n")), "2:4\\n"),
    row("pattern that fits no layer", prune(lambda: Recipe("wanda", pattern="2:5")), "2:5", "32"),
    row("pattern and another sparsity", prune(lambda: Recipe("wanda", 0.7, "2:4")), "0.7", "2:4"),
    row("count", prune(lambda: Recipe("wanda", 0.5, count="exactly")), "'exactly'"),
    row("propagation", prune(lambda: Recipe("wanda", 0.5, propagation="sites")), "'sites'", "site"),
    row("allocation by name", prune(lambda: Recipe("wanda", 0.5, allocation="owl")), "'owl'", "secateur.allocate"),
    row("allocation too short", prune(lambda: Recipe("wanda", 0.5, allocation=[0.5, 0.5])), "2 entries", "3 blocks"),
    row("allocation with another mean", prune(lambda: Recipe("wanda", 0.5, allocation=[0.1, 0.2, 0.3])), "0.2", "0.5"),
    row("option unknown", prune(lambda: Recipe("sparsegpt", 0.5, options={"damp": 1})), "'damp'", "percdamp"),
    row("option negative", prune(lambda: Recipe("sparsegpt", 0.5, options={"percdamp": -1})), "percdamp", "-1"),
    row("option a text", prune(lambda: Recipe("sparsegpt", 0.5, options={"percdamp": "a"})), "percdamp", "'a'"),
    row("option that is none", prune(lambda: Recipe("wanda", 0.5, options={"needs": "gram"})), "needs"),
    row("option 0", prune(lambda: Recipe("sparsegpt", 0.5, options={"blocksize": 0})), "blocksize", "0"),
    row("refinement", prune(lambda: Recipe("wanda", 0.5, refinement="swap")), "'swap'", "swaps"),
    row("update", prune(lambda: Recipe("wanda", 0.5, update="obss")), "'obss'", "obs"),
    row(
        "update that needs inputs", prune(lambda: Recipe("wanda", 0.5, propagation="dense", update="reconstruct")), "reconstruct"
    ),
    row("statistics missing", prune(lambda: Recipe("wanda", 0.5, propagation="dense")), "statistics"),
    row("gradients missing", prune(lambda: Recipe("pruner_zero", 0.5)), "gradients"),
    row("formula nonsense", prune(lambda: Recipe("formula", 0.5, options={"formula": "open('x')"})), "formula"),
    row("allocate: sparsity", allocate(sparsity=1.5), "1.5"),
    row("allocate: pattern", allocate(pattern="5"), "'5'"),
    row("allocate: option", allocate(rule=lambda: OWL(lam=-1)), "lam -1"),
    row("allocate: no statistics", allocate(statistics=None), "statistics"),
    row("finetune: training", tuning(train="lorra"), "'lorra'", "lora"),
    row("finetune: target", tuning(targets=("q",)), "'q'"),
    row("finetune: batch", tuning(batch=3), "batch 3", "micro_batch 2"),
    row("finetune: no masks", tuning(train="masked_lora"), "masked_lora", "no masks"),
    row("finetune: best of nothing", tuning(keep="best"), "best"),
]


@pytest.fixture(scope="module")
def furniture(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with one of everything. Nothing may be written into it."""
    return furnished(tmp_path_factory.mktemp("place"), tiny_model("llama"))


@answers([*TOKEN_ROWS, *RECIPES])
def test_an_argument(row: Call, furniture: Place) -> None:
    check(row, lambda: row.call(furniture), furniture.root)
    shutil.rmtree(furniture / "out", ignore_errors=True)
