"""Model families as data, checkpoints read block by block, and pruned models put together."""
