"""The download stage: text corpora from files, dumps, the Hub and a mirror of it."""

import bz2
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from datasets import Dataset

from secateur.artifacts import identity
from secateur.errors import UserError
from stages._wikitext import article_text
from stages.download import download
from tests.download_rows import corpus, left_behind, model, texts

DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{}</mediawiki>"""
PAGE = "<page><title>T</title><ns>{}</ns>{}<revision><text>{}</text></revision></page>"


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_MIRROR", raising=False)


# ---- texts


def test_text_paragraphs_and_holdout(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("one\nmore\n\n\ntwo\n \nthree\n\nfour\n\nfive")
    for path in ("first", "second"):
        download(corpus(source=f"file:{tmp_path / 'book.txt'}", reader="paragraphs", holdout=2), tmp_path / path)
    assert texts(tmp_path / "first") == ["one\nmore", "three", "five"]
    assert texts(tmp_path / "first", "heldout") == ["two", "four"]
    assert identity(tmp_path / "first/corpora/c") == identity(tmp_path / "second/corpora/c")
    download(corpus(source=f"file:{tmp_path / 'book.txt'}", reader="text"), tmp_path / "third")
    assert texts(tmp_path / "third") == [(tmp_path / "book.txt").read_text()]


@pytest.mark.parametrize(("content", "problem"), [(b"a\xffb", "not UTF-8 text.* at byte 1"), (b"ab\0", "NUL at character 2")])
def test_what_is_not_text_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(UserError, match=problem):
        download(corpus(source=f"file:{tmp_path / 'book.txt'}", reader="text"), tmp_path / "out")
    assert not (tmp_path / "out/corpora/c").exists()


def test_holdout_of_a_range_and_one_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"body": str(i)}) + "\n" for i in range(5)))
    source = f"file:{tmp_path / 'rows.jsonl'}"
    download(corpus(source=source, reader="jsonl", column="body", holdout=[3, 5]), tmp_path / "a")
    assert (texts(tmp_path / "a"), texts(tmp_path / "a", "heldout")) == (["0", "1", "2"], ["3", "4"])
    with pytest.raises(UserError, match=r"holdout \[3, 6\] does not fit a source of 5 rows"):
        download(corpus(source=source, reader="jsonl", column="body", holdout=[3, 6]), tmp_path / "b")
    with pytest.raises(UserError, match=r"no column 'text' in train; it has body"):
        download(corpus(source=source, reader="jsonl"), tmp_path / "b")
    (tmp_path / "rows.jsonl").write_text('{"body": "a"}\n{"body": null}\n')
    with pytest.raises(UserError, match=r"row 1 of the split train has no text"):
        download(corpus(source=source, reader="jsonl", column="body"), tmp_path / "b")
    assert left_behind(tmp_path / "b") == []


def test_files_of_a_folder_become_splits_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "held"):
        (tmp_path / f"{name}.txt").write_text(name)
    splits = {"train": "[ab].txt", "heldout": "held.txt"}
    download(corpus(source=f"file:{tmp_path}", reader="text", splits=splits), tmp_path / "out")
    assert (texts(tmp_path / "out"), texts(tmp_path / "out", "heldout")) == (["a", "b"], ["held"])


def test_mediawiki_keeps_articles_and_their_prose(tmp_path: Path) -> None:
    article = (
        "{{Infobox|x=1}}'''Oak''' ({{IPA|}}) is a [[tree|big tree]] of {{convert|20|m|ft}}."
        "&lt;ref&gt;{{cite}}&lt;/ref&gt;\n"
        "[[File:oak.jpg|thumb|An [[oak]]]]\n{|\n| cell\n|}\n== Use ==\nWood &amp;amp; ''cork''.\n"
        "== Empty ==\n{{main|Oaks}}\n== See also ==\n* [[Elm]]\n=== More ===\nx\n[[Category:Trees]]"
    )
    pages = [PAGE.format(0, "", article), PAGE.format(0, '<redirect title="Oak"/>', "#REDIRECT [[Oak]]")]
    pages += [PAGE.format(4, "", "A project page."), PAGE.format(0, "", "Oak may be:\n* x\n{{disambiguation}}")]
    pages += [PAGE.format(0, "", f"Article {i}.") for i in range(3)]
    (tmp_path / "dump.xml.bz2").write_bytes(bz2.compress(DUMP.format("".join(pages)).encode()))
    row = corpus(source=f"file:{tmp_path / 'dump.xml.bz2'}", reader="mediawiki", holdout=4)
    download(row, tmp_path / "out")
    assert texts(tmp_path / "out") == [
        "Oak is a big tree of 20 m.\n\nUse\n\nWood & cork.",
        "Article 0.",
        "Article 1.",
    ]
    assert texts(tmp_path / "out", "heldout") == ["Article 2."]
    whole = (tmp_path / "dump.xml.bz2").read_bytes()
    (tmp_path / "dump.xml.bz2").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole MediaWiki dump"):
        download(row, tmp_path / "out2")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("a ''b '''c<ref>x''</ref>'' d", "a b c d"),  # unbalanced emphasis
        ("{| class=x\n| never closed\nafter", "after"),
        ("x [https://example.org site] y [[fr:Chêne]]", "x site y"),
        ("the {{lang|de|Eiche}}, {{unknown|z}}, tree", "the Eiche, tree"),
    ],
)
def test_wiki_markup(markup: str, text: str) -> None:
    assert article_text(markup).replace(",,", ",") == text


# ---- the Hub and its mirror


README = """---
configs:
- config_name: raw
  data_files:
  - {split: train, path: raw/train-*}
  - {split: test, path: raw/test-*}
- config_name: other
  data_files: other/*.parquet
---
"""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mirror/datasets/org/set"
    for name, rows in {"raw/train-0": ["a", "", "b"], "raw/test-0": ["c"], "other/x": ["z"]}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({"sentence": rows}).to_parquet(folder / f"{name}.parquet")
    (folder / "README.md").write_text(README)
    monkeypatch.setenv("SECATEUR_MIRROR", str(tmp_path / "mirror"))
    return tmp_path / "mirror"


def test_mirror_gives_all_splits_of_the_config_with_empty_rows(mirror: Path, tmp_path: Path) -> None:
    row = corpus(source="hf:org/set@abc123", config="raw", column="sentence")
    download(row, tmp_path / "out")
    assert (texts(tmp_path / "out"), texts(tmp_path / "out", "test")) == (["a", "", "b"], ["c"])
    with pytest.raises(UserError, match=r"'raww'.*raw"):
        download(row.model_copy(update={"config": "raww"}), tmp_path / "out2")


def test_splits_name_slices_or_files(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = corpus(source="hf:org/set", config="raw", column="sentence")
    wanted = {
        "slices": {"train": "train[:2]", "heldout": "train[2:]"},
        "files": {"train": "raw/test-0.parquet", "heldout": "other/*.parquet"},
        "absent": {"train": "raw/part-of-1024.json.gz"},
    }
    for name, splits in wanted.items():
        download(row.model_copy(update={"splits": splits}), tmp_path / name)
        assert ("does not have raw/part-of-1024.json.gz" in capsys.readouterr().out) == (name == "absent")
    assert (texts(tmp_path / "slices"), texts(tmp_path / "slices", "heldout")) == (["a", ""], ["b"])
    assert (texts(tmp_path / "files"), texts(tmp_path / "files", "heldout")) == (["c"], ["z"])
    assert (texts(tmp_path / "absent"), texts(tmp_path / "absent", "test")) == (["a", "", "b"], ["c"])
    with pytest.raises(UserError, match=r"has no file 'raw/part-of-1024.json.gz'"):
        download(row.model_copy(update={"splits": wanted["absent"], "config": None}), tmp_path / "none")


def test_repository_that_the_mirror_lacks(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(mirror / "models/org/absent")):
        download(model("hf:org/absent"), tmp_path / "out")


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE=1", "HF_ENDPOINT=http://127.0.0.1:9"])
def test_hub_that_cannot_be_reached_says_what_to_do(switch: str, tmp_path: Path) -> None:
    """In a process of its own: the Hub's client reads both switches when it is imported. Nothing listens on port 9."""
    code = "import sys; from pathlib import Path; from stages._sources import open_source\n"
    code += "open_source('hf:org/name', 'models', Path(sys.argv[1]))"
    name, _, value = switch.partition("=")
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {name: value}, capture_output=True, text=True, check=False)
    assert "secateur.errors.UserError: hf:org/name could not be fetched from the Hub" in done.stderr
    assert "set SECATEUR_MIRROR to a folder" in done.stderr


def test_hub_fetches_only_what_is_needed_at_the_named_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's client replaced by one that serves a folder: what is asked of it is what is under test."""
    remote = {
        "README.md": README,
        "raw/train-0.jsonl": '{"sentence": "a"}\n',
        "raw/test-0.jsonl": '{"sentence": "b"}\n',
    }
    remote["other/x.parquet"] = "huge"
    asked: list[str] = []

    class Info:
        sha = "c0ffee"
        siblings = [huggingface_hub.hf_api.RepoSibling(rfilename=name) for name in remote]  # noqa: RUF012

    def dataset_info(_: Any, name: str, revision: str) -> Info:
        assert (name, revision) == ("org/set", "v1")
        return Info()

    def snapshot_download(name: str, repo_type: str, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        assert (repo_type, revision) == ("dataset", "c0ffee")
        asked.extend(allow_patterns)
        for file in allow_patterns:
            if file in remote:
                (local_dir / file).parent.mkdir(parents=True, exist_ok=True)
                (local_dir / file).write_text(remote[file])

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    download(corpus(source="hf:org/set@v1", config="raw", column="sentence"), tmp_path / "out")
    assert set(asked) == set(remote) - {"other/x.parquet"}
    assert (texts(tmp_path / "out"), texts(tmp_path / "out", "test")) == (["a"], ["b"])
    del remote["raw/test-0.jsonl"]
    with pytest.raises(UserError, match=r"incomplete, raw/test-0.jsonl is missing"):
        download(corpus(source="hf:org/set@v1", config="raw", column="sentence"), tmp_path / "half")
