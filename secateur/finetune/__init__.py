"""Recovering what pruning lost: LoRA, LoRA under the mask, or the surviving weights themselves, every zero kept.

`recipes` says how to train, `train.finetune` trains on `secateur.examples`, `load` puts the result into a model.
peft and accelerate are needed for training only and are imported when it begins.
"""
