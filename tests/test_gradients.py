"""Gradient magnitudes of the dense model, and the methods that read them: Pruner-Zero and formulas in files."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import secateur
from secateur import Recipe, UserError
from secateur.artifacts import identity, read_tensors, temporary
from secateur.masks import PrunedStore
from secateur.methods.base import Target
from secateur.methods.formula import DEPTH, NODES, Formula
from secateur.methods.pruner_zero import PrunerZero
from secateur.models.adapters import adapter_for
from secateur.models.linears import linear_at
from secateur.models.stream import StreamedModel
from secateur.statistics import SiteStatistics, gradients
from secateur.statistics.gradients import GradientStore, stored
from tests.conftest import FAMILIES

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")
W, G, X = ({"data": name} for name in "WGX")
SHIPPED = {
    "data": "mul",
    "left": {"data": "abs", "left": {"data": "mul", "left": W, "right": W}},
    "right": {"data": "mms", "left": G},
}
"""The metric that Pruner-Zero's authors found and published."""


def whole_model(folder: Path, tokens: Tensor) -> dict[tuple[int, str], Tensor]:
    """G by backward passes through the whole model with its own loss, summed in fp64."""
    model = secateur.assemble(folder, device="cpu")
    adapter = adapter_for(model.config.to_dict())
    blocks = model.get_submodule(adapter.blocks_path)
    squares: dict[tuple[int, str], Any] = {}
    for window in tokens.long():
        model.zero_grad()
        model(window[None], labels=window[None]).loss.backward()
        for index, block in enumerate(blocks.children()):
            for path in adapter.linears:
                gradient = linear_at(block, path).weight.grad
                assert gradient is not None
                gradient = gradient.T if adapter.family == "gpt2" else gradient
                squares[index, path] = squares.get((index, path), 0) + (100 * gradient.double()) ** 2
    return {place: square.sqrt() for place, square in squares.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_of_the_whole_model(
    family: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within rounding: fp32 on the whole model is itself 1e-5 of the largest value away from fp64 at worst (opt-post-norm)."""
    folder = tiny_model(family)
    expected = whole_model(folder, tokens)
    monkeypatch.setattr(gradients, "stored", lambda magnitude: magnitude)
    pieces = [(7, 2e-5)] if family in ("llama", "opt-post-norm") else []  # of the head, which add up in another order
    for rows, tolerance in [(512, 1e-6), *pieces]:
        monkeypatch.setattr(gradients, "ROWS", rows)
        store = GradientStore(secateur.gradients(folder, tokens, tmp_path / str(rows), device="cpu"))
        found = {(index, path): found for index in range(3) for path, found in store.read(index, CPU).items()}
        assert found.keys() == expected.keys()
        for place, magnitude in expected.items():
            assert (found[place] - magnitude).abs().max() <= tolerance * magnitude.max(), place


@pytest.mark.parametrize("family", ["llama-tied", "opt-post-norm"])
def test_the_open_head_is_the_head_and_its_weights_collect_nothing(family: str, tiny_model: TinyModel, tokens: Tensor) -> None:
    stream, rows = StreamedModel(tiny_model(family), CPU), torch.tensor([0, 3, 23])
    states, _ = stream.embed(tokens, len(tokens))
    with stream.open_head() as logits:
        found = logits(tokens, states.requires_grad_(), rows)
        found.sum().backward()
        assert states.grad is not None and all(parameter.grad is None for parameter in stream.model.parameters())
    torch.testing.assert_close(found, stream.head(tokens, states)[:, rows])
    assert all(parameter.is_meta for parameter in stream.model.parameters())


def test_windows_are_squared_one_by_one(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    """G² of all windows is the sum of the G² of each, which no gradient of the mean loss would give."""
    folder, total, tokens = tiny_model("llama"), torch.zeros(64, 32), tokens[:3]
    for index, window in enumerate(tokens):
        alone = GradientStore(secateur.gradients(folder, window[None], tmp_path / str(index), device="cpu"))
        total += alone.read(1, CPU)["mlp.up_proj"].square()
    together = GradientStore(secateur.gradients(folder, tokens, tmp_path / "all", device="cpu"))
    torch.testing.assert_close(together.read(1, CPU)["mlp.up_proj"], total.sqrt(), rtol=2e-3, atol=1e-4)


def test_fp16_is_given_up_where_it_would_damage() -> None:
    spread = torch.tensor([[0.0, 0.1, 1.0]])
    for scale, dtype in {1.0: torch.half, 65504.0: torch.half, 2.0**-6: torch.half, 0.0: torch.half}.items():
        assert stored(spread * scale).dtype == dtype
        torch.testing.assert_close(stored(spread * scale).float(), spread * scale, rtol=1e-3, atol=0)
    for scale in (65600.0, 2.0**-7):
        assert torch.equal(stored(spread * scale), spread * scale)


class Interrupted(Exception):
    """What stands in for a kill."""


def test_interrupted_at_any_write_it_ends_with_the_same_bytes(
    tiny_model: TinyModel, tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    folder, save, blocks = tiny_model("opt-post-norm"), safetensors.torch.save_file, StreamedModel.block
    counts = {"written": 0, "read": 0, "end": 0}

    def save_or_die(tensors: Any, path: Path, metadata: Any = None) -> None:
        counts["written"] += 1
        if counts["written"] == counts["end"]:
            path.write_bytes(b"half")
            raise Interrupted
        save(tensors, path, metadata=metadata)

    def block(model: StreamedModel, index: int) -> Any:
        counts["read"] += 1
        return blocks(model, index)

    monkeypatch.setattr("safetensors.torch.save_file", save_or_die)
    monkeypatch.setattr(StreamedModel, "block", block)
    undisturbed = identity(secateur.gradients(folder, tokens, tmp_path / "undisturbed", device="cpu"))
    writes, reads = counts["written"], counts["read"]
    assert writes == 1 + 4 + 1 + 2 * 3 and reads == 2 * 3
    for end in range(2, writes + 1, 2):
        out = tmp_path / str(end)
        counts |= {"written": 0, "read": 0, "end": end}
        with pytest.raises(Interrupted):
            secateur.gradients(folder, tokens, out, device="cpu")
        assert not out.exists()
        counts["end"] = 0
        assert identity(secateur.gradients(folder, tokens, out, device="cpu")) == undisturbed
        assert counts["read"] <= reads + 1, "finished blocks are not computed again"
        assert not temporary(out).exists()
    assert sorted(file.name for file in (tmp_path / "2").iterdir()) == [
        "SHA256SUMS",
        *(f"block_{index:03d}.safetensors" for index in range(3)),
        "settings.json",
        "tokens.safetensors",
    ]
    assert torch.equal(read_tensors(tmp_path / "2" / "tokens.safetensors")[0]["tokens"], tokens)


@pytest.mark.parametrize(("length", "message"), [(1, "windows of 1 tokens predict nothing"), (65, "the model's context is 64")])
def test_windows_of_a_wrong_length_are_refused(length: int, message: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        secateur.gradients(tiny_model("llama"), torch.zeros(2, length, dtype=torch.int32), tmp_path / "out", device="cpu")


@pytest.fixture(scope="module")
def collected(tiny_model: TinyModel, tokens: Tensor, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """`collected("gpt2")` → the gradients of that tiny model, collected once."""
    made: dict[str, Path] = {}

    def collect(family: str) -> Path:
        if family not in made:
            out = tmp_path_factory.mktemp(family) / "gradients"
            made[family] = secateur.gradients(tiny_model(family), tokens, out, device="cpu")
        return made[family]

    return collect


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_pruned(family: str, tiny_model: TinyModel, collected: TinyModel, tmp_path: Path) -> None:
    """Masks equal those worked out by hand from the stored gradients and the dense weights, without any calibration tokens."""
    folder, found = tiny_model(family), collected(family)
    model, store = StreamedModel(folder, CPU), GradientStore(found)
    for recipe in (Recipe("pruner_zero", 0.5), Recipe("pruner_zero", pattern="2:4")):
        out = tmp_path / recipe.pattern.replace(":", "-")
        run = PrunedStore(secateur.prune(folder, recipe, out, gradients=found, device="cpu"))
        for index in range(3):
            magnitudes, masks = store.read(index, CPU), run.read(index)
            with model.block(index) as block:
                for path, linear in masks.items():
                    weight, magnitude = linear_at(block, path).weight.double(), magnitudes[path].double()
                    weight = weight.T if family == "gpt2" else weight
                    scores = weight**2 * (magnitude - magnitude.min()) / (magnitude.max() - magnitude.min())
                    width = scores.shape[1] if recipe.pattern == "unstructured" else 4
                    order = scores.reshape(-1, width).argsort(dim=1, stable=True)  # dead neurons of OPT: rows of ties
                    assert torch.equal(linear.mask.reshape(-1, width), order.argsort(dim=1) < width // 2), (index, path)


@pytest.mark.parametrize("propagation", ["dense", "block", "site"])
def test_gradients_reach_their_linears_in_every_propagation(
    propagation: str, tiny_model: TinyModel, collected: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    """The shipped tree reads no activations and changes no weight, so masks equal those of a run that needs no data."""
    folder, found = tiny_model("llama"), collected("llama")
    (tmp_path / "tree.json").write_text(json.dumps(SHIPPED))
    recipe = Recipe("formula", 0.5, propagation=propagation, options={"file": str(tmp_path / "tree.json")})
    dense = propagation == "dense"
    run = secateur.prune(
        folder,
        recipe,
        tmp_path / "run",
        tokens=None if dense else tokens,
        statistics=secateur.calibrate(folder, tokens, tmp_path / "stats", bundle="moments", device="cpu") if dense else None,
        gradients=found,
        device="cpu",
    )
    free = secateur.prune(folder, Recipe("pruner_zero", 0.5), tmp_path / "free", gradients=found, device="cpu")
    for index in range(3):
        for path, linear in PrunedStore(free).read(index).items():
            assert torch.equal(linear.mask, PrunedStore(run).read(index)[path].mask), (index, path)


def test_missing_or_foreign_gradients_are_refused_before_any_work(
    tiny_model: TinyModel, collected: TinyModel, tmp_path: Path
) -> None:
    from secateur import engine

    folder, foreign = tiny_model("llama"), collected("qwen3")
    for given, message in (
        (None, "needs the gradients of the dense model"),
        (tmp_path / "nowhere", "nowhere holds no gradients: collect them first"),
        (foreign, "holds the gradients of another model"),
    ):
        with pytest.raises(UserError, match=message):
            work = tmp_path / "work"
            engine.prune(folder, Recipe("pruner_zero", 0.5), tmp_path / "run", work=work, settings={}, gradients=given)
        assert not work.exists()


def known(seed: int = 0) -> tuple[Tensor, SiteStatistics]:
    """A weight [6, 8] and statistics with its G and its inputs' energy."""
    generator = torch.Generator().manual_seed(seed)
    magnitude, energy = torch.rand(6, 8, generator=generator), torch.rand(8, generator=generator)
    statistics = SiteStatistics(1, 1, torch.zeros(8), energy, gradients=(magnitude,))
    return torch.randn(6, 8, generator=generator), statistics


def formula(tree: Any, folder: Path) -> Formula:
    path = folder / "tree.json"
    path.write_text(json.dumps(tree))
    return Formula(str(path))


@pytest.mark.parametrize("target", [Target(0.5), Target(0.3), Target(0.5, "2:4"), Target(0.75, "6:8")], ids=str)
def test_the_shipped_tree_is_pruner_zero(target: Target, tmp_path: Path) -> None:
    weight, statistics = known()
    tree = formula(SHIPPED, tmp_path)
    torch.testing.assert_close(tree.score(weight, statistics), PrunerZero().score(weight, statistics), rtol=1e-6, atol=0)
    one, other = (method.prune([weight], statistics, [target])[0].mask for method in (tree, PrunerZero()))
    assert torch.equal(one, other)


def test_each_linear_of_a_site_meets_its_own_gradient() -> None:
    (weight, one), (_, other) = known(0), known(1)
    assert one.gradients and other.gradients
    site = SiteStatistics(0, 0, gradients=(*one.gradients, *other.gradients))
    masks = [pruned.mask for pruned in PrunerZero().prune([weight, weight], site, [Target(0.5)] * 2)]
    alone = [PrunerZero().prune([weight], statistics, [Target(0.5)])[0].mask for statistics in (one, other)]
    assert torch.equal(masks[0], alone[0]) and torch.equal(masks[1], alone[1]) and not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"data": "add", "left": W, "right": X}, lambda w, g, x: w + x),
        ({"data": "sub", "left": G, "right": W}, lambda w, g, x: g - w),
        ({"data": "mul", "left": X, "right": G}, lambda w, g, x: x * g),
        ({"data": "div", "left": W, "right": X}, lambda w, g, x: w / math.sqrt(6 * sum(v * v for v in x[0].tolist()))),
        ({"data": "div", "left": X, "right": W}, lambda w, g, x: (x / w.flatten().norm()).expand(6, 8)),
        ({"data": "sqr", "left": W}, lambda w, g, x: w * w),
        ({"data": "pow", "left": W}, lambda w, g, x: w * w),
        ({"data": "neg", "left": G}, lambda w, g, x: -g),
        ({"data": "abs", "left": {"data": "neg", "left": G}}, lambda w, g, x: g),
        ({"data": "log", "left": {"data": "neg", "left": G}}, lambda w, g, x: torch.log(g + 0.001)),
        ({"data": "exp", "left": W}, lambda w, g, x: torch.exp(w)),
        ({"data": "sqrt", "left": {"data": "neg", "left": G}}, lambda w, g, x: torch.sqrt(g)),
        ({"data": "tanh", "left": W}, lambda w, g, x: torch.tanh(w)),
        ({"data": "skp", "left": G}, lambda w, g, x: g),
        ({"data": "mms", "left": G}, lambda w, g, x: (g - g.min()) / (g.max() - g.min())),
        ({"data": "mms", "left": {"data": "sub", "left": W, "right": W}}, lambda w, g, x: torch.ones(6, 8)),
        ({"data": "zsn", "left": W}, lambda w, g, x: (w - w.sum() / 48) / ((w - w.sum() / 48).square().sum() / 47).sqrt()),
        (X, lambda w, g, x: x.expand(6, 8)),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_every_operation(tree: Any, expected: Callable[[Tensor, Tensor, Tensor], Tensor], tmp_path: Path) -> None:
    weight, statistics = known()
    assert statistics.gradients
    wanted = expected(weight.abs(), statistics.gradients[0], statistics.input_energy[None])
    torch.testing.assert_close(formula(tree, tmp_path).score(weight, statistics), wanted)


def test_exp_does_not_overflow_and_a_division_by_zero_is_named(tmp_path: Path) -> None:
    weight, statistics = known()
    assert formula({"data": "exp", "left": W}, tmp_path).score(weight * 1e6, statistics).max() == torch.finfo(torch.float32).max
    zero = {"data": "div", "left": W, "right": {"data": "sub", "left": W, "right": W}}
    with pytest.raises(UserError, match="the scores are not finite"):
        formula(zero, tmp_path).prune([weight], statistics, [Target(0.5)])


def nested(depth: int) -> Any:
    tree: Any = W
    for _ in range(depth - 1):
        tree = {"data": "neg", "left": tree}
    return tree


def bushy(depth: int) -> Any:
    return W if depth == 1 else {"data": "add", "left": bushy(depth - 1), "right": bushy(depth - 1)}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"data": "mull", "left": W, "right": W}, "root: unknown operation 'mull'; did you mean mul"),
        ({"data": "abs", "left": {"data": "Y"}}, "root.left: unknown operation 'Y'"),
        ({"data": "mul", "left": W}, "root: mul must have left, right beside 'data', it has left"),
        ({"data": "abs", "left": W, "right": W}, "root: abs must have left beside 'data', it has left, right"),
        ({"data": "abs"}, "root: abs must have left beside 'data', it has nothing"),
        ({"data": "add", "left": W, "right": {"data": "W", "left": G}}, "root.right: W must have nothing beside 'data'"),
        ({"data": "add", "left": W, "right": 3}, "root.right: must be an object with 'data'"),
        ({"data": ["mul"], "left": W, "right": W}, "root: must be an object with 'data'"),
        ([W], "root: must be an object with 'data'"),
        (nested(DEPTH + 1), f"at most {DEPTH} levels and {NODES} nodes"),
        (bushy(10), f"at most {DEPTH} levels and {NODES} nodes"),
    ],
    ids=range(11),
)
def test_broken_trees_are_refused_in_one_line(tree: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        formula(tree, tmp_path)
    assert message in str(raised.value) and "tree.json" in str(raised.value) and "\n" not in str(raised.value)


def test_trees_up_to_the_bounds_are_read(tmp_path: Path) -> None:
    weight, statistics = known()
    for tree in (nested(DEPTH), bushy(9)):
        assert formula(tree, tmp_path).score(weight, statistics).shape == weight.shape


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not a tree in JSON"),
        (b'{"data": "neg", "left": ' * 100_000, "not a tree in JSON"),
    ],
    ids=["missing", "broken", "binary", "bottomless"],
)
def test_files_that_hold_no_tree_are_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Recipe("formula", 0.5, options={"file": str(path)}).build_method()
    with pytest.raises(UserError, match="needs the option 'file'"):
        Recipe("formula", 0.5).build_method()


LARGE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 20,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
}
LIMITED = """
import resource, sys, torch, transformers, secateur
from pathlib import Path
from transformers import LlamaForCausalLM
tokens = torch.randint(0, 96, (3, 32), generator=torch.Generator().manual_seed(0))
torch.set_num_threads(2)
torch.nn.Linear(64, 64)(torch.ones(8, 64)).sum().backward()  # what torch itself allocates when it first works
collect = secateur.gradients  # imports
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
limit = int(status["VmData"].split()[0]) * 1024 + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
collect(sys.argv[1], tokens, sys.argv[2], device="cpu")
print("collected", flush=True)
model = secateur.assemble(sys.argv[1], device="cpu")
model(tokens, labels=tokens).loss.backward()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA counts anonymous memory on Linux only")
def test_a_checkpoint_larger_than_the_memory(tmp_path: Path) -> None:
    """Private writable memory is limited to what the imports took and half the checkpoint: the walk fits, the model does not."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**LARGE)).save_pretrained(tmp_path / "model", max_shard_size="10MB")
    size = sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors"))
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "model"), str(tmp_path / "out"), str(size // 2)]
    # Memory that is freed goes back at once, so that what is limited is what is needed, not what glibc keeps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.stdout == "collected\n", ended.stderr[-2000:]
    assert ended.returncode != 0 and "allocate memory" in ended.stderr
    assert len(list((tmp_path / "out").glob("block_*"))) == LARGE["num_hidden_layers"]
