"""A command that does not outlive who started it: `python -m flows.lifeline COMMAND...` with a pipe as its input.

The command runs in a process group of its own. When the pipe ends, because the starter closed it or died, by kill -9 too, the
whole group is ended: first asked, after a grace period killed. The exit code is the command's, or 128 + its signal.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 10.0  # seconds between asking and killing


def _end(group: int) -> None:
    for number, wait in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 0.0)):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        ended = time.monotonic() + wait
        while time.monotonic() < ended:
            time.sleep(0.05)
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return


def main(command: list[str]) -> int:
    """Run the command to its end, or to the end of standard input."""
    # A group of its own; what is pressed or sent to the starter's group reaches the command through the pipe only.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        _end(child.pid)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    _end(child.pid)  # what the command left running
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # heard and left to the pipe; SIG_IGN would be inherited by the command
        signal.signal(number, lambda *_: None)
    sys.exit(main(sys.argv[1:]))
