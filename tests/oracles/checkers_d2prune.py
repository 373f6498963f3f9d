"""Section 6, D2Prune: scores and masks of both forms, the k-means scale, and the three ways to choose what is not updated."""

from typing import Any

import torch
from torch import Tensor

from secateur.methods.base import Pruned, Target
from secateur.methods.d2prune import D2Prune
from secateur.methods.d2prune_choice import (
    LETTERS,
    kl_divergences,
    kl_objective,
    lowest_perplexity,
    most_outliers,
    outlier_shares,
    squared_error,
)
from secateur.methods.d2prune_parts import Part
from secateur.methods.d2prune_scores import UpdateScore, two_means_scale
from secateur.models.attention import AttentionCall
from secateur.patterns import n_of_m, row_k
from secateur.statistics import SiteAccumulator
from secateur.sweep import Factor, sweep

Values = dict[str, Any]


def tensor(value: Any) -> Tensor:
    """A nested list as fp32."""
    return torch.tensor(value, dtype=torch.float32)


def target(params: Values) -> Target:
    """n:m, or a share."""
    if params.get("m"):
        return Target(params["n"] / params["m"], f"{params['n']}:{params['m']}")
    return Target(float(params["sparsity"]), count=params.get("count", "reference"))


def d2prune(inputs: Values, params: Values) -> Values:
    """Whatever the case is about."""
    if "W" in inputs:
        return pruned(inputs, params)
    if "y_mean_norm" in inputs:
        return {"s": two_means_scale(tensor(inputs["y_mean_norm"]))}
    if "ppl" in inputs:
        by_letters = {name.replace(",", ""): value for name, value in inputs["ppl"].items()}
        return {"no_update": list(lowest_perplexity(by_letters))}
    if "versions" in inputs:
        return eight_states(inputs, params)
    shares = outlier_shares({letter: tensor(inputs[f"W{letter}"]).abs() for letter in LETTERS})
    return {"r": shares, "no_update": most_outliers(shares)}


def pruned(inputs: Values, params: Values) -> Values:
    """6.2 and 6.3: one linear in one form."""
    weight, sequences = tensor(inputs["W"]), tensor(inputs["X"])
    bias = tensor(inputs["b"]) if "b" in inputs else None
    accumulator = SiteAccumulator(weight.shape[1], "outputs", torch.device("cpu"), {"q_proj": (weight, bias)})
    for sequence in sequences:
        accumulator.update(sequence[None])
    known, goal, updates = accumulator.finish(), target(params), params["form"] == "update"
    own = {name: params[name] for name in ("mode", "r1", "r2", "s", "scale", "percdamp", "blocksize") if name in params}
    method = D2Prune(**own)
    part = Part("", 0, weight, known.outputs["q_proj"], goal)
    terms = method.shift(part, known, updates)
    found: Values = {"scaler_row_a": known.input_energy, "y_hat": terms.outputs, "x_hat": terms.inputs}
    solved: Pruned
    if updates:
        score = UpdateScore([terms], [len(weight)])
        swept = sweep([weight], Factor.of(known.hessian, method.percdamp), method.blocksize, targets=[goal], score=score)
        (solved,) = method.with_update([part], known)
        assert torch.equal(solved.mask, swept.pruned[0].mask)
        found["score_at_selection_time"] = swept.scores
    else:
        scores = method.no_update_scores(part, known)
        (solved,) = method.without_update([part], known)
        assert goal.pattern != "unstructured" or torch.equal(solved.mask, row_k(scores, goal.sparsity))
        found |= {"score": scores, "mask_n2m4": n_of_m(scores, 2, 4).int()}
    kept = weight.masked_fill(solved.mask, 0) if solved.weight is None else solved.weight
    return found | {"mask": solved.mask.int(), "W_out": kept}


def eight_states(inputs: Values, params: Values) -> Values:
    """6.6 c, with given pruned versions of q, k and v and plain attention."""
    features, size = tensor(inputs["X"]), inputs["head_dim"]
    features = features[None] if features.dim() == 2 else features
    dense = {letter: tensor(inputs["dense"][letter]) for letter in LETTERS}
    versions = {letter: {name: tensor(value) for name, value in inputs["versions"][letter].items()} for letter in LETTERS}
    gram = torch.einsum("nti,ntj->ij", features, features)

    def split(weight: Tensor) -> Tensor:
        projected = features @ weight.T
        return projected.unflatten(-1, (-1, size)).transpose(1, 2)

    def call(query: Tensor, key: Tensor) -> AttentionCall:
        assert split(query).shape[1] == inputs["heads"]
        return AttentionCall(split(query), split(key), None, size**-0.5, params.get("causal", True))

    states = {a + b: call(versions["q"][a], versions["k"][b]).probabilities() for a in "UN" for b in "UN"}
    divergences = kl_divergences(call(dense["q"], dense["k"]).probabilities(), states)
    errors = {
        letter: {name: squared_error(gram, dense[letter] - value) for name, value in versions[letter].items()}
        for letter in LETTERS
    }
    energy = sum(squared_error(gram, dense[letter]) for letter in LETTERS)
    found = kl_objective(errors, energy, divergences, params["rho"])
    return {"per_state": found.per_state, "best_state": found.best_state}
