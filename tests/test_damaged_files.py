"""Files of a project that were damaged by hand or by a merge: the flows say which, in one line."""

from pathlib import Path

import pytest

from flows.drift import changes, machine, masks
from flows.drift.state import read_lock
from secateur.errors import UserError


@pytest.mark.parametrize("content", [b"\xff\xfe", b"- compute", b"compute", b"a: [", b"runs: {}"])
def test_params_without_compute(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"^params\.yaml: must be YAML with a mapping `compute` \(.*pipelines use STUDY`$"):
        machine.here(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"stages: {a: {cmd: x, deps: file}}",
        b"stages: {a: {cmd: x, outs: [{md5: 1}]}}",
        b"stages: {a: {cmd: x, params: [1]}}",
    ],
)
def test_a_lock_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_bytes(content)
    with pytest.raises(UserError, match=r"dvc\.lock is not a dvc\.lock: must have a mapping `stages`"):
        read_lock(tmp_path / "dvc.lock")


@pytest.mark.parametrize("text", ['study,subject,achieved\na,"b', "study,subject,achieved\na,b,half\n"])
def test_a_report_that_is_no_table_of_numbers(text: str) -> None:
    with pytest.raises(UserError, match=r"^results/report\.csv is damaged: .*; `dvc repro` makes it anew$"):
        changes.report_table("", text)


@pytest.mark.parametrize("text", ["", "[{}]", '[{"relpath": "a"}]', "{", "3"])
def test_a_listing_of_dvc_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "cd.dir").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"cd\.dir is damaged, it must list"):
        masks._members(tmp_path, "abcd.dir")
