"""One hostile input: how it is run, and what is asked of every answer.

A `Case` is a command or a call, prepared in a folder of its own. `judged` runs it there and says
what is wrong with the answer. It has to be a refusal in one sentence or a right result, soon, in
little memory, with nothing run that a file contained and nothing touched but what was asked for.
"""

import faulthandler
import hashlib
import io
import os
import pickle
import re
import resource
import select
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partbook.cli import main
from partbook.core import InputError
from partbook.files import TEMPORARY

SECONDS = 20  # that one input may take
MEMORY = 2**30  # bytes that one input may take more than there were before
NOBODY = 65534  # the user that closed folders are closed to


@dataclass
class Answer:
    "What came of a case."

    status: int | None = None  # None: no exit status, since an exception came through
    out: str = ""
    err: str = ""
    value: Any = None  # of a call
    trouble: str = ""  # traceback, hang or death, in one line
    seconds: float = 0.0
    memory: int = 0  # bytes at the highest, above those at the start

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass
class Case:
    "An input, what may be done with it and how a result is checked."

    label: str
    words: list[Any] | None = None  # of the command
    call: Callable[[], Any] | None = None  # or of a reader
    must: str = "either"  # or "right", or "refused"
    check: Callable[[Answer], str] = lambda answer: ""  # what is wrong with a result; "" if nothing
    says: str = ""  # a regular expression that a refusal has to match
    writes: tuple[str, ...] = ()  # paths in the folder that may be made or changed
    keeps: tuple[str, ...] = ()  # paths among them that may not
    clean: bool = False  # whether a refusal may leave nothing new at all
    limit: float | None = None  # GB of address space; then it runs in a process of its own
    room: int | None = None  # bytes that a file may have: a full disk; also in a process of its own
    nobody: bool = False  # run by a user without rights, where that can be had
    encoding: str = "utf-8"  # of the two output streams


@dataclass
class Kind:
    "A generator of cases, and its share among all."

    name: str
    share: int
    make: Callable[..., Case]  # (index, rng, folder, kit)


KINDS: dict[str, Kind] = {}


def kind(name: str, share: int) -> Callable:
    "Register a generator of cases."

    def file(make):
        KINDS[name] = Kind(name, share, make)
        return make

    return file


# ------------------------------------------------------------------------------------ what is there


def _look(path: bytes, content: bool) -> tuple:
    "What can be told apart about a path, without following links."
    found = os.lstat(path)
    if stat.S_ISLNK(found.st_mode):
        return "link", os.readlink(path)
    if stat.S_ISDIR(found.st_mode):
        return ("folder",)
    if not stat.S_ISREG(found.st_mode):
        return ("other",)
    if not content or found.st_size > 2**26:
        return "file", found.st_size, found.st_mtime_ns
    with open(path, "rb") as file:
        return "file", hashlib.blake2b(file.read(), digest_size=16).hexdigest()


def snapshot(folder: Path, content: bool = True, without: Path | None = None) -> dict[str, tuple]:
    "Every path below a folder, relative to it, and what is there."
    top = os.fsencode(folder)
    skip = None if without is None else os.fsencode(without)
    seen = {}
    for place, folders, files in os.walk(top):
        folders[:] = [f for f in folders if os.path.join(place, f) != skip]
        for name in (*folders, *files):
            path = os.path.join(place, name)
            seen[os.fsdecode(os.path.relpath(path, top))] = _look(path, content)
    return seen


def changes(before: dict[str, tuple], after: dict[str, tuple]) -> Iterator[tuple[str, str]]:
    "Each path that was made, changed or removed, and which of the three."
    for path in sorted({*before, *after}, key=os.fsencode):
        if path not in before:
            yield path, "made"
        elif path not in after:
            yield path, "removed"
        elif before[path] != after[path]:
            yield path, "changed"


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == p or path.startswith(p + "/") or p == "." for p in places)


# ------------------------------------------------------------------------------------------ running


class TooLong(BaseException):
    "Raised in a case that does not end."


def _stop(*_):
    raise TooLong()


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    "Raise `TooLong` after so many seconds; end the process if that does not help."
    faulthandler.dump_traceback_later(3 * seconds, exit=True, file=sys.__stderr__)
    old = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        faulthandler.cancel_dump_traceback_later()


def _status(field_name: str) -> int:
    "A figure of /proc/self/status, in bytes; 0 where there is none."
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(re.search(rf"{field_name}:\s+(\d+)", text)[1]) * 1024


def _forget_peak() -> int:
    "Start measuring the highest memory anew, where the system can; what is used now."
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _as_at_home(folder: Path) -> Iterator[None]:
    "In the case's folder, with a home there; the environment comes back afterwards."
    kept = dict(os.environ)
    place = os.getcwd()
    os.environ["HOME"] = str(folder / "home")
    os.environ.pop("PARTBOOK_CACHE", None)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(place)
        os.environ.clear()
        os.environ.update(kept)


def _last_place(error: BaseException) -> str:
    "The last line of the package that an exception came through."
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f"{os.sep}partbook{os.sep}" in f.filename]
    return (
        f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "outside"
    )


def _run(case: Case, answer: Answer) -> None:
    if case.words is None:
        try:
            answer.value = case.call()
            answer.status = 0
        except InputError as error:
            answer.status = 2
            print(f"partbook: {error}", file=sys.stderr)
        return
    try:
        answer.status = main([os.fspath(w) if isinstance(w, Path) else str(w) for w in case.words])
    except SystemExit as stop:
        answer.status = stop.code


def answered(case: Case, folder: Path) -> Answer:
    "Run a case in this process."
    answer = Answer()
    out = io.TextIOWrapper(io.BytesIO(), case.encoding, "strict", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), case.encoding, "backslashreplace", write_through=True)
    with _as_at_home(folder), redirect_stdout(out), redirect_stderr(err):
        start, before = time.perf_counter(), _forget_peak()
        try:
            with bounded(SECONDS):
                _run(case, answer)
        except TooLong as error:
            answer.trouble = f"still running after {SECONDS} s, in {_last_place(error)}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = str(error).splitlines()[:1]
            answer.trouble = f"{type(error).__name__}: {''.join(text)[:150]} [{_last_place(error)}]"
        answer.seconds = time.perf_counter() - start
        answer.memory = max(0, _peak() - before)
    answer.out = out.buffer.getvalue().decode(case.encoding, "replace")
    answer.err = err.buffer.getvalue().decode(case.encoding, "replace")
    return answer


def _give(folder: Path, user: int) -> None:
    "Make a user the owner of everything below a folder."
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(os.path.join(place, name), user, user, follow_symlinks=False)


def _in_child(case: Case, folder: Path, pipe: int) -> None:
    if case.nobody and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    if case.limit is not None:
        most = _status("VmSize") + int(case.limit * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    if case.room is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.room, case.room))
    answer = answered(case, folder)
    complaint = ""
    if answer.status == 0 and not answer.trouble:
        complaint = _checked(case, answer)
    answer.value = None
    with open(pipe, "wb") as file:
        pickle.dump((answer, complaint), file)


def answered_apart(case: Case, folder: Path) -> tuple[Answer, str]:
    "Run a case in a process of its own, with bounded memory; also what its check says there."
    back, forth = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(back)
            _in_child(case, folder, forth)
        finally:
            os._exit(0)
    os.close(forth)
    if not select.select([back], [], [], SECONDS + 10)[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(back)
        return Answer(trouble=f"still running after {SECONDS + 10} s, and deaf to signals"), ""
    with open(back, "rb") as file:
        content = file.read()
    _, status = os.waitpid(child, 0)
    if not content:
        return Answer(trouble=f"the process ended with status {status} and no word"), ""
    return pickle.loads(content)


# ------------------------------------------------------------------------------------------ judging


def _of_streams(case: Case, answer: Answer) -> Iterator[str]:
    if answer.trouble:
        yield answer.trouble
        return
    if "Traceback" in answer.said:
        yield "a traceback is printed"
    if answer.status not in (0, 2):
        yield f"the exit status is {answer.status}"
    if answer.status == 2:
        lines = answer.err.strip().splitlines()
        if len(lines) != 1:
            text = " / ".join(lines)[:200]
            yield f"{len(lines)} lines on the error stream, not one sentence: {text}"
        elif not lines[0].startswith("partbook"):
            yield f"the sentence does not start with partbook: {lines[0][:100]}"
        elif case.says and not re.search(case.says, lines[0], re.I):
            yield f"the sentence does not say what is wrong ({case.says}): {lines[0][:200]}"
        if case.must == "right":
            yield f"refused, though it can be read: {' '.join(lines)[:220]}"
    if answer.status == 0 and case.must == "refused":
        yield "accepted: " + (answer.out.strip().splitlines() or [repr(answer.value)])[-1][:120]


def _of_costs(answer: Answer) -> Iterator[str]:
    if answer.seconds > SECONDS and not answer.trouble:
        yield f"{answer.seconds:.0f} seconds"
    if answer.memory > MEMORY:
        yield f"{answer.memory / 2**30:.1f} GB of memory"


def _of_files(case: Case, answer: Answer, found: Iterator[tuple[str, str]]) -> Iterator[str]:
    "What was made, changed or removed without need; one complaint of each sort."
    odd = {}
    for path, how in found:
        name = path.rsplit("/", 1)[-1]
        if TEMPORARY.match(name) or name.startswith((".unpacking-", ".partbook-")):
            odd.setdefault(f"left {ascii(path)} behind", None)
        elif _below(path, case.keeps) or not _below(path, case.writes):
            odd.setdefault(f"{how} {ascii(path)[:120]}, which was not asked for", None)
        elif case.clean and answer.status == 2:
            odd.setdefault(f"{how} {ascii(path)[:120]} though it refused", None)
    yield from list(odd)[:2]


def judged(case: Case, folder: Path, work: Path) -> tuple[Answer, list[str]]:
    "The answer to a case prepared in `folder`, and all that is wrong with it."
    if case.nobody and os.geteuid() == 0:
        _give(folder, NOBODY)
    inside, outside = snapshot(folder), snapshot(work, False, folder)
    if case.limit is not None or case.room is not None or case.nobody:
        answer, complaint = answered_apart(case, folder)
    else:
        answer, complaint = answered(case, folder), ""
        if answer.status == 0 and not answer.trouble and case.must != "refused":
            with _as_at_home(folder):
                complaint = _checked(case, answer)
    wrong = [*_of_streams(case, answer), *_of_costs(answer)]
    wrong += [complaint] if complaint and case.must != "refused" else []
    wrong += _of_files(case, answer, changes(inside, snapshot(folder)))
    escaped = [f"{how} {path}" for path, how in changes(outside, snapshot(work, False, folder))]
    wrong += [f"ESCAPED: {escaped[0]}"] if escaped else []
    return answer, wrong


def _checked(case: Case, answer: Answer) -> str:
    try:
        with bounded(SECONDS):
            return case.check(answer)
    except TooLong:
        return "looking at the result does not end"
    except Exception as error:
        return f"the result cannot be looked at: {type(error).__name__}: {error}"[:200]
