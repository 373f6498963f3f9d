"""An export loses nothing: types, tokenizer files of any name, chat templates, what was done; and it is whole or absent."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import secateur
from secateur import Recipe, UserError
from secateur.artifacts import check_folder
from secateur.export import export
from tests.checkpoints import add_tokenizer, copy_of, edit_json, edit_tensors

TinyModel = Callable[[str], Path]

BESIDE = {
    "tokenizer.model": "pieces",
    "tekken.json": "{}",
    "qwen.tiktoken": "ranks",
    "sentencepiece.bpe.model": "pieces",
    "vocab.bpe": "merges",
    "merges.txt": "a b",
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tool.jinja": "{{ tools }}",
    "preprocessor_config.json": "{}",
    "LICENSE": "terms",
    "NOTICE.txt": "names",
}
NOT_COPIED = {
    "modeling_mine.py": "raise SystemExit",
    "pytorch_model.bin": "pickle",
    "optimizer.pt": "pickle",
    "consolidated.safetensors": "other weights",
    "model-q4.gguf": "other weights",
    "trainer_state.json": "{}",
    ".gitattributes": "lfs",
    "README.md": "---\nlicense: apache-2.0\ntags: [chat]\n---\n# The original\n",
    "onnx/model.onnx": "graph",
}


@pytest.fixture
def model(tiny_model: TinyModel, tmp_path: Path) -> Path:
    folder = copy_of(tiny_model("llama"), tmp_path / "model")
    for name, text in (BESIDE | NOT_COPIED).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def pruned(folder: Path, tokens: Tensor, method: str = "sparsegpt") -> Path:
    return secateur.prune(folder, Recipe(method, 0.5), folder.parent / f"run-{method}", tokens=tokens, device="cpu")


def test_everything_of_the_tokenizer_and_nothing_else_comes_along(model: Path, tokens: Tensor, tmp_path: Path) -> None:
    export(model, pruned(model, tokens), tmp_path / "out")
    for name, text in BESIDE.items():
        assert (tmp_path / "out" / name).read_text() == text
    assert not [name for name in NOT_COPIED if (tmp_path / "out" / name).exists() and name != "README.md"]
    original, copy = (secateur.load(folder, device="cpu")[1] for folder in (model, tmp_path / "out"))
    assert copy("w1 w80 w3").input_ids == original("w1 w80 w3").input_ids
    assert check_folder(tmp_path / "out") == []


def test_the_card_says_what_was_done(model: Path, tokens: Tensor, tmp_path: Path) -> None:
    export(model, pruned(model, tokens), tmp_path / "out", dtype="bfloat16")
    card = (tmp_path / "out" / "README.md").read_text()
    for said in (
        "license: apache-2.0",
        "library_name: transformers",
        "# model, pruned with secateur",
        "| method | sparsegpt |",
        "pruned layers are zero (50.0",
    ):
        assert said in card
    assert "| sparsity | 0.5 |" in card and "| stored as | bfloat16 |" in card
    assert str(tmp_path) not in card and "| update |" not in card


def test_the_configuration_stays_as_it_was(model: Path, tmp_path: Path) -> None:
    """transformers 5 would write rope_parameters, which version 4 does not read; what older programs look for stays."""
    edit_json(model / "config.json", rope_theta=12345.0, torch_dtype="float32", auto_map={"AutoConfig": "mine.Mine"}, my_own=[1])
    export(model, None, tmp_path / "out")
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (model, tmp_path / "out"))
    assert after == {key: value for key, value in before.items() if key != "auto_map"}
    export(model, None, tmp_path / "half", dtype="float16")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_tensor_keeps_its_own_type(dtype: torch.dtype, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    """Mixed as they are: norms in fp32 beside matrices in half precision."""
    folder = copy_of(tiny_model("llama"), tmp_path / "model")
    edit_tensors(folder, lambda found: {name: t if "norm" in name else t.to(dtype) for name, t in found.items()})
    run = pruned(folder, tokens)
    export(folder, run, tmp_path / "out")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert {name: t.dtype for name, t in after.items()} == {name: t.dtype for name, t in before.items()}
    untouched = [name for name in before if "_proj" not in name]
    assert untouched and all(torch.equal(before[name], after[name]) for name in untouched)
    whole = secateur.assemble(folder, run, device="cpu").state_dict()
    assert all(torch.equal(after[name].float(), whole[name]) for name in after)


def test_one_type_for_all(model: Path, tokens: Tensor, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = pruned(model, tokens, "wanda")
    export(model, run, tmp_path / "out", dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert plain.dtype == torch.bfloat16
    assert all((plain.state_dict()[name] == 0).float().mean() >= 0.5 for name in plain.state_dict() if "_proj" in name)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.6, "top_p": 0.9, "do_sample": False},
        {"max_new_tokens": 5, "eos_token_id": [2, 95]},
    ],
)
def test_a_generation_config_that_save_pretrained_refuses_is_copied(
    settings: dict[str, object], model: Path, tmp_path: Path
) -> None:
    edit_json(model / "generation_config.json", **settings)
    export(model, None, tmp_path / "out")
    assert (tmp_path / "out" / "generation_config.json").read_bytes() == (model / "generation_config.json").read_bytes()


def overflowing(folder: Path) -> None:
    edit_tensors(folder, lambda found: found | {"model.norm.weight": found["model.norm.weight"] * 1e6})


WRONG: dict[str, tuple[Callable[[Path], object], dict[str, object], str]] = {
    "a type that nobody stores": (lambda _: None, {"dtype": "int8"}, "unknown dtype 'int8'"),
    "a value that does not fit": (overflowing, {"dtype": "float16"}, "model.norm.weight holds inf as float16"),
    "a mode without a fine-tuning": (lambda _: None, {"mode": "dense"}, "give both or neither"),
    "no folder to put it in": (lambda _: None, {"to": "no/such/folder/out"}, "is not a folder; make it first"),
    "the model's own folder": (lambda _: None, {"to": "model"}, "model"),
    "a generation config that stock code refuses": (
        lambda folder: edit_json(folder / "generation_config.json", num_return_sequences=4),
        {},
        "transformers does not accept .*generation_config.json; mend or remove it: ValueError",
    ),
    "a broken generation config": (lambda folder: (folder / "generation_config.json").write_text("["), {}, "not valid JSON"),
    "a broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), {}, "tokenizer in .* cannot be read"),
    "inf in the checkpoint": (
        lambda folder: edit_tensors(folder, lambda found: found | {"lm_head.weight": found["lm_head.weight"] / 0}),
        {},
        "lm_head.weight holds",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused_and_nothing_is_left(case: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    spoil, options, message = WRONG[case]
    folder = copy_of(tiny_model("llama"), tmp_path / "model")
    spoil(folder)
    to = tmp_path / str(options.pop("to", "out"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as raised:
        export(folder, None, to, **options)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(raised.value) and sorted(tmp_path.rglob("*")) == before


def test_the_check_can_be_skipped_for_models_that_do_not_fit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", None)
    export(model, None, tmp_path / "out", check=False)
    with pytest.raises(UserError, match="stock from_pretrained does not load"):
        export(model, None, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_an_export_is_a_checkpoint_to_prune_again(model: Path, tokens: Tensor, tmp_path: Path) -> None:
    export(model, pruned(model, tokens, "magnitude"), tmp_path / "out")
    again = secateur.prune(tmp_path / "out", Recipe("wanda", 0.6), tmp_path / "again", tokens=tokens, device="cpu")
    whole = secateur.assemble(tmp_path / "out", again, device="cpu")
    assert all((whole.state_dict()[name] == 0).float().mean() >= 0.59 for name in whole.state_dict() if "_proj" in name)


def test_the_same_bytes_twice(model: Path, tokens: Tensor, tmp_path: Path) -> None:
    run = pruned(model, tokens)
    for place in ("one", "two"):
        export(model, run, tmp_path / place)
    assert (tmp_path / "one" / "SHA256SUMS").read_bytes() == (tmp_path / "two" / "SHA256SUMS").read_bytes()


def test_without_a_tokenizer_there_is_none_to_load(tiny_model: TinyModel, tmp_path: Path) -> None:
    export(tiny_model("gpt2"), None, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    add_tokenizer(tmp_path / "out")
