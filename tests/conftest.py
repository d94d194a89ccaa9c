"""What several tests need: the project's folder, the shared data, a clean environment."""

import encodings.utf_8_sig  # noqa: F401  loaded before a test takes away files or room
import os
import shutil
from pathlib import Path

import pytest


def share_the_cores():
    "Tests that run side by side share the cores: so many threads each, none busy while it waits."
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "PYTEST_XDIST_WORKER" in os.environ:
        workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))


def check_shapes():
    "The shape comments of the package are checked in every test."
    import shapes

    shapes.install()


share_the_cores()  # first, since PyTorch reads these variables when it is imported
check_shapes()

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PARTBOOK_SHARED") or ROOT.parent / "shared")


@pytest.fixture(scope="session")
def root() -> Path:
    "The project's folder."
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    "The folder with data/ and weights/ for checks on real photographs; without it the test skips."
    if not SHARED.is_dir():
        pytest.skip(
            f"no real data: {SHARED} does not exist (set PARTBOOK_SHARED to a folder with data/ "
            "and weights/)"
        )
    return SHARED


@pytest.fixture(scope="session")
def shared_path(shared):
    "A function from a path in the shared folder to the file; skips the test when it is absent."

    def find(relative: str) -> Path:
        if not (shared / relative).exists():
            pytest.skip(f"no real data: {shared / relative} does not exist")
        return shared / relative

    return find


@pytest.fixture
def environment(tmp_path) -> dict:
    "Variables for a program run alone: a throwaway home, reader's sizes, one copy of the package."
    home = tmp_path / "home"
    home.mkdir()
    kept = {
        k: v for k, v in os.environ.items() if k not in ("IN_TEST", "PARTBOOK_SMALL", "PYTHONPATH")
    }
    return {**kept, "HOME": str(home), "MPLCONFIGDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    "Runs notebooks: one import for all of them, an interpreter for each."
    from kernels import Kernels

    all_of_them = Kernels(tmp_path_factory.mktemp("kernels"))
    yield all_of_them
    all_of_them.close()


def pytest_terminal_summary(terminalreporter):
    "Say how often shape comments were checked (in this process)."
    import shapes

    found = sum(shapes.COUNTS.values())
    if found:
        terminalreporter.write_line(f"{found} checks of {len(shapes.COUNTS)} shape comments")


@pytest.fixture(scope="module")
def browser():
    "A browser that asks nobody but the page it was given; skips where there is none."
    from helpers import FLAGS

    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright here (pip install playwright)"
    )
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield chromium
        chromium.close()
