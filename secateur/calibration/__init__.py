"""Calibration text: which windows of which documents a model is shown before it is pruned."""

from collections.abc import Callable

from secateur.registry import Registry

SAMPLERS: Registry[Callable] = Registry("sampler")
SAMPLERS.add("documents", "secateur.calibration.text:sample_documents")
SAMPLERS.add("stream", "secateur.calibration.text:sample_stream")
SAMPLERS.add("packed", "secateur.calibration.packing:sample_packed")
SAMPLERS.add("distinct", "secateur.calibration.text:sample_distinct_documents")
