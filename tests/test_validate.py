"""What a study may not say, and the line that says so."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.schema import parse
from pipelines.study import Catalogue, Study, known_configs, read_catalogue, read_yaml
from pipelines.validate import validate, validate_catalogue
from secateur.errors import UserError

CATALOGUE = read_catalogue()
CONFIGS = {name: asset.config for name, asset in CATALOGUE.models.items()}
CALIBRATION = {"corpus": "wikipedia", "samples": 4, "length": 32}
GOOD: dict[str, Any] = {
    "title": "t",
    "models": ["smollm2"],
    "calibrations": {"wiki": CALIBRATION},
    "runs": [{"method": "wanda", "sparsity": 0.5}],
    "perplexity": [{"corpus": "wikipedia", "split": "heldout", "length": 32}],
    "zeroshot": [{"data": "olmo"}],
}


def problems(changes: dict[str, Any]) -> list[str]:
    """Every line that is said about the good study with `changes`."""
    try:
        study = parse(Study, GOOD | changes, "s")
    except UserError as error:
        return str(error).splitlines()
    return validate("s", study, CATALOGUE, CONFIGS)


def run(**axes: Any) -> dict[str, Any]:
    return {"runs": [{"method": "wanda", "sparsity": 0.5, **axes}]}


def calibration(**changes: Any) -> dict[str, Any]:
    return {"calibrations": {"wiki": {**CALIBRATION, **changes}}}


def finetune(**changes: Any) -> dict[str, Any]:
    """The good study with a fine-tuned run."""
    packed = {**CALIBRATION, "sampler": "packed"}
    chosen = {"recipe": "wanda", "data": "blocks", "validation": "unseen", **changes}
    study = {"calibrations": {"wiki": CALIBRATION, "blocks": packed, "unseen": packed}, "finetunes": {"ft": chosen}}
    return {**study, "runs": [{"method": "wanda", "sparsity": 0.5, "calibration": "wiki", "finetune": "ft"}]}


def perplexity(**changes: Any) -> dict[str, Any]:
    return {"perplexity": [{"corpus": "wikipedia", "split": "heldout", "length": 32, **changes}]}


def test_the_good_study_is_good() -> None:
    assert problems({}) == []


SCHEMA = [
    ({"titel": "t"}, "s: unknown key 'titel'; did you mean title? (known: "),
    ({"title": 3}, "s: title: 3: must be a valid string"),
    ({"models": []}, "s: models: []: must not be empty"),
    ({"compute": {"threads": 0}}, "s: compute.threads: 0: must be greater than 0"),
    ({"compute": {"threads": True}}, "s: compute.threads: True: must be a valid integer"),
    ({"calibrations": {"Wiki": CALIBRATION}}, "s: calibrations: 'Wiki': must be lower-case letters and digits"),
    ({"calibrations": {"a--b": CALIBRATION}}, "s: calibrations: 'a--b': must be lower-case letters and digits"),
    (calibration(sample=3), "s: calibrations.wiki: unknown key 'sample'; did you mean samples"),
    (calibration(samples="16"), "s: calibrations.wiki.samples: '16': must be a valid integer"),
    (
        calibration(bundle="gramm"),
        "s: calibrations.wiki.bundle: 'gramm': must be 'tokens', 'moments', 'gram'",
    ),
    (calibration(bundle="gradients"), "s: calibrations.wiki.bundle: 'gradients': must be"),
    (run(patern="2:4"), "s: runs[0]: unknown key 'patern'; did you mean pattern"),
    (run(sparsity=1.0), "s: runs[0].sparsity: 1.0: must be at least 0 and below 1"),
    (run(sparsity=[0.5, -0.1]), "s: runs[0].sparsity[1]: -0.1: must be at least 0 and below 1"),
    (run(sparsity="50%"), "s: runs[0].sparsity: '50%': must be a valid number"),
    (run(sparsity=[]), "s: runs[0].sparsity: []: must not be empty"),
    (run(pattern="4:2"), "s: runs[0].pattern: '4:2': must be 'unstructured' or 'n:m' with 0 < n < m"),
    (run(count="some"), "s: runs[0].count: 'some': must be 'reference' or 'exact'"),
    (run(propagation="blocks"), "s: runs[0].propagation: 'blocks': must be 'site', 'block' or 'dense'"),
    (run(method=[{"nam": "wanda"}]), "s: runs[0].method[0].name: missing"),
    (run(allocation={"a": 1}), "s: runs[0].allocation.name: missing"),
    (run(allocation=[0.5, 1.0]), "every entry must be at least 0 and below 1"),
    (perplexity(protocol="C"), "s: perplexity[0].protocol: 'C': must be 'A' or 'B'"),
    (perplexity(windows=0), "s: perplexity[0].windows: 0: must be greater than 0"),
    ({"runs": {"method": "wanda"}}, "s: runs: {'method': 'wanda'}: must be a valid list"),
    ({"runs": ["wanda"]}, "s: runs[0]: 'wanda': must be a mapping"),
    ({"assets": {"models": {"m": {"source": "git:x"}}}}, "s: assets.models.m.source: 'git:x': must be hf:<org>/<name>"),
    ({"assets": {"corpora": {"c": {"source": "file:x", "holdout": 1}}}}, "1: must be a number k of at least 2"),
    ({"assets": {"models": {"m": {"source": "file:x", "sha256": "12"}}}}, "'12': must be 64 hexadecimal digits"),
]
RULES = [
    ({"models": ["smollm"]}, "s: models: unknown model 'smollm'; did you mean smollm2?"),
    (calibration(corpus="wikipedi"), "s: calibrations.wiki.corpus: unknown corpus 'wikipedi'; did you mean wikipedia"),
    (calibration(split="test"), "s: calibrations.wiki.split: unknown split of wikipedia 'test'"),
    (calibration(sampler="document"), "s: calibrations.wiki.sampler: unknown sampler 'document'; did you mean documents?"),
    (calibration(length=8193), "s: calibrations.wiki.length: 8193: must be at most 8192, the context of smollm2"),
    (perplexity(length=8193), "s: perplexity[0].length: 8193: must be at most 8192, the context of smollm2"),
    (perplexity(corpus="ptbb"), "s: perplexity[0].corpus: unknown corpus 'ptbb'; did you mean ptb?"),
    (perplexity(split="held"), "s: perplexity[0].split: unknown split of wikipedia 'held'; did you mean heldout?"),
    ({"zeroshot": [{"data": "olmoo"}]}, "s: zeroshot[0].data: unknown task data 'olmoo'; did you mean olmo?"),
    ({"zeroshot": [{"data": "olmo", "tasks": ["arc"]}]}, "s: zeroshot[0].tasks: unknown task of olmo 'arc'; did you mean arc_e"),
    (run(model="gpt2"), "s: runs[0].model: unknown model of this study 'gpt2'"),
    (run(method="wand"), "s: runs[0].method: unknown method 'wand'; did you mean wanda?"),
    (run(update="ob"), "s: runs[0].update: unknown weight update 'ob'; did you mean obs?"),
    (run(allocation="unifrom"), "s: runs[0].allocation: unknown allocation 'unifrom'; did you mean uniform?"),
    (run(calibration="wik"), "s: runs[0].calibration: unknown calibration of this study 'wik'; did you mean wiki?"),
    ({"calibrations": {}}, "s: runs[0].calibration: missing; wanda needs one (known: none, add one under calibrations)"),
    ({"calibrations": {"a": CALIBRATION, "b": CALIBRATION}}, "s: runs[0].calibration: missing; wanda needs one (known: a, b)"),
    (run(sparsity=None), "s: runs[0].sparsity: missing; pattern 'unstructured' needs it"),
    (run(sparsity=0.6, pattern="2:4"), "s: runs[0].sparsity: 0.6: pattern 2:4 is 0.5; leave sparsity out"),
    (
        run(sparsity=None, pattern="2:5"),
        "s: runs[0].pattern: 2:5: 5 does not divide the 1536 inputs of mlp.down_proj in smollm2",
    ),
    (run(method="sparsegpt", sparsity=None, pattern="3:6"), "6 does not divide the blocksize 128 of sparsegpt"),
    (
        run(allocation=[0.5, 0.5]),
        "allocation: smollm2: allocation table has 2 entries: must have one for each of the 30",
    ),
    (
        run(allocation=[0.6] * 30),
        "allocation: smollm2: allocation table has the mean 0.6000: must be the run's sparsity",
    ),
    (run(allocation=[0.5] * 30, sparsity=None, pattern="2:4"), "allocation table entry 0.5: must be a pattern n:4, or 'dense'"),
    (
        run(method={"name": "wanda", "use_variant": True}, sparsity=None, pattern="2:4"),
        "s: runs[0].method: wanda use_variant has no 2:4 form; use pattern 'unstructured'",
    ),
    (
        run(update="reconstruct", propagation="dense"),
        "s: runs[0].propagation: dense: reconstruct needs the inputs of every block here; use 'block' or 'site'",
    ),
    (
        run(method={"name": "d2prune", "dynamic": "kl"}, propagation="dense"),
        "s: runs[0].propagation: dense: d2prune needs the inputs of every block here; use 'block' or 'site'",
    ),
    (
        run(method={"name": "formula", "file": "no/such/tree.json"}),
        "s: runs[0].method: formula file no/such/tree.json: no such file",
    ),
    (run(method={"name": "sparsegpt", "score": "wand"}), "s: runs[0].method: score: 'wand': must be 'surgeon', 'magnitude' or"),
    (run(method={"name": "wanda", "use_varian": True}), "s: runs[0].method: unknown key 'use_varian'; did you mean use_variant?"),
    (run(method={"name": "wanda", "use_variant": 1}), "s: runs[0].method: use_variant: 1: must be a valid boolean"),
    (run(method={"name": "sparsegpt", "percdamp": "1"}), "s: runs[0].method: percdamp: '1': must be a valid number"),
    (run(method={"name": "sparsegpt", "percdamp": -1}), "s: runs[0].method: sparsegpt percdamp -1.0: must be above 0"),
    (
        run(allocation="dlp", sparsity=None, pattern="2:4"),
        "allocation: dlp has no n:m form; use uniform, owl or a table",
    ),
    (
        run(allocation={"name": "owl", "lam": -1}),
        "s: runs[0].allocation: owl outlier 5.0, lam -1.0: must be above 0",
    ),
    (run(refinement="reselct"), "s: runs[0].refinement: unknown mask refinement 'reselct'; did you mean reselect?"),
    (run(update={"name": "lsq", "iteration": 3}), "s: runs[0].update: unknown key 'iteration'; did you mean iterations?"),
    (run(gradients="wik"), "s: runs[0].gradients: unknown calibration of this study 'wik'; did you mean wiki?"),
    (
        {"calibrations": {}, **run(method="magnitude", allocation="owl")},
        "s: runs[0].calibration: missing; allocation owl needs one (known: none, add one under calibrations)",
    ),
    (
        {**calibration(bundle="moments"), **run(method="sparsegpt", propagation="dense")},
        "s: runs[0]: dense sparsegpt needs the bundle 'gram': calibration wiki keeps only 'moments'",
    ),
    (
        {**calibration(bundle="moments"), **run(update="obs", propagation="dense")},
        "s: runs[0]: dense wanda with update obs needs the bundle 'gram'",
    ),
]

FINE_TUNING = [
    (finetune(recipe="wnda"), "s: finetunes.ft.recipe: unknown fine-tuning recipe 'wnda'; did you mean wanda"),
    (finetune(data="block"), "s: finetunes.ft.data: unknown calibration of this study 'block'; did you mean blocks"),
    (finetune(validation="wik"), "s: finetunes.ft.validation: unknown calibration of this study 'wik'; did you mean wiki"),
    (finetune(validation="blocks"), "s: finetunes.ft.validation: blocks: must be other text than data"),
    (finetune(modes="merged"), "s: finetunes.ft.modes: 'merged': must be 'unmerged', 'masked_merge'"),
    (finetune(modes="dense"), "s: finetunes.ft.modes: dense: recipe wanda allows unmerged, masked_merge, masked_training"),
    (finetune(recipe="dense_ft"), "s: finetunes.ft.modes: unmerged: recipe dense_ft allows dense"),
    (finetune(rte=1e-3), "s: finetunes.ft: unknown key 'rte'; did you mean rate"),
    (finetune(rate="high"), "s: finetunes.ft: rate: 'high': must be"),
    (finetune(rate=-1.0), "s: finetunes.ft: fine-tuning rate -1.0: must be above 0"),
    (
        finetune(targets=["q_prj"]),
        "s: finetunes.ft.targets: smollm2: unknown fine-tuning target of llama 'q_prj'; did you mean q_proj",
    ),
    (finetune(targets=[]), "s: finetunes.ft: fine-tuning targets: must name at least one linear"),
    (finetune(targets=[3]), "s: finetunes.ft: targets[0]: 3: must be a valid string"),
    (finetune(train="lora"), "s: finetunes.ft.train: leave it out; it follows from modes"),
    (finetune(length=512), "s: finetunes.ft.length: leave it out; it follows from data"),
    (finetune(keep="best", validation=None), "s: finetunes.ft.validation: missing; keep best needs held-out text"),
    (finetune() | {"finetunes": {}}, "s: runs[0].finetune: unknown fine-tuning of this study 'ft'"),
]


@pytest.mark.parametrize(("changes", "line"), SCHEMA + RULES + FINE_TUNING)
def test_refused_with_one_clear_line(changes: dict[str, Any], line: str) -> None:
    lines = problems(changes)
    assert sum(line in found for found in lines) == 1, lines
    assert all(found.startswith("s: ") for found in lines)


@pytest.mark.parametrize(
    "changes",
    [
        run(sparsity=None, pattern=["2:4", "4:8", "3:4", "1:3"]),
        run(method="sparsegpt", sparsity=0.5, pattern="2:4"),
        run(method="magnitude", update="obs", propagation="block"),
        {**calibration(bundle="moments"), **run(method="sparsegpt", propagation="site")},
        {**calibration(bundle="gram"), **run(propagation="dense")},
        run(allocation=[[0.4, 0.6] * 15, "uniform"]),
        run(method=["wanda", {"name": "sparsegpt", "percdamp": 1}], sparsity=[0, 0.99]),
        {"calibrations": {}, **run(method="magnitude")},
        {"runs": [], "calibrations": {}},
        calibration(length=8192),
        finetune(modes=["unmerged", "masked_merge", "masked_training"], targets=["q_proj", "mlp.up_proj"], keep="best"),
        finetune(recipe="dense_ft", modes="dense", validation=None),
        finetune(recipe="llm-pruner"),
    ],
)
def test_not_refused(changes: dict[str, Any]) -> None:
    assert problems(changes) == []


def test_all_problems_are_reported_at_once() -> None:
    changes = {"models": ["smollm"], **calibration(split="x", sampler="y"), **perplexity(corpus="z")}
    assert len(problems(changes)) >= 4
    assert len(problems({"titel": 1, **run(sparsity=2.0, coutn="exact")})) == 3


def test_a_model_without_a_known_config_is_left_to_the_stages() -> None:
    study = parse(Study, {**GOOD, **run(sparsity=None, pattern="2:5"), **calibration(length=100_000)}, "s")
    assert validate("s", study, CATALOGUE, {}) == []


def test_a_config_that_no_adapter_reads() -> None:
    study = parse(Study, GOOD, "s")
    assert (
        "models: smollm2: config.json: unknown model family 'llamma'; did you mean llama?"
        in (validate("s", study, CATALOGUE, {"smollm2": {"model_type": "llamma"}})[0])
    )
    assert validate("s", study, CATALOGUE, {"smollm2": {"model_type": "opt", "hidden_size": "wide"}}) == [
        "s: models: smollm2: config.json: hidden_size 'wide': must be a whole number of at least 1"
    ]


def test_what_a_config_leaves_out_has_its_familys_default() -> None:
    """decapoda-research's llama-7b has no max_position_embeddings: transformers reads 2048, and so do the rules on lengths."""
    study = parse(Study, GOOD | {"perplexity": [{"corpus": "wikipedia", "split": "heldout", "length": 4096}]}, "s")
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 99}
    lines = validate("s", study, CATALOGUE, {"smollm2": config | {"num_hidden_layers": 2, "num_key_value_heads": None}})
    assert any("4096: must be at most 2048, the context of smollm2" in line for line in lines)


def test_the_catalogue_itself() -> None:
    assert validate_catalogue(CATALOGUE) == []
    assert known_configs(CATALOGUE).keys() == CATALOGUE.models.keys()
    bad: dict[str, Any] = {
        "models": {"m": {"source": "hf:a/b", "config": {"model_type": "gpt2"}}},
        "corpora": {"c": {"source": "hf:a/b"}},
        "tasks": {"t": {"source": "hub", "tasks": ["boolqq"]}},
    }
    bad["corpora"]["h"] = {"source": "hub"}
    tasks, hub, corpora, models = validate_catalogue(Catalogue.model_validate(bad))
    assert tasks.startswith("tasks.t.tasks: unknown task 'boolqq'; did you mean boolq or")
    assert hub == "corpora.h.source: 'hub': is for task data only; use hf:, file: or pypi:"
    assert corpora == "corpora.c.splits: missing; a data set of the Hub has to list its splits"
    assert models == "models.m.config: 'n_embd' is missing"


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("title: a\ntitle: b\n")
    with pytest.raises(UserError, match="line 2 found duplicate key"):
        read_yaml(path)
    path.write_text("title: [a\n")
    with pytest.raises(UserError, match=r"a\.yaml: line 2 "):
        read_yaml(path)
    path.write_text("runs: {pattern: 2:4, percdamp: 1e-2}\n")
    assert read_yaml(path) == {"runs": {"pattern": "2:4", "percdamp": 0.01}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(-1, 2) | st.sampled_from(["wanda", "2:4", "site", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Study.model_fields, "method", "name", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from([*Study.model_fields, "x"]), JSON), JSON)
def test_whatever_the_yaml_holds_the_answer_is_lines(changes: dict[str, Any], method: Any) -> None:
    for study in (changes, run(method=method), run(sparsity=method), run(allocation=method)):
        assert all(line.startswith("s: ") for line in problems(study))


def test_readers_are_those_of_the_download_stage() -> None:
    from pipelines.validate import READERS
    from stages._readers import READERS as TEXT

    assert set(READERS["corpora"]) == {"hub", "jsonl", "parquet", *TEXT}


def test_an_unknown_reader_is_refused_before_any_work() -> None:
    corpus = {"source": "pypi:x==1", "reader": "texxt"}
    problems = validate_catalogue(parse(Catalogue, {"corpora": {"c": corpus}}, "assets"))
    assert any("reader 'texxt'; did you mean text" in line for line in problems)
