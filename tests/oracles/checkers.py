"""For each oracle method: everything the library computes for a case, by the names the oracle files use."""

from typing import Any

import torch
from torch import Tensor

from secateur.calibration.text import draw_distinct, draw_documents, draw_stream
from secateur.evaluation.perplexity import aggregate, window_nll, windows
from secateur.methods.base import ScoreMethod, Target
from secateur.methods.magnitude import Magnitude
from secateur.methods.wanda import Wanda, cumulative_share
from secateur.patterns import threshold_value
from secateur.statistics import SiteAccumulator, SiteStatistics
from secateur.sweep import Factor, sweep
from tests.oracles import Checker
from tests.oracles.checkers_allocation import dlp, owl, wanda_image
from tests.oracles.checkers_d2prune import d2prune
from tests.oracles.checkers_finetune import lora_merge
from tests.oracles.checkers_pruner_zero import pruner_zero

Values = dict[str, Any]


def tensor(value: Any) -> Tensor:
    """A nested list as fp32."""
    return torch.tensor(value, dtype=torch.float32)


def statistics(inputs: Values) -> SiteStatistics:
    """Statistics of X [sequence, token, feature], fed one sequence at a time; or a given `scaler_row` (the energy a)."""
    if "X" not in inputs:
        row = tensor(inputs["scaler_row"])
        return SiteStatistics(1, 1, torch.zeros_like(row), row)
    sequences = tensor(inputs["X"])
    accumulator = SiteAccumulator(sequences.shape[-1], "gram", torch.device("cpu"))
    for sequence in sequences:
        accumulator.update(sequence[None])
    return accumulator.finish()


def target(params: Values) -> Target:
    """The target that a case's parameters describe."""
    pattern = f"{params['n']}:{params['m']}" if params.get("m") else "unstructured"
    if pattern == "unstructured" and ":" in str(params.get("pattern", "")):
        pattern = params["pattern"]
    n, m = (int(part) for part in pattern.split(":")) if ":" in pattern else (0, 1)
    sparsity = params.get("sparsity")
    count = "exact" if params.get("count") == "exact" else "reference"
    return Target(n / m if sparsity is None else float(sparsity), pattern, count)


def selected(method: ScoreMethod, inputs: Values, params: Values, known: SiteStatistics) -> Values:
    """Mask, counts and pruned weight of a score method."""
    weight, goal = tensor(inputs["W"]), target(params)
    mask = method.prune([weight], known, [goal])[0].mask
    return {
        "score": method.score(weight, known),
        "mask": mask.int(),
        "n_pruned": int(mask.sum()),
        "k_per_row": int(weight.shape[1] * goal.sparsity),
        "W_out": weight.masked_fill(mask, 0),
    }


def magnitude(inputs: Values, params: Values) -> Values:
    """Section 2."""
    goal = target(params)
    found = selected(Magnitude(group=params.get("group", "layer")), inputs, params, SiteStatistics(0, 0))
    return found | {"threshold": float(threshold_value(tensor(inputs["W"]).abs(), goal.sparsity))}


def wanda(inputs: Values, params: Values) -> Values:
    """Section 3.1."""
    known = statistics(inputs)
    return selected(Wanda(), inputs, params, known) | {"scaler_row": known.input_energy}


def wanda_variant(inputs: Values, params: Values) -> Values:
    """Section 3.2."""
    scores = Wanda().score(tensor(inputs["W"]), statistics(inputs))
    bracket = tuple(params.get("bracket", (0.0, 0.8)))
    found = cumulative_share(scores, params["sparsity"], params.get("alpha0", 0.4), bracket, params.get("tol", 1e-3))
    return {"alpha": found.alpha, "sparsity": found.sparsity, "history": found.history, "mask": found.mask.int()}


def sparsegpt(inputs: Values, params: Values) -> Values:
    """Section 4; with `mask_in` only the compensation (4.3)."""
    known = statistics(inputs)
    factor = Factor.of(known.hessian, params.get("percdamp", 0.01))
    given = [tensor(inputs["mask_in"]).bool()] if "mask_in" in inputs else None
    goals = None if given else [target(params)]
    found = sweep([tensor(inputs["W"])], factor, params.get("blocksize", 128), targets=goals, masks=given)
    mask = found.pruned[0].mask
    return {
        "H_before_damping": known.hessian,
        "U_upper_chol_of_inverse": factor.upper,
        "mask": mask.int(),
        "n_pruned": int(mask.sum()),
        "W_out": found.pruned[0].weight,
        "loss_per_row": found.row_loss,
        "score_at_selection_time": found.scores,
    }


def calibration_sampling(inputs: Values, params: Values) -> Values:
    """Sections 1.2 and 8.6."""
    length, samples, seed = inputs["seqlen"], params["nsamples"], params["seed"]
    if "total_tokens" in inputs:
        return {"starts": draw_stream(inputs["total_tokens"], length, samples, seed)}
    counts = inputs["doc_token_lengths"]
    plain = draw_documents(counts.__getitem__, len(counts), length, samples, seed)
    found: Values = {"doc_start_tries": [list(draw) for draw in plain]}
    if sum(count >= length for count in counts) >= samples:
        distinct = draw_distinct(counts.__getitem__, len(counts), length, samples, seed)
        found["doc_start"] = [[draw.document, draw.start] for draw in distinct]
    return found


def perplexity(inputs: Values, params: Values) -> Values:
    """Section 1.6, protocol A unless the case says otherwise."""
    tokens, length = torch.tensor(inputs["tokens"]), inputs["seqlen"]
    cut = windows(tokens, length, None)
    losses = [window_nll(tensor(logits), window) for logits, window in zip(inputs["logits_per_window"], cut, strict=True)]
    return {
        "n_windows": len(cut),
        "dropped_tail_tokens": len(tokens) - len(cut) * length,
        "window_mean_nll": [float(loss) for loss in losses],
        "ppl": aggregate([float(loss) for loss in losses], length, params.get("protocol", "A"))["perplexity"],
    }


CHECKERS: dict[str, Checker] = {
    "calibration sampling": calibration_sampling,
    "d2prune": d2prune,
    "dlp": dlp,
    "lora on sparse weights": lora_merge,
    "magnitude": magnitude,
    "owl": owl,
    "perplexity protocol": perplexity,
    "pruner-zero": pruner_zero,
    "sparsegpt": sparsegpt,
    "wanda image classifiers": wanda_image,
    "wanda use_variant": wanda_variant,
    "wanda": wanda,
}
