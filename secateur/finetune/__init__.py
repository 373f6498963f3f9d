"""Recovering what pruning lost: LoRA, LoRA under the mask, or the surviving weights themselves, every zero kept.

`recipes` says how to train, `data` and `alpaca` make the examples, `train.finetune` trains, `load` puts the result into a model.
peft and accelerate are needed for training only and are imported when it begins.
"""
