"""The loss on text that is not trained on, seen before, during and after."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.evaluation.likelihood import hidden_nll, output_layer
from secateur.examples import IGNORED, Examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.inference_mode()
def held_out_sums(whole: "PreTrainedModel", examples: Examples, first: int = 0, step: int = 1) -> Tensor:
    """[Σ negative log-likelihoods in nats, number of predicted tokens], fp64, over the examples first, first + step, …

    exp of the quotient is the perplexity of `secateur.perplexity` where the examples are blocks without padding. Examples go
    through the model one by one in eval mode, in the model's own precision; training mode is restored.
    """
    training, sums = whole.training, torch.zeros(2, dtype=torch.float64)
    whole.eval()
    head = output_layer(whole)
    for index in range(first, len(examples), step):
        inputs = {name: tensor.to(whole.device) for name, tensor in examples.batch([index]).items()}
        wanted = inputs.pop("labels")[0, 1:]
        hidden = whole.base_model(**inputs, use_cache=False).last_hidden_state[0, :-1]
        chosen = wanted != IGNORED
        if chosen.any():
            sums += torch.stack(
                [(nll := hidden_nll(head, hidden[chosen], wanted[chosen]).double()).sum(), nll.new_tensor(len(nll))]
            ).cpu()
    whole.train(training)
    return sums
