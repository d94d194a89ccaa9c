"""A thousand hostile inputs, and what becomes of each: one clear sentence or a right result.

    python tests/hostile.py [--count N] [--seed S] [--kind K] [--record CSV]

The inputs are made from a seed, so that each has an address: seed, kind and index. A failure is
printed with its address, and `--kind K --index I --keep DIR` leaves that one input to be looked at.
"""

import argparse
import math
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import hostile_files  # noqa: E402, F401 - they register their kinds
import hostile_images  # noqa: E402, F401
import hostile_runs  # noqa: E402, F401
import numpy as np  # noqa: E402
from hostile_judge import KINDS, Answer, Case, judged  # noqa: E402
from hostile_kit import Kit, small_and_alone  # noqa: E402

from partbook.evaluation.results import append_row, print_table  # noqa: E402


@dataclass
class Tally:
    "What became of the inputs of one kind."

    refused: int = 0
    right: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    slow: list[str] = field(default_factory=list)  # inputs of more than five seconds
    memory: int = 0

    @property
    def inputs(self) -> int:
        return self.refused + self.right + len(self.failures)

    def add(self, address: str, case: Case, answer: Answer, wrong: list[str]) -> None:
        if wrong:
            self.failures.append(f"{address}: {case.label}: {'; '.join(wrong)}")
        elif answer.status == 2:
            self.refused += 1
        else:
            self.right += 1
        self.slowest = max(self.slowest, answer.seconds)
        if answer.seconds > 5:
            self.slow.append(f"{answer.seconds:.1f} s: {address}: {case.label}")
        self.memory = max(self.memory, answer.memory)


def shares(count: int, kinds: list[str]) -> dict[str, int]:
    "How many inputs of each kind make up `count`."
    total = sum(KINDS[k].share for k in kinds)
    return {k: math.ceil(count * KINDS[k].share / total) for k in kinds}


def one(work: Path, kit: Kit, seed: int, kind: str, index: int) -> tuple[Case, Answer, list[str]]:
    "Make one input in a folder of its own, run it and judge it."
    rng = np.random.default_rng([seed, sorted(KINDS).index(kind), index])
    folder = work / "here" / f"{kind}{index}"
    folder.mkdir(parents=True)
    case = KINDS[kind].make(index, rng, folder, kit)
    answer, wrong = judged(case, folder, work)
    return case, answer, wrong


def clear(folder: Path) -> None:
    "Remove a folder, closed ones in it as well."
    for place, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(place) / name
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def hostile(
    count: int = 1000,
    seed: int = 0,
    kinds: list[str] | None = None,
    index: int | None = None,  # only this one of each kind
    stride: int = 1,  # every so many of them
    keep: Path | None = None,  # where to leave the inputs
    tell=lambda line: None,  # is given each failure as it is found
) -> dict[str, Tally]:
    "Try the inputs; what became of them, by kind."
    work = Path(tempfile.mkdtemp(prefix="hostile-")) if keep is None else Path(keep).resolve()
    (work / "canary").mkdir(parents=True)
    for name in ("user.txt", "user.png"):
        (work / "canary" / name).write_text("somebody's only copy\n")
    work.chmod(0o755)
    kit = Kit(work / "kit")
    tallies = {}
    try:
        for name, number in shares(count, kinds or list(KINDS)).items():
            places = range(0, number * stride, stride) if index is None else [index]
            with small_and_alone():
                tallies[name] = of_kind(work, kit, seed, name, places, keep is not None, tell)
    finally:
        if keep is None:
            clear(work)
    return tallies


def of_kind(work: Path, kit: Kit, seed: int, name: str, places, keep: bool, tell) -> Tally:
    "Try the inputs of one kind at these places."
    tally = Tally()
    start = time.perf_counter()
    for i in places:
        case, answer, wrong = one(work, kit, seed, name, i)
        tally.add(f"--seed {seed} --kind {name} --index {i}", case, answer, wrong)
        if wrong:
            tell(tally.failures[-1])
        if keep:
            tell(f"{case.words or case.label}\n{answer}")
        else:
            clear(work / "here")
    tally.seconds = time.perf_counter() - start
    return tally


def record(path: str, tallies: dict[str, Tally], seed: int, seconds: float) -> None:
    "A row of the counts."
    row = {"benchmark": "hostile inputs", "inputs": sum(t.inputs for t in tallies.values())}
    row["failures"] = sum(len(t.failures) for t in tallies.values())
    row["slowest"] = round(max(t.slowest for t in tallies.values()), 2)
    row["memory_mb"] = round(max(t.memory for t in tallies.values()) / 2**20)
    for name, t in tallies.items():
        row |= {f"{name}.inputs": t.inputs, f"{name}.refused": t.refused, f"{name}.right": t.right}
        row |= {f"{name}.failures": len(t.failures)}
    command = " ".join(["python", "tests/hostile.py", *sys.argv[1:]])
    append_row(path, row, seed=seed, seconds=seconds, command=command)


def table(tallies: dict[str, Tally]) -> None:
    "Print the counts by kind."
    rows = [
        {
            "kind": name,
            "inputs": t.inputs,
            "refused": t.refused,
            "right": t.right,
            "failures": len(t.failures),
            "seconds": round(t.seconds, 1),
            "slowest": round(t.slowest, 1),
            "MB": round(t.memory / 2**20),
        }
        for name, t in tallies.items()
    ]
    sums = {k: sum(r[k] for r in rows) for k in rows[0] if k not in ("kind", "slowest", "MB")}
    print_table([*rows, {"kind": "all", **sums}])


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--count", type=int, default=1000, help="how many inputs (default: 1000)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--kind", action="append", choices=list(KINDS), help="only this kind")
    p.add_argument("--index", type=int, help="only this input of the kind")
    p.add_argument("--keep", metavar="DIR", help="leave the inputs in a new folder, and show them")
    p.add_argument("--record", metavar="CSV", help="append the counts as a row")
    return p.parse_args()


def main() -> int:
    args = arguments()
    start = time.perf_counter()
    tell = lambda line: print(line, flush=True)  # noqa: E731
    tallies = hostile(args.count, args.seed, args.kind, args.index, keep=args.keep, tell=tell)
    table(tallies)
    print("\n".join(line for t in tallies.values() for line in t.slow))
    if args.record:
        record(args.record, tallies, args.seed, time.perf_counter() - start)
    return int(any(t.failures for t in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
