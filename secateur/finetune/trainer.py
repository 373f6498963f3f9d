"""`transformers.Trainer` with held-out loss in its evaluations, sealed checkpoints and a quiet progress bar.

This file imports accelerate through the Trainer: call `packages.need` before it.
"""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from secateur.errors import UserError
from secateur.examples import Examples
from secateur.finetune.checkpoints import KEPT, last_whole, seal_checkpoint
from secateur.finetune.held_out import held_out_sums
from secateur.finetune.recipes import FineTuning
from secateur.packages import need

if TYPE_CHECKING:
    from peft import PeftModel


def training_arguments(settings: FineTuning, folder: Path, cuda: bool, held_out: bool) -> TrainingArguments:
    """The Trainer's words for `settings`; checkpoints go to `folder`.

    Half precision and recomputing activations are for CUDA alone. Nothing is reported anywhere, except to MLflow if
    MLFLOW_TRACKING_URI is set.
    """
    report_to = ["mlflow"] if os.environ.get("MLFLOW_TRACKING_URI") else []
    need("reporting a training", *report_to)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.micro_batch,
        num_train_epochs=settings.epochs,
        learning_rate=settings.rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup,
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        fp16=cuda and settings.autocast == "fp16",
        bf16=cuda and settings.autocast == "bf16",
        activation_checkpointing=cuda,
        activation_checkpointing_kwargs={"use_reentrant": False} if cuda else None,
        logging_steps=1,  # a continued run has the same curve only if every step stands in it by itself
        logging_nan_inf_filter=False,
        report_to=report_to,
        eval_strategy="steps" if held_out else "no",
        eval_steps=settings.interval,
        save_steps=settings.interval,
        save_total_limit=KEPT,
        load_best_model_at_end=held_out and settings.keep == "best",
        metric_for_best_model="loss",
        greater_is_better=False,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=not cuda,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=cuda,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )
    together = settings.micro_batch * arguments.world_size
    if settings.batch % together:
        raise UserError(
            f"batch {settings.batch}: must be a multiple of micro_batch {settings.micro_batch} times "
            f"{arguments.world_size} processes"
        )
    arguments.gradient_accumulation_steps = settings.batch // together
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one device a process: DataParallel would take all that are visible
    return arguments


class _Seal(TrainerCallback):
    """Seals each checkpoint when every process has written its part."""

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        assert args.distributed_state is not None
        args.distributed_state.wait_for_everyone()
        if state.is_world_process_zero:
            seal_checkpoint(Path(str(args.output_dir)), state.global_step)


class _Watch(TrainerCallback):
    """Ends a training that has diverged."""

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {state.global_step}: lower the rate {args.learning_rate}")


class _Progress(ProgressCallback):
    """The Trainer's bar, with the loss beside the time left instead of a line for each step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None:
            self.training_bar.set_postfix({name: f"{logs[name]:.3f}" for name in ("loss", "eval_loss") if name in logs})


class FineTuner(Trainer):
    """Trains `model` (with adapters or without) on examples. `evaluate` is the mean held-out loss per predicted token."""

    def __init__(
        self,
        model: "PreTrainedModel | PeftModel",
        arguments: TrainingArguments,
        examples: Examples,
        held_out: Examples | None,
        progress: bool,
    ) -> None:
        super().__init__(
            model=model,  # pyright: ignore[reportArgumentType]  # peft's own type; the Trainer knows it
            args=arguments,
            train_dataset=range(len(examples)),  # pyright: ignore[reportArgumentType]  # anything with a length and items
            eval_dataset=None if held_out is None else range(len(held_out)),  # pyright: ignore[reportArgumentType]
            data_collator=examples.batch,  # pyright: ignore[reportArgumentType]  # it receives items of the range
            callbacks=[_Seal(), _Watch()],
        )
        self.held_out = held_out
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        if progress:
            self.add_callback(_Progress())

    @property
    def whole(self) -> PreTrainedModel:
        """The language model itself; its linears carry the adapters, if there are any."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def continue_or_begin(self) -> None:
        """Train to the end, from the last whole checkpoint if there is one. Held-out loss is measured before the first step."""
        folder, state = Path(str(self.args.output_dir)), self.args.distributed_state
        assert state is not None
        if state.is_main_process:
            last_whole(folder)
        state.wait_for_everyone()
        checkpoint = last_whole(folder)
        self.args.eval_on_start = checkpoint is None and self.held_out is not None
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Held-out loss, each process on its share; logged as `eval_loss` and `eval_perplexity`."""
        assert self.held_out is not None
        sums = held_out_sums(self.whole, self.held_out, self.args.process_index, self.args.world_size)
        total, count = self.accelerator.reduce(sums.to(self.args.device), "sum").tolist()  # pyright: ignore
        if not total / count < 700:  # exp overflows; also true of a NaN
            remedy = "lower the rate" if self.state.global_step else "the model was broken before"
            raise UserError(f"the held-out loss is {total / count} at step {self.state.global_step}: {remedy}")
        metrics = {"eval_loss": total / count, "eval_perplexity": math.exp(total / count)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def trained_parameters(self) -> int:
        """Number of parameters that training may change; under a mask its zeros are counted too."""
        return self.whole.num_parameters(only_trainable=True)
