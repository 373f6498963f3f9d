"""Fine-tune a run: from the folders of a model and of what pruned it to a sealed folder with adapters or with new survivors."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from secateur import determinism
from secateur.artifacts import read_json, write_json, write_tensors, write_text
from secateur.errors import UserError
from secateur.examples import IGNORED, Examples
from secateur.finetune.checkpoints import writing_checkpoints
from secateur.finetune.files import ADAPTERS, CONFIG, CURVE, OUTCOME, SETTINGS
from secateur.finetune.origin import Origin
from secateur.finetune.recipes import FineTuning
from secateur.finetune.targets import resolve_targets
from secateur.finite import check_files
from secateur.masks import PrunedStore
from secateur.models.load import assemble
from secateur.outputs import check_output, continue_or_start, remove_work, seal_folder
from secateur.packages import need
from secateur.walk import code_digest

if TYPE_CHECKING:
    from secateur.finetune.trainer import FineTuner


class Step(NamedTuple):
    """One row of the curve. Step 0 is the model before; held-out perplexity is measured at intervals."""

    step: int
    loss: float | None
    learning_rate: float | None
    held_out_perplexity: float | None


def finetune(
    model: Path,
    pruned: Path | None,
    examples: Examples | Tensor,
    out: Path,
    *,
    work: Path,
    settings: FineTuning,
    held_out: Examples | Tensor | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> list[Step]:
    """Train the run `pruned` (None: the dense model) of the checkpoint folder `model` on `examples` as `settings` say → folder
    `out`; returns the curve, which is also in `out/loss.csv`.

    `out` holds `settings.json`, `outcome.json` and, for `lora` and `masked_lora`, `adapter_model.safetensors` (fp32, peft's
    names; for `lora` also peft's own `adapter_config.json`, so that plain peft loads it); for `dense` a run like `pruned`, with
    its masks and new values, for everything that reads runs. Kept is the last step, or the best by held-out loss.

    `work` holds checkpoints, from which a killed training continues to the same bytes, as long as settings, data, weights, code
    and conditions are the same; otherwise it is started anew. `provenance`, of JSON values, is stored among the settings.

    Under `accelerate launch` every process calls this with the same arguments, and the first one writes.

    Raises, before any work, a `UserError` if `out` exists, unless it is an untouched result of ours and `overwrite` is set.
    """
    check_output(out, [model, pruned], overwrite, work)
    need("fine-tuning", "peft", "accelerate")
    from secateur.finetune.trainer import FineTuner, training_arguments

    examples, held_out = Examples.of(examples), None if held_out is None else Examples.of(held_out)
    origin = Origin(model, pruned)
    paths = resolve_targets(settings.targets, origin.adapter)
    _check(origin, settings, examples, held_out)
    settings = replace(settings, length=examples.length, blocks=len(examples), validation=len(held_out or ()))
    chosen = determinism.device(device)
    if chosen.index:
        raise UserError(f"device {device!r}: the Trainer takes the first visible GPU; set CUDA_VISIBLE_DEVICES={chosen.index}")
    arguments = training_arguments(settings, work / "checkpoints", chosen.type == "cuda", held_out is not None)
    record = {
        "recipe": settings.settings() | {"targets": list(paths)},
        "origin": origin.digests | {"masks": origin.has_masks},
        "examples": examples.digest(),
        "held_out": None if held_out is None else held_out.digest(),
        "provenance": dict(provenance or {}),
    }
    assert arguments.distributed_state is not None
    arguments.distributed_state.wait_for_everyone()  # nobody still looks at what may be started anew
    if arguments.distributed_state.is_main_process:
        continue_or_start(work, {"record": record} | _conditions(chosen, arguments.world_size))
    arguments.distributed_state.wait_for_everyone()

    torch.manual_seed(settings.seed)  # the adapters' first values
    whole = assemble(model, pruned, device=str(arguments.device))
    trainer = FineTuner(_trainable(whole, origin, paths, settings), arguments, examples, held_out, progress)
    with writing_checkpoints(work):
        trainer.continue_or_begin()
    curve = curve_of(trainer.state.log_history)
    if arguments.distributed_state.is_main_process:
        result = work / "result"
        shutil.rmtree(result, ignore_errors=True)
        _write(result, trainer, origin, paths, settings)
        write_json(result / SETTINGS, record)
        write_text(result / CURVE, _csv(curve))
        seal_folder(result, out, overwrite)
        remove_work(work)
    arguments.distributed_state.wait_for_everyone()
    return curve


def _check(origin: Origin, settings: FineTuning, examples: Examples, held_out: Examples | None) -> None:
    if not len(examples) or (held_out is not None and not len(held_out)):
        raise UserError(f"there are no {'held-out examples' if len(examples) else 'examples to train on'}")
    if settings.train == "masked_lora" and not origin.has_masks:
        raise UserError(f"training masked_lora: {origin.pruned or origin.model} has no masks; use lora")
    if settings.keep == "best" and held_out is None:
        raise UserError("keep best: needs held-out examples to know which step was best; give some, or keep the last")
    context, rows = origin.context, origin.adapter.sizes(read_json(origin.model / "config.json")).vocabulary
    for name, given in (("training", examples), ("held-out", held_out)):
        if given is not None:
            given.check(rows, name)
        if given is not None and given.length > context:
            raise UserError(f"{name} examples of {given.length} tokens: the model's context is {context}")
        if given is not None and given.labels is not None and not (given.labels[:, 1:] != IGNORED).any():
            raise UserError(f"{name} examples: no token is to be predicted")
    for folder in (origin.model, origin.pruned):  # training would only spread what is not finite there
        if folder is not None:
            check_files(sorted(folder.rglob("[!.]*.safetensors")))


def _conditions(device: torch.device, processes: int) -> dict[str, Any]:
    """What decides the bits beside the settings."""
    versions = {package: version(package) for package in ("accelerate", "peft", "transformers")}
    run = {"device": device.type, "processes": processes}
    return {"conditions": determinism.fingerprint() | versions | run, "code": code_digest()}


def _trainable(whole: Any, origin: Origin, paths: tuple[str, ...], settings: FineTuning) -> Any:
    if settings.train == "dense":
        from secateur.finetune.dense import free_survivors

        free_survivors(whole, origin.names(paths), origin.masks(paths))
        return whole
    from secateur.finetune.masked import add_adapters

    return add_adapters(whole, origin, paths, settings)


def _write(folder: Path, trainer: "FineTuner", origin: Origin, paths: tuple[str, ...], settings: FineTuning) -> None:
    """What was trained, and how it went."""
    if settings.train == "dense":
        from secateur.finetune.dense import survivors

        store = PrunedStore(folder)
        for block in range(origin.blocks):
            store.write(block, survivors(trainer.whole, paths, origin, block))
    else:
        from peft import get_peft_model_state_dict

        adapted: Any = trainer.model
        tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        write_tensors(folder / ADAPTERS, {name: tensor.cpu() for name, tensor in tensors.items()})
        if settings.train == "lora":  # plain peft knows no masks
            plain = adapted.peft_config["default"].to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
            write_json(folder / CONFIG, plain)
    write_json(folder / OUTCOME, _outcome(trainer, settings))


def _outcome(trainer: "FineTuner", settings: FineTuning) -> dict[str, Any]:
    """Held-out perplexity before training and of what was kept (null without held-out text), and how much was trained. In a
    checkpoint of half precision, `dense` values are rounded after they were measured."""
    kept = trainer.state.best_global_step if settings.keep == "best" else trainer.state.global_step
    seen = {row.step: row.held_out_perplexity for row in curve_of(trainer.state.log_history)}
    return {
        "steps": trainer.state.global_step,
        "kept_step": kept,
        "trained_parameters": trainer.trained_parameters,
        "perplexity_before": seen.get(0),
        "perplexity_after": None if kept is None else seen.get(kept),
    }


def curve_of(history: Sequence[Mapping[str, Any]]) -> list[Step]:
    """The Trainer's log as one row a step."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        rows.setdefault(entry["step"], {}).update(entry)
    found = [
        Step(step, row.get("loss"), row.get("learning_rate"), row.get("eval_perplexity")) for step, row in sorted(rows.items())
    ]
    return [row for row in found if any(value is not None for value in row[1:])]


def _csv(curve: Sequence[Step]) -> str:
    lines = [",".join("" if value is None else repr(value) for value in row) for row in curve]
    return "\n".join([",".join(Step._fields), *lines]) + "\n"
