"""Calibration text: which windows of which documents a model is shown before it is pruned, or trained on."""

from collections.abc import Callable, Mapping

from secateur.registry import Registry

SAMPLERS: Registry[Callable] = Registry("sampler")
SAMPLERS.add("documents", "secateur.calibration.text:sample_documents")
SAMPLERS.add("stream", "secateur.calibration.text:sample_stream")
SAMPLERS.add("packed", "secateur.calibration.packing:sample_packed")
SAMPLERS.add("distinct", "secateur.calibration.text:sample_distinct_documents")
SAMPLERS.add("alpaca", "secateur.calibration.alpaca:sample_alpaca")

PADDED: Mapping[str, tuple[str, ...]] = {"alpaca": ("instruction", "output")}
"""Samplers that make padded examples with labels, for fine-tuning alone, and the columns that their documents must have; the
others draw windows of plain text."""
