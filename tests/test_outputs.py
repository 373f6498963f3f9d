"""What lies where a result is to go: nobody's files are lost, only our own results are replaced, and only when asked."""

import errno
import io
import logging
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import secateur
from secateur import Recipe, UserError
from secateur.artifacts import MARK, SUMS, check_folder, identity, read_sums, sha256, temporary, write_json, write_text
from secateur.export import export
from secateur.finetune.train import finetune
from secateur.masks import PrunedStore
from secateur.outputs import WORK, check_output, continue_or_start, remove_work, whole_folder
from stages.__main__ import app
from tests.download_rows import corpus
from tests.finetune_project import RUN, make_project, training_key
from tests.test_finetune import SETTINGS, texts

TinyModel = Callable[[str], Path]
TOKENS = texts(4)


def tree(root: Path) -> dict[str, bytes | str | None]:
    """All that lies below a folder: the bytes of files, where links lead, None for folders."""

    def content(path: Path) -> bytes | str | None:
        return str(path.readlink()) if path.is_symlink() else None if path.is_dir() else path.read_bytes()

    return {path.relative_to(root).as_posix(): content(path) for path in sorted(root.rglob("*"))}


def refused(action: Callable[[], object], root: Path) -> str:
    """What the refusal of `action` says, which touched nothing below `root`."""
    before = tree(root)
    with pytest.raises(UserError) as raised:
        action()
    assert tree(root) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def prune(model: Path, out: Path, **others: Any) -> None:
    secateur.prune(model, Recipe("wanda", 0.5), out, tokens=TOKENS, device="cpu", **others)


def calibrate(model: Path, out: Path, **others: Any) -> None:
    secateur.calibrate(model, TOKENS, out, device="cpu", **others)


def gradients(model: Path, out: Path, **others: Any) -> None:
    secateur.gradients(model, TOKENS, out, device="cpu", **others)


def tune(model: Path, out: Path, **others: Any) -> None:
    short = replace(SETTINGS, epochs=1, targets=("q_proj",))
    kept = {"work": temporary(out), "settings": short, "device": "cpu", "progress": False}
    finetune(model, None, texts(8), out, **kept, **others)


def plain(model: Path, out: Path, **others: Any) -> None:
    export(model, None, out, **others)


ENTRIES = [prune, calibrate, gradients, tune, plain]
entries = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)


@pytest.fixture
def place(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of somebody's own, as the current directory."""
    shutil.copytree(tiny_model("llama"), tmp_path / "place" / "model", ignore=shutil.ignore_patterns(SUMS))
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


# ---- what is refused, whatever is asked


def mine(folder: Path, file: str = "thesis.txt") -> Path:
    """A folder with a file of somebody's own."""
    write_text(folder / file, "years of work")
    return folder


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def through_a_link(place: Path) -> Path:
    return link(place / "elsewhere", place / "model") / "run"


def foreign_sums(place: Path) -> Path:
    (mine(place / "run") / SUMS).write_text(f"{sha256(place / 'run' / 'thesis.txt')}  thesis.txt\n")
    return place / "run"


def half_marked(place: Path) -> Path:
    (mine(place / "run") / SUMS).write_text(f"not {MARK}\n{sha256(place / 'run' / 'thesis.txt')}  thesis.txt\n")
    return place / "run"


def linked_sums(place: Path) -> Path:
    with whole_folder(place / "ours") as folder:
        mine(folder)
    link(mine(place / "run") / SUMS, place / "ours" / SUMS)
    return place / "run"


ANYWHERE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a folder with a file of mine": (lambda place: mine(place / "run"), "run exists already"),
    "the same by another name": (lambda place: mine(place / "run").parent / "model" / ".." / "run", "run exists already"),
    "with a hidden file alone": (lambda place: mine(place / "run", ".hidden"), "run exists already"),
    "with sums that are not ours": (foreign_sums, "run exists already"),
    "with a mark in the wrong place": (half_marked, "run exists already"),
    "with a link to sums of ours": (linked_sums, "run exists already"),
    "the model": (lambda place: place / "model", "is .*model, which is needed as it is"),
    "the model, through a link": (lambda place: link(place / "elsewhere", place) / "model", "is .*model, which is needed"),
    "above the model": (lambda place: place, "contains .*model, which is needed as it is"),
    "inside the model": (lambda place: place / "model" / "run", "lies inside .*model, which is needed as it is"),
    "deep inside the model": (lambda place: place / "model" / "a" / "run", "lies inside .*model, which is needed"),
    "inside the model, through a link": (through_a_link, "lies inside .*model, which is needed as it is"),
    "the current folder": (lambda _: Path(), "needs a folder of its own"),
    "the one above": (lambda _: Path(".."), "needs a folder of its own"),
    "nothing": (lambda _: Path(), "needs a folder of its own"),
    "the root": (lambda _: Path("/"), "needs a folder of its own"),
    "a link to a folder": (lambda place: link(place / "run", mine(place / "other")), "run is a link"),
    "a link to an empty folder": (lambda place: link(place / "run", place.parent), "run is a link"),
    "a link to nothing": (lambda place: link(place / "run", place / "nothing"), "run is a link"),
    "a link to itself": (lambda place: link(place / "run", place / "run"), "run is a link"),
    "a file": (lambda place: mine(place) / "thesis.txt", "thesis.txt exists already and is no folder"),
    "a place below a file": (lambda place: mine(place) / "thesis.txt" / "run", "thesis.txt is not a folder"),
    "below a link to nothing": (lambda place: link(place / "a", place / "nothing") / "b" / "run", "a is not a folder"),
    "too long a name": (lambda place: place / ("n" * 256), "File name too long"),
    "a name that is too long while it is written": (lambda place: place / ("n" * 250), "File name too long"),
    "beside work of somebody else": (lambda place: mine(place / ".run.partial").parent / "run", "work is kept, is not used"),
    "beside a link": (lambda place: link(place / ".run.partial", mine(place / "other")).parent / "run", "partial is a link"),
    "beside a link to nothing": (lambda place: link(place / ".run.partial", place / "no").parent / "run", "partial is a link"),
    "beside a file": (lambda place: mine(place, ".run.partial") / "run", "work is kept, is no folder"),
}


@entries
@pytest.mark.parametrize("overwrite", [False, True], ids=["", "overwrite"])
@pytest.mark.parametrize("what", ANYWHERE)
def test_a_place_where_something_could_be_lost_is_refused(
    what: str, overwrite: bool, entry: Callable[..., None], place: Path
) -> None:
    make, message = ANYWHERE[what]
    out = make(place)
    said = refused(lambda: entry(Path("model"), out, overwrite=overwrite), place.parent)
    if overwrite and message == "run exists already":
        message = "run is not replaced: it was not written by secateur"
    assert re.search(message, said), said


@entries
def test_a_parent_that_takes_no_folder_is_refused(entry: Callable[..., None], place: Path) -> None:
    said = refused(lambda: entry(Path("model"), Path("/proc/run")), place.parent)
    assert "/proc" in said and "cannot be" in said


def test_a_read_only_parent_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser may write anywhere, so the question is answered for the test."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != place / "shelf")
    (place / "shelf").mkdir()
    assert "shelf is read-only" in refused(lambda: prune(Path("model"), place / "shelf" / "a" / "run"), place.parent)


def test_what_is_read_beside_the_model_is_safe_too(place: Path) -> None:
    model = place / "model"
    for name, make in (("statistics", calibrate), ("gradients", gradients)):
        make(model, place / name)
        for out in (place / name, place / name / "run"):
            recipe = Recipe("wanda", 0.5, propagation="dense")
            read = {name: place / name, "device": "cpu", "overwrite": True}
            assert "which is needed as it is" in refused(lambda o=out, r=recipe, k=read: secateur.prune(model, r, o, **k), place)
    prune(model, place / "run")
    kept: dict[str, Any] = {"work": place / "work", "settings": SETTINGS, "device": "cpu", "overwrite": True}
    assert "which is needed" in refused(lambda: finetune(model, place / "run", TOKENS, place / "run", **kept), place)
    assert "which is needed" in refused(lambda: export(model, place / "run", place / "run", overwrite=True), place)
    kept["work"] = place / "run"
    assert "run, which is needed" in refused(lambda: finetune(model, place / "run", TOKENS, place / "tuned", **kept), place)


# ---- what is ours


@entries
def test_ours_is_replaced_when_asked(entry: Callable[..., None], place: Path) -> None:
    model, out = place / "model", place / "deep" / "run"
    if entry is plain:  # an export wants its parent to be there
        out.parent.mkdir()
    entry(model, out)
    known = tree(out)
    said = refused(lambda: entry(model, out), place)
    assert "run exists already; name another folder, or replace it: overwrite=True, on the command line --force" in said
    entry(model, out, overwrite=True)
    assert tree(out) == known and check_folder(out) == []
    assert sorted(path.name for path in place.iterdir()) == ["deep", "model"] and list(out.parent.iterdir()) == [out]


def test_another_recipe_takes_the_place_of_the_first(place: Path) -> None:
    secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu")
    first = tree(place / "run")
    secateur.prune("model", Recipe("magnitude", 0.3), "run", device="cpu", overwrite=True)
    assert tree(place / "run") != first and check_folder(place / "run") == []
    assert PrunedStore(place / "run").read(0)["mlp.up_proj"].mask.float().mean() < 0.4


def relink(file: Path) -> None:
    file.rename(file.with_name("moved"))
    file.symlink_to("moved")


def to_folder(file: Path) -> Path:
    file.unlink()
    file.mkdir()
    return file


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file added": (lambda out: mine(out), "thesis.txt was added"),
    "a file added below": (lambda out: mine(out / "masks"), "masks/thesis.txt was added"),
    "a hidden file added": (lambda out: mine(out, ".thesis"), ".thesis was added"),
    "a link added": (lambda out: link(out / "link", out.parent), "link was added"),
    "a link to nothing added": (lambda out: link(out / "link", out / "no"), "link was added"),
    "sums added below": (lambda out: mine(out / "masks", SUMS), "masks/SHA256SUMS was added"),
    "a file edited": (lambda out: mine(out, "settings.json"), "settings.json was changed"),
    "a file now a link": (lambda out: relink(out / "settings.json"), "moved was added"),
    "a folder for a file": (
        lambda out: mine(to_folder(out / "settings.json") or out / "settings.json"),
        "json/thesis.txt was added",
    ),
    "the mark removed": (lambda out: (out / SUMS).write_text((out / SUMS).read_text().partition("\n")[2]), "not written by"),
    "sums removed": (lambda out: (out / SUMS).unlink(), "not written by"),
    "sums damaged": (lambda out: (out / SUMS).write_text(f"{MARK}\nwhat\n"), "not in the format of sha256sum"),
    "sums of another file": (lambda out: (out / SUMS).write_text(f"{MARK}\n{'0' * 64}  settings.json\n"), "was"),
    "sums not text": (lambda out: (out / SUMS).write_bytes(MARK.encode() + b"\n\xff\n"), "not text"),
    "the old one's place taken": (lambda out: mine(out.parent / ".run.old"), ".run.old is not replaced: it was not written"),
    "a link in the old one's place": (lambda out: link(out.parent / ".run.old", out), ".run.old is not replaced: it is no fol"),
}


@entries
@pytest.mark.parametrize("what", DAMAGES)
def test_ours_with_something_of_the_users_is_not_replaced(what: str, entry: Callable[..., None], place: Path) -> None:
    secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu")
    damage, message = DAMAGES[what]
    damage(place / "run")
    assert message in refused(lambda: entry(Path("model"), place / "run", overwrite=True), place.parent)


@pytest.mark.parametrize("gone", ["settings.json", "masks"])
def test_what_is_missing_is_no_loss(gone: str, place: Path) -> None:
    secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu")
    known = tree(place / "run")
    shutil.rmtree(place / "run" / gone) if gone == "masks" else (place / "run" / gone).unlink()
    secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu", overwrite=True)
    assert tree(place / "run") == known


def test_an_empty_folder_is_filled_when_asked(place: Path) -> None:
    (place / "run").mkdir()
    assert "exists already" in refused(lambda: prune(Path("model"), Path("run")), place)
    prune(Path("model"), Path("run"), overwrite=True)
    assert check_folder(place / "run") == []


def test_files_that_are_links_into_a_cache_are_removed_alone(place: Path) -> None:
    """DVC may keep a result's files in its cache, and links in the result."""
    secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu")
    cache = place / "cache"
    (place / "run" / "settings.json").rename(cache)
    (place / "run" / "settings.json").symlink_to(cache)
    secateur.prune("model", Recipe("magnitude", 0.3), "run", device="cpu", overwrite=True)
    assert cache.is_file() and not (place / "run" / "settings.json").is_symlink()


def test_coreutils_check_what_we_write(place: Path) -> None:
    secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu")
    checked = subprocess.run(["sha256sum", "--strict", "-c", SUMS], cwd="run", capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "") and checked.stdout.count(": OK\n") == len(read_sums(Path("run"))) == 4
    assert (place / "run" / SUMS).read_text().splitlines()[0] == MARK
    (place / "run" / "settings.json").write_text("{}")
    assert subprocess.run(["sha256sum", "-c", SUMS], cwd="run", capture_output=True).returncode == 1


def test_the_mark_is_no_part_of_the_identity(place: Path) -> None:
    """Results made before there was a mark name the same artifacts."""
    secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu")
    name, sums = identity(place / "run"), place / "run" / SUMS
    sums.write_text(sums.read_text().partition("\n")[2])
    assert identity(place / "run") == name == sha256(sums)


# ---- work folders


def test_a_work_folder_of_ours_is_taken_up_or_started_anew(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for _ in range(2):
        continue_or_start(work, {"b": 1, "a": (2,)})
        (work / "part").write_text("done")
        (work / ".part.partial").write_text("half")
    continue_or_start(work, {"a": [2], "b": 1})
    assert sorted(path.name for path in work.iterdir()) == [WORK, "part"]
    continue_or_start(work, {"a": [3], "b": 1})
    assert [path.name for path in work.iterdir()] == [WORK]
    remove_work(work)
    remove_work(work)
    assert not work.exists()


@pytest.mark.parametrize("made", [[], ["", temporary(Path(WORK)).name], [WORK]], ids=["empty", "killed at its start", "begun"])
def test_a_work_folder_that_a_kill_left_early_is_ours(made: list[str], tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    for name in filter(None, made):
        (tmp_path / "work" / name).write_text(f"{MARK}\n{{}}\n" if name == WORK else "")
    continue_or_start(tmp_path / "work", {"new": 1})
    assert [path.name for path in (tmp_path / "work").iterdir()] == [WORK]


@pytest.mark.parametrize("content", ["", "name = 'secateur'\n", f" {MARK}\n", f"{MARK}, or so\n"])
def test_a_file_of_the_marks_name_is_no_mark(content: str, tmp_path: Path) -> None:
    (mine(tmp_path / "work") / WORK).write_text(content)
    assert "not written by" in refused(lambda: continue_or_start(tmp_path / "work", {}), tmp_path)
    assert "not written by" in refused(lambda: remove_work(tmp_path / "work"), tmp_path)


def test_a_link_among_unfinished_work_is_not_written_through(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(PrunedStore, "write", interrupted)
        prune(Path("model"), place / "run")
    (place / ".run.partial" / "masks").symlink_to(mine(place / "other"))
    assert "masks, among unfinished work, is a link" in refused(lambda: prune(Path("model"), place / "run"), place)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", range(40))
def test_a_replacement_that_is_killed_at_any_step_is_made_by_the_next_call(
    step: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that changes the file system once is where it ends. Whatever lies there then is the old result, the new one or
    none, and nothing stays behind in the end."""
    secateur.prune("model", Recipe("magnitude", 0.3), "run", device="cpu")
    old = identity(place / "run")
    secateur.prune("model", Recipe("magnitude", 0.5), "expected", device="cpu")
    new, left = identity(place / "expected"), step
    with monkeypatch.context() as patch:

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*given: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                return call(*given, **named)

            return wrapped

        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        try:
            secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu", overwrite=True)
        except KeyboardInterrupt:
            pass
        else:
            assert left >= 0
    assert not (place / "run").exists() or (identity(place / "run") in (old, new) and check_folder(place / "run") == [])
    secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu", overwrite=True)
    assert identity(place / "run") == new
    assert sorted(path.name for path in place.iterdir()) == ["expected", "model", "run"]


def test_the_old_result_comes_back_if_the_new_one_cannot_take_its_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secateur.prune("model", Recipe("magnitude", 0.3), "run", device="cpu")
    old, rename = tree(place / "run"), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == ".run.partial":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="run cannot be written: Input/output error"):
        patch.setattr(Path, "rename", failing)
        secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu", overwrite=True)
    assert tree(place / "run") == old
    secateur.prune("model", Recipe("magnitude", 0.5), "run", device="cpu", overwrite=True)
    assert tree(place / "run") != old and sorted(path.name for path in place.iterdir()) == ["model", "run"]


def test_a_result_that_came_in_the_meantime_stays_and_the_work_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = PrunedStore.write

    def write_and_meddle(store: PrunedStore, block: int, linears: Any) -> None:
        write(store, block, linears)
        mine(place / "run")

    monkeypatch.setattr(PrunedStore, "write", write_and_meddle)
    with pytest.raises(UserError, match="run exists already"):
        prune(Path("model"), place / "run")
    assert tree(place / "run") == {"thesis.txt": b"years of work"}
    shutil.move(place / "run", place / "mine")
    monkeypatch.setattr(PrunedStore, "write", interrupted)
    prune(Path("model"), place / "run")  # every block is there already
    assert check_folder(place / "run") == []


# ---- disks that do not take what is written


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A limit on the size of files stands in for the full disk. What pytest keeps of stderr is a file too, and is left alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    logging.disable()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@entries
@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_a_full_disk_is_one_line_and_the_same_call_goes_on(entry: Callable[..., None], share: float, place: Path) -> None:
    entry(Path("model"), place / "expected")
    largest = max(file.stat().st_size for file in (place / "expected").rglob("*"))
    size = max(1500, int(share * largest))  # more than config.json, of which transformers reads a copy
    with files_up_to(size), pytest.raises(UserError) as raised:
        entry(Path("model"), place / "run")
    assert "cannot be written: " in str(raised.value) and "\n" not in str(raised.value)
    assert str(place / ".run.partial") in str(raised.value) or str(place / "run") in str(raised.value)
    assert not (place / "run").exists()
    entry(Path("model"), place / "run")
    assert tree(place / "run") == tree(place / "expected")


def test_no_half_file_is_left(tmp_path: Path) -> None:
    with files_up_to(5), pytest.raises(UserError, match=r"result.json cannot be written: File too large"):
        write_json(tmp_path / "result.json", list(range(1000)))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder cannot be written: Is a directory"):
        write_text(tmp_path / "folder", "text")
    assert tree(tmp_path) == {"folder": None}


def test_a_full_disk_while_a_folder_is_filled_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out cannot be written: No space left on device"), whole_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert tree(tmp_path) == {}


def test_an_error_that_is_not_the_systems_stays_what_it_is(tmp_path: Path) -> None:
    for error in (ValueError("no"), OSError("of a library, without a number"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, whole_folder(tmp_path / "out"):
            raise error
        assert raised.value is error and tree(tmp_path) == {}


# ---- whatever lies there

NAMES = st.sampled_from(["a", ".b", SUMS, WORK, "masks", "settings.json"])
MARKED = [f"{MARK}\n".encode(), f"{MARK}\n{'0' * 64}  a\n".encode()]
CONTENTS = st.sampled_from([b"", b"text", b"\xff\n", *MARKED])
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), CONTENTS | st.none(), max_size=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=TREES, name=st.sampled_from(["out", ".out.partial", ".out.old"]), overwrite=st.booleans())
def test_whatever_lies_there_is_untouched_or_nothing_is_lost(
    files: dict[str, bytes | None], name: str, overwrite: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Content None is a link to a folder of somebody's own."""
    root = tmp_path_factory.mktemp("any")
    mine(root / "mine")
    for file, content in files.items():
        path = root / name / file
        if any(parent.is_file() or parent.is_symlink() for parent in [path, *path.parents]) or path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(root / "mine") if content is None else path.write_bytes(content)
    before, entered = tree(root), False
    marked = name == ".out.partial" and files.get(WORK, b"") in MARKED
    try:
        with whole_folder(root / "out", overwrite) as folder:
            entered = True
            (folder / "new").write_text("new")
    except UserError:
        assert not entered and tree(root) == before
    else:
        lost = {file for file, content in before.items() if content is not None} - set(tree(root))
        assert marked or lost <= {f"{name}/{SUMS}"}
        assert check_folder(root / "out") == [] and tree(root / "mine") == {"thesis.txt": b"years of work"}


# ---- the commands


@pytest.fixture
def project(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a row for every stage that writes a folder, as the current directory."""
    root = make_project(tmp_path / "project", tiny_model("llama"), epochs=1)
    monkeypatch.chdir(root)
    write_text(root / "corpus.txt", "\n".join(" ".join(str(number % 90) for number in range(row, row + 40)) for row in range(50)))
    kept = {"model": "tiny", "corpus": "c", "split": "train", "sampler": "stream", "samples": 4, "length": 16, "seed": 0}
    tables = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    tables["download"] = {"corpus": corpus("file:corpus.txt", reader="text").model_dump()}
    tables["stats"] = {name: kept | {"bundle": name} for name in ("gram", "gradients")}
    write_text(root / "params.yaml", yaml.safe_dump(tables))
    assert said("download", "corpus")[0] == 0
    return root


def said(*arguments: str) -> tuple[int, str]:
    """Exit code and everything that a stage says."""
    result = CliRunner().invoke(app, [*arguments])
    return result.exit_code, result.output


COMMANDS = {
    "download": ("download corpus", "artifacts/corpora/c"),
    "calibrate-stats": ("calibrate-stats gram", "artifacts/stats/gram"),
    "calibrate-stats of gradients": ("calibrate-stats gradients", "artifacts/stats/gradients"),
    "prune": (f"prune {RUN}", f"artifacts/pruned/{RUN}"),
    "lora-finetune": (f"lora-finetune {training_key('dense')}", f"artifacts/adapters/{training_key('dense')}"),
    "export": (f"export {RUN} --to plain", "plain"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_replaces_its_own_result_with_force_alone(command: str, project: Path) -> None:
    line, out = COMMANDS[command][0].split(), project / COMMANDS[command][1]
    shutil.rmtree(out, ignore_errors=True)
    code, text = said(*line)
    assert code == 0, text
    known, before = tree(out), tree(project)
    code, text = said(*line)
    assert code == 2 and text.count("\n") == 1 and "exists already" in text and "--force" in text
    assert tree(project) == before
    code, text = said(*line, "--force")
    assert code == 0, text
    assert tree(out) == known and sorted(tree(project)) == sorted(before)
    mine(out)
    before = tree(project)
    code, text = said(*line, "--force")
    assert code == 2 and text.count("\n") == 1 and "thesis.txt was added" in text
    assert tree(project) == before


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("download", "export")])
def test_unfinished_work_of_somebody_else_is_left_alone(command: str, project: Path) -> None:
    line, out = COMMANDS[command][0].split(), project / COMMANDS[command][1]
    shutil.rmtree(out, ignore_errors=True)
    mine(project / "artifacts" / "unfinished" / out.relative_to(project / "artifacts"))
    before = tree(project)
    code, text = said(*line)
    assert code == 2 and text.count("\n") == 1 and "where unfinished work is kept, is not used" in text
    assert tree(project) == before


def test_check_output_needs_no_inputs_and_no_work(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b")
    check_output(tmp_path / "a", [None, tmp_path / "model"], True, tmp_path / "work" / "deep")
    assert tree(tmp_path) == {}
    assert "contains" in refused(lambda: check_output(tmp_path / "a", work=tmp_path), tmp_path)
    assert "lies inside" in refused(lambda: check_output(tmp_path / "a", work=tmp_path / "a" / "work"), tmp_path)
