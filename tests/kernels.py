"""One interpreter that has imported everything, and a copy of it for every notebook of a test.

Importing takes longer than most chapters do. As a program this reads jobs, a line of JSON each,
runs each in a fork of itself, and answers with the fork's exit status. `Kernels` talks to it.
"""

import configparser
import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 300  # a notebook at small size takes a few; this is for one that hangs
FORKS = sys.platform == "linux"  # elsewhere every notebook gets an interpreter of its own
IMPORTED = (
    "torch",
    "torchvision",
    "sklearn.cluster",
    "scipy.optimize",
    "skimage.segmentation",
    "matplotlib.pyplot",
    "ipywidgets",
    "timm",
    "nbdev.test",
    "partbook.cli",
)


@dataclass
class Done:
    "How a notebook ended, and what it printed."

    returncode: int
    stdout: str
    stderr: str


def work(job: dict) -> None:
    "Run one notebook as its job says, and leave the process."
    if FORKS:
        signal.alarm(SECONDS)
    for number, (name, how) in enumerate(
        ((os.devnull, os.O_RDONLY), (job["stdout"], os.O_WRONLY), (job["stderr"], os.O_WRONLY))
    ):
        os.dup2(os.open(name, how | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    from nbdev.test import test_nb

    ok, _ = test_nb(Path(job["path"]), skip_flags=job["flags"], basepath=ROOT)
    sys.exit(0 if ok else 1)


def serve() -> None:
    "Import, then answer one line for each."
    import shapes

    shapes.install()
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork() if FORKS else 0
        if not child:
            work(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


class Kernels:
    "Runs notebooks, each in an interpreter that no other notebook has touched."

    def __init__(self, place: Path):
        self.place = place
        self.program: subprocess.Popen | None = None
        self.jobs = 0

    def start(self) -> subprocess.Popen:
        "The interpreter with its imports; an environment of its own, for what they write."
        own = {"HOME": str(self.place), "MPLCONFIGDIR": str(self.place), "MPLBACKEND": "agg"}
        command = [sys.executable, __file__]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own}, **streams)

    def run(self, path: Path, environment: dict) -> Done:
        "Run one notebook at small size in the folder of the chapters."
        settings = configparser.ConfigParser()
        settings.read(ROOT / "settings.ini", encoding="utf-8")
        if self.program is None:
            self.program = self.start()
        self.jobs += 1
        streams = {x: str(self.place / f"{self.jobs}.{x}") for x in ("stdout", "stderr")}
        job = {
            "path": str(path),
            "folder": str(ROOT / "nbs"),
            "flags": settings["DEFAULT"]["tst_flags"].split(),
            "environment": environment | {"IN_TEST": "1", "MPLBACKEND": "agg"},
            **streams,
        }
        if FORKS:
            print(json.dumps(job), file=self.program.stdin, flush=True)
            status = int(self.program.stdout.readline())
        else:
            self.program.communicate(json.dumps(job), timeout=SECONDS)
            status, self.program = self.program.returncode, None
        texts = {x: Path(p).read_text(encoding="utf-8") for x, p in streams.items()}
        return Done(status, **texts)

    def close(self) -> None:
        "End the interpreter, which has nothing left to answer."
        if self.program is not None:
            self.program.communicate()


if __name__ == "__main__":
    serve()
