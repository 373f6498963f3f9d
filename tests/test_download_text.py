"""The download stage and texts: byte-order marks, line ends, folders with odd names, damaged data; a corpus or one line."""

import bz2
import codecs
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from secateur.artifacts import sha256
from secateur.errors import UserError
from stages._sources import open_source
from stages.download import download
from tests.code_of import ROOT
from tests.download_rows import corpus, left_behind, model, texts, write_gguf

NAMES = ["a [b] {c} *?# é'", "-x", "two\nlines", "[ab]*", "a::b", "file:x#y", "..a", "~", "%20 $HOME", "{0..9}", "!(x)", " "]
MARK = codecs.BOM_UTF8


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_MIRROR", raising=False)


def read(folder: Path, out: Path, **fields: Any) -> list[str]:
    download(corpus(f"file:{folder}", **fields), out)
    return texts(out)


# ---- byte-order marks and line ends


def test_a_mark_is_no_text_and_cr_lf_ends_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(MARK + "é\r\nb\r\n \r\nc\rd\ufeff".encode())
    (tmp_path / "b.txt").write_bytes(MARK)
    files = {"files": ["a.txt", "b.txt"]}
    assert read(tmp_path, tmp_path / "1", reader="text", **files) == ["é\nb\n \nc\nd\ufeff", ""]
    assert read(tmp_path, tmp_path / "2", reader="paragraphs", **files) == ["é\nb", "c\nd\ufeff"]


def lines(*rows: str) -> bytes:
    return b"".join(json.dumps({"text": row}).encode() + b"\r\n" for row in rows)


def test_rows_of_marked_files_are_read_whichever_file_they_are_in(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines("plain\r\n"))
    (tmp_path / "b.jsonl").write_bytes(MARK + lines("b", "c"))
    (tmp_path / "c.json").write_bytes(MARK + b'[{"text": "d"},\r\n {"text": "e"}]')
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(MARK + lines("f")))
    (tmp_path / "e.csv").write_bytes(MARK + b'text,n\r\n"g, h",1\r\n')
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress(MARK + b"text,n\r\ni,1\r\n"))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert read(tmp_path, tmp_path / "1", reader="jsonl", files=["*.jsonl*"]) == ["plain\r\n", "b", "c", "f"]
    assert read(tmp_path, tmp_path / "3", reader="jsonl", files=["*.json"]) == ["d", "e"]
    assert read(tmp_path, tmp_path / "2", reader="jsonl", files=["*.csv*"]) == ["g, h", "i"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_marks_in_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mirror [1]" / "datasets" / "org" / "set"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(MARK + lines("a"))
    (folder / "test.jsonl").write_bytes(MARK + lines("b"))
    monkeypatch.setenv("SECATEUR_MIRROR", str(tmp_path / "mirror [1]"))
    download(corpus("hf:org/set"), tmp_path / "out")
    assert (texts(tmp_path / "out"), texts(tmp_path / "out", "test")) == (["a"], ["b"])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(
    ("reader", "name"), [("text", "a.txt"), ("paragraphs", "a.txt"), ("jsonl", "a.jsonl"), ("jsonl", "a.csv")]
)
def test_other_encodings_are_named_with_the_way_out(encoding: str, reader: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes("\ufeff{}".encode(encoding))
    what = encoding[:6].upper()
    with pytest.raises(UserError, match=rf"{name} is {what} text.*iconv -f {what} -t UTF-8"):
        read(tmp_path, tmp_path / "out", reader=reader)
    assert left_behind(tmp_path / "out") == []


# ---- names


@pytest.fixture(params=NAMES)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / request.param
    folder.mkdir()
    # What a pattern would find instead.
    for other in ("a", "b", "x"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "rows.jsonl").write_bytes(lines("of another folder"))
    return folder


def test_every_reader_in_a_folder_with_an_odd_name(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Source and project have it; so has a file."""
    (odd / "rows.jsonl").write_bytes(lines("a"))
    (odd / "rows [1] é#.jsonl.gz").write_bytes(gzip.compress(lines("b")))
    (odd / "rows.csv").write_text("text\nc\n")
    Dataset.from_dict({"text": ["d"]}).to_parquet((odd / "rows*.parquet").open("wb"))
    (odd / "a.txt").write_text("e")
    (odd / "dump.xml.bz2").write_bytes(bz2.compress(b"<m><page><ns>0</ns><revision><text>f</text></revision></page></m>"))
    write_gguf(odd / "tiny [q].gguf")
    monkeypatch.chdir(odd)
    (Path("project") / "p").mkdir(parents=True)
    sources = ["file:."] if "\n" in odd.name else [f"file:{odd}", "file:.", f"file:../{odd.name}"]  # a row takes no line break
    for source in sources:
        for number, (reader, file, wanted) in enumerate(
            [
                ("jsonl", "rows.jsonl", "a"),
                ("jsonl", "rows [1] é#.jsonl.gz", "b"),
                ("jsonl", "rows.csv", "c"),
                ("parquet", "rows*.parquet", "d"),
                ("text", "a.txt", "e"),
                ("mediawiki", "*.xml.bz2", "f"),
            ]
        ):
            out = Path(f"out-{len(source)}-{number}")
            download(corpus(source, reader=reader, files=[file]), out)
            assert texts_at(out) == [wanted]
    download(model("file:.", reader="gguf"), Path("made"))
    download(model("file:made/models/m"), Path("made again"))
    assert sha256(Path("made/models/m/model.safetensors")) == sha256(Path("made again/models/m/model.safetensors"))
    assert not [path for path in Path("out-6-0").rglob("*") if path.is_symlink()]


def texts_at(out: Path) -> list[str]:
    from pyarrow import parquet

    with (out / "corpora" / "c" / "train.parquet").open("rb") as file:
        return parquet.read_table(file)["text"].to_pylist()


@pytest.mark.parametrize("name", NAMES[:5])
def test_repositories_and_tasks_in_a_folder_with_an_odd_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name / "datasets" / "org" / "set"
    (folder / "raw").mkdir(parents=True)
    Dataset.from_dict({"text": ["a", "b"]}).to_parquet((folder / "raw" / "train-0.parquet").open("wb"))
    configs = [{"config_name": "raw", "data_files": [{"split": "train", "path": "raw/train-*"}]}]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    monkeypatch.setenv("SECATEUR_MIRROR", str(tmp_path / name))
    monkeypatch.chdir(tmp_path / name)
    for number, splits in enumerate([None, {"train": "train[:2]"}, {"train": "raw/train-*"}]):
        download(corpus("hf:org/set", config="raw", splits=splits), Path(f"out{number}"))
        assert texts_at(Path(f"out{number}")) == ["a", "b"]
    plain = tmp_path / "plain"
    Dataset.from_dict({"goal": ["g"], "label": [1]}).save_to_disk(plain)
    (tmp_path / name / "hf_datasets/piqa/plain_text").mkdir(parents=True)
    plain.rename(tmp_path / name / "hf_datasets/piqa/plain_text/validation")
    row = corpus("file:.", tasks=["piqa"]).model_copy(update={"kind": "tasks", "path": "tasks/t"})
    download(row, Path("out"))
    assert Path("out/tasks/t/piqa/validation.parquet").stat().st_size


def test_a_temporary_folder_with_an_odd_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines("a"))
    (tmp_path / "t[m]p").mkdir()
    code = "import sys; from pathlib import Path; from stages.download import download; from tests.download_rows import corpus\n"
    code += "download(corpus('file:' + sys.argv[1], reader='jsonl', files=['a.jsonl']), Path(sys.argv[1]) / 'out')"
    environment = os.environ | {"TMPDIR": str(tmp_path / "t[m]p")}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "UserError: the temporary folder" in done.stderr and "set TMPDIR" in done.stderr


# ---- what other libraries say


DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "parquet cut": ("a.parquet", b"PAR1xxxxPAR1", r"SOURCE cannot be read as a data set: .*[Pp]arquet"),
    "no parquet": ("a.parquet", b"<html>not found</html>", r"SOURCE cannot be read as a data set: .*[Pp]arquet"),
    "empty parquet": ("a.parquet", b"", r"SOURCE/a.parquet is empty; fetch it again"),
    "line cut": ("a.jsonl", lines("a") + b'{"text": "b', r"SOURCE cannot be read as a data set: .*JSON"),
    "empty jsonl": ("a.jsonl", b"", r"SOURCE cannot be read as a data set: a file without rows"),
    "gz cut": ("a.jsonl.gz", gzip.compress(lines("a" * 99))[:25], r"SOURCE cannot be read .*: Compressed file ended before"),
    "no gz": ("a.jsonl.gz", lines("a"), r"a.jsonl.gz is not a whole gzip file: Not a gzipped file"),
    "ragged csv": ("a.csv", b"text,n\na,1\nb,1,2\n", r"SOURCE cannot be read as a data set: .*Expected 2 fields in line 3"),
    "latin-1 csv": ("a.csv", b"text\n\xe9\n", r"SOURCE cannot be read as a data set: .*utf-8"),
    "latin-1 jsonl": ("a.jsonl", b'{"text": "\xe9"}\n', r"SOURCE cannot be read as a data set: .*utf-8"),
    "half a character": ("a.jsonl", b'{"text": "\\ud83d"}\n', r"SOURCE cannot be read as a data set: .*JSON"),
    "pointer": ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", r"SOURCE/a.jsonl is a git-lfs"),
    "bz2 cut": ("a.xml.bz2", bz2.compress(b"<m/>" * 99)[:30], r"a.xml.bz2 is not a whole MediaWiki dump"),
    "readme": ("README.md", b"---\nconfigs: [a\n---\n", r"the head of README.md cannot be read"),
    "readme without paths": (
        "README.md",
        b"---\nconfigs:\n- {data_files: [{split: train}]}\n---\n",
        r"lists None among data_files",
    ),
    "readme with a word": ("README.md", b"---\nconfigs: raw\n---\n", r"configs in the head of README.md is not a list"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_data_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file, content, message = DAMAGED[name]
    folder = tmp_path / "mirror" / "datasets" / "org" / "set"
    folder.mkdir(parents=True)
    (folder / file).write_bytes(content)
    monkeypatch.setenv("SECATEUR_MIRROR", str(tmp_path / "mirror"))
    reader = "hub" if file == "README.md" else "mediawiki" if file.endswith("bz2") else "jsonl"
    with pytest.raises(UserError, match=message.replace("SOURCE", "hf:org/set")) as caught:
        download(corpus("hf:org/set", reader=reader, files=None if reader == "hub" else [file]), tmp_path / "out")
    assert str(caught.value).isprintable() and "secateur-" not in str(caught.value)
    assert "Failed to read" not in capfd.readouterr().err
    assert left_behind(tmp_path / "out") == [] and (folder / file).read_bytes() == content


@pytest.mark.parametrize("name", ["../x", "a/../b", "org/a--b", "-a/b", "a/b.git", "a/" + "x" * 100, "é/b"])
def test_what_names_no_repository(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.setenv("SECATEUR_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(UserError, match=r"source 'hf:.*' (names no repository|is not understood)"):
        open_source(f"hf:{name}", "models", tmp_path)
    with pytest.raises(UserError, match="not understood"):
        open_source("pypi:--index-url==1.0", "models", tmp_path)


def test_links_and_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b\n.txt").symlink_to("gone")
    assert read(tmp_path, tmp_path / "1", reader="text", files=["a.txt"]) == ["a"]
    with pytest.raises(UserError, match=r"file:.*b\\n.txt is a link to gone, which does not exist"):
        read(tmp_path, tmp_path / "2", reader="text", files=["*.txt"])
    with pytest.raises(UserError, match=r"split 'a/b'"):
        download(corpus(f"file:{tmp_path}", reader="text", splits={"a/b": "a.txt"}), tmp_path / "2")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret/a.txt")

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(UserError, match=r"file:.*: Permission denied \(/secret/a.txt\)"):
        read(tmp_path, tmp_path / "2", reader="text", files=["a.txt"])
    assert left_behind(tmp_path / "2") == []
