"""Checkpoints with code of their own in every place where some program looks for it, and a guard that sees what a process does.

The guard is Python's audit hook, set by a `sitecustomize` before anything else runs. Somebody sits at the terminal and says yes
to whatever is asked.
"""

import array
import fcntl
import json
import os
import pickle
import pty
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.code_of import ROOT
from tests.wrong import Change, both, config, entries, text

GUARD = """
import os, sys
HOSTILE, ALLOWED = os.environ["HOSTILE"].split(os.pathsep), tuple(os.environ["ALLOWED"].split(os.pathsep))
CODE = (".py", ".pyc", ".so", ".bin", ".pt", ".pkl", ".sh", ".ipynb")
STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn")
SPOKEN = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto")
MADE = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

def plain(value):
    return os.path.abspath(os.fsdecode(value)) if isinstance(value, (str, bytes, os.PathLike)) else ""

def hostile(value):
    return any(plain(value).startswith(folder + os.sep) for folder in HOSTILE)

def amiss(event, arguments):
    if event in ("exec", "compile", "import", "ctypes.dlopen"):
        file = getattr(arguments[0], "co_filename", None) if event == "exec" else arguments[event != "ctypes.dlopen"]
        return hostile(file) or "transformers_modules" in f"{file} {arguments[0]}"
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, int) or not path:
            return False
        code = hostile(path) and plain(path).endswith(CODE)
        return code or (flags & WRITES and not plain(path).startswith(ALLOWED))
    if event in MADE:  # a name relative to an open folder (what rmtree removes) says nothing by itself
        return -1 in arguments[-1:] and not plain(arguments[1 if event in ("os.rename", "os.link") else 0]).startswith(ALLOWED)
    return event in STARTED or event in SPOKEN or event in ("builtins.input", "pickle.find_class")

def guard(event, arguments):
    if amiss(event, arguments):
        with os.fdopen(os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a") as log:
            log.write(f"{event} {str(arguments)[:200]!r}\\n")

sys.addaudithook(guard)
"""
BOOM = "import os\nopen(os.environ['RAN'], 'a').write(__file__ + '\\n')\n"
MINE = BOOM + "from transformers import {0}\nclass Mine({0}):\n    pass\n"


class _Bomb:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ('echo unpickled >> "$RAN"',)


PICKLE = pickle.dumps(_Bomb())
CODE_FILES = ("__init__.py", "sitecustomize.py", "usercustomize.py", "conftest.py", "setup.py", "torch.py", "transformers.py")
WAYS: dict[str, Change] = {
    "configuration": both(
        text("configuration_mine.py", MINE.format("LlamaConfig")),
        text("modeling_mine.py", MINE.format("LlamaForCausalLM")),
        config(auto_map={"AutoConfig": "configuration_mine.Mine", "AutoModelForCausalLM": "modeling_mine.Mine"}),
    ),
    "another repository": config(auto_map={"AutoConfig": "somebody/else--configuration_mine.Mine"}),
    "tokenizer": both(
        text("tokenization_mine.py", MINE.format("PreTrainedTokenizerFast")),
        entries("tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization_mine.Mine"]}),
    ),
    "tokenizer in config.json": both(
        text("tokenization_mine.py", MINE.format("PreTrainedTokenizerFast")),
        config(auto_map={"AutoTokenizer": ["tokenization_mine.Mine", "tokenization_mine.Mine"]}),
    ),
    "generation": both(
        text("custom_generate/generate.py", BOOM),
        text("custom_generate/requirements.txt", "left-pad"),
        text("generation_config.json", json.dumps({"custom_generate": "custom_generate"})),
    ),
    "processors": both(
        *(text(f"{kind}_mine.py", BOOM) for kind in ("processing", "image_processing", "feature_extraction")),
        text("processor_config.json", json.dumps({"auto_map": {"AutoProcessor": "processing_mine.Mine"}})),
        text(
            "preprocessor_config.json",
            json.dumps(
                {
                    "auto_map": {
                        "AutoImageProcessor": "image_processing_mine.Mine",
                        "AutoFeatureExtractor": "feature_extraction_mine.Mine",
                    }
                }
            ),
        ),
    ),
    "chat template": text("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}{% include '/etc/passwd' %}"),
    "files that programs run": both(*(text(name, BOOM) for name in CODE_FILES), text("requirements.txt", "left-pad")),
    "pickles": both(
        *(text(name, PICKLE) for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"))
    ),
    "kernels": config(_attn_implementation="kernels-community/flash-attn", attn_implementation="somebody/attention:forward"),
}
REFUSED: dict[str, Change] = {
    "family of its own": both(WAYS["configuration"], config(model_type="mine", architectures=["Mine"])),
    "tokenizer of its own": both(WAYS["tokenizer"], entries("tokenizer_config.json", tokenizer_class="Mine")),
    "pickled weights": both(WAYS["pickles"], lambda folder: (folder / "model.safetensors").unlink()),
}


@dataclass(frozen=True)
class Seen:
    """What a process under guard did: its exit code and words, what the guard saw, and what was typed ahead and never read."""

    code: int
    words: str
    events: list[str]
    unread: int


def guarded(work: Path, hostile: list[Path], *command: str, path: Path = ROOT, cwd: Path | None = None) -> Seen:
    """Run Python below `work` with a person at the terminal who types `y`; models in `hostile`, nothing written elsewhere."""
    for name in ("guard", "tmp", "hub"):
        (work / name).mkdir(exist_ok=True)
    (work / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    seen = work / "seen"
    seen.unlink(missing_ok=True)
    given = {
        "PYTHONPATH": os.pathsep.join([str(work / "guard"), str(path)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOSTILE": os.pathsep.join(map(str, hostile)),
        "ALLOWED": os.pathsep.join([str(work), "/dev/"]),
        "SEEN": str(seen),
        "RAN": str(work / "ran"),
        "TMPDIR": str(work / "tmp"),
        "HF_HOME": str(work / "hub"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "torch"),  # which torch makes when it is imported
        "TQDM_DISABLE": "1",
    }
    keyboard, terminal = pty.openpty()
    os.write(keyboard, b"y\ny\ny\n")
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd or work, env=os.environ | given, stdin=terminal, capture_output=True, text=True
    )
    waiting = array.array("i", [0])
    fcntl.ioctl(terminal, termios.FIONREAD, waiting)
    os.close(terminal)
    os.close(keyboard)
    events = seen.read_text().splitlines() if seen.exists() else []
    return Seen(done.returncode, done.stdout + done.stderr, events, waiting[0])
