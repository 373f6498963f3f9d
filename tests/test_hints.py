"""Near names are proposed to who mistyped one, and to nobody else."""

import pytest

from secateur.errors import UserError, unknown_name
from secateur.methods import METHODS
from secateur.models.adapters import FAMILIES, adapter_for


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("wadna", ("wanda", "magnitude"), "wanda"),
        ("wanda2", ("wanda", "magnitude"), "wanda"),
        ("spasegtp", ("sparsegpt",), "sparsegpt"),
        ("magntude", ("magnitude",), "magnitude"),
        ("perc", ("percdamp",), "percdamp"),
        ("ppl", ("ppls", "zeroshot"), "ppls"),
        ("wikitext-2", ("wikitext2", "c4"), "wikitext2"),
        ("llama-2-7b--c4--wanda--50--sit", ("llama-2-7b--c4--wanda--50--site",), "llama-2-7b--c4--wanda--50--site"),
    ],
)
def test_a_slip_is_followed_by_what_was_meant(name: str, known: tuple[str, ...], hint: str) -> None:
    assert f"unknown thing {name!r}; did you mean {hint}? (known: " in str(unknown_name("thing", name, known))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("flap", ("alps", "wanda")),
        ("sparsellm", ("sparsegpt",)),
        ("gptq", ("sparsegpt",)),
        ("wanda++-ria", ("wanda",)),
        ("qwen2-moe-a14b", ("qwen2",)),
        ("calibration", ("validation",)),
        ("", ("obs", "lsq")),
    ],
)
def test_the_name_of_something_else_is_followed_by_what_there_is(name: str, known: tuple[str, ...]) -> None:
    assert str(unknown_name("thing", name, known)) == f"unknown thing {name!r} (known: {', '.join(sorted(known))})"


@pytest.mark.parametrize(
    "family", ["gemma", "phi", "starcoder2", "cohere", "gpt_bigcode", "opt_iml", "bert", "olmoe", "qwen3_next"]
)
def test_a_family_is_refused_without_proposing_another(family: str) -> None:
    with pytest.raises(UserError) as raised:
        adapter_for({"model_type": family})
    assert "did you mean" not in str(raised.value) and family in str(raised.value)
    assert all(known in str(raised.value) for known in FAMILIES)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "gpt_neo", "llava", "mistral3"])
def test_a_family_that_transformers_knows_is_said_to_be_one(family: str) -> None:
    with pytest.raises(UserError, match=f"^secateur cannot prune the model family '{family}' yet \\(it can: gpt2, llama, "):
        adapter_for({"model_type": family})


@pytest.mark.parametrize(("family", "meant"), [("lama", "llama"), ("qwne3", "qwen3"), ("mistrl", "mistral"), ("gpt-2", "gpt2")])
def test_a_mistyped_family_is_still_recognised(family: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"unknown model family '{family}'; did you mean {meant}"):
        adapter_for({"model_type": family})


def test_every_name_is_recognised_after_any_single_slip() -> None:
    for name in METHODS:
        for place in range(1, len(name)):
            for slip in (name[:place] + name[place + 1 :], name[:place] + "x" + name[place:]):
                if slip not in METHODS:
                    assert f"{name}" in str(unknown_name("method", slip, METHODS)).partition("(known")[0], slip
