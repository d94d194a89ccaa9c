"""What CONTRIBUTING.md, the README and .ci/run promise."""

import configparser
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

NEEDS_BASH = pytest.mark.skipif(
    shutil.which("bash") is None or os.name == "nt", reason="no bash here"
)


def readme_commands():
    "The one-line commands in the README's first two ```bash blocks."
    blocks = re.findall(
        r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M | re.S
    )
    assert len(blocks) >= 2
    return [block.strip() for block in blocks[:2]]


def test_readme_starts_with_the_two_commands():
    first, second = readme_commands()
    assert "\n" not in first + second
    assert first.startswith("python3.11 -m venv") and first.endswith(
        "&& pip install -e . && partbook discover"
    )
    assert second.startswith("python3.11 -m venv") and second.endswith(
        "&& pip install -e '.[dev]' && pytest"
    )


@NEEDS_BASH
def test_ci_runs_the_commands_of_the_readme(tmp_path, environment):
    "The script itself, in a small project whose README has harmless commands."
    project = tmp_path / "project"
    (project / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", project / ".ci" / "run")
    text = "# x\n\n```bash\necho pip install -e . && pwd\n```\n\n"
    text += "```bash\nls -a && exit 3 && echo pytest\n```\n"
    (project / "README.md").write_text(text, encoding="utf-8")
    environment |= {"CI": "true", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["bash", project / ".ci" / "run"],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["+ echo pip install -e . && pwd", "pip install -e ."]
    assert str(project) not in lines[2], "it must work on a copy"
    assert "README.md" in lines and ".ci" in lines
    assert not list(tmp_path.glob("partbook-ci*")), "it must clean up"


@NEEDS_BASH
def test_ci_refuses_a_readme_without_the_commands(tmp_path, environment):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "README.md").write_text("# x\n", encoding="utf-8")
    done = subprocess.run(
        ["bash", tmp_path / ".ci" / "run"],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 2 and "no longer starts with" in done.stderr


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_hooks_install(tmp_path, environment):
    """nbdev_install_hooks writes to the user's home, so it gets a throwaway one; .gitattributes
    names its merge driver already."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("settings.ini", ".gitattributes"):
        shutil.copy(ROOT / name, project)
    subprocess.run(["git", "init", "--quiet"], cwd=project, env=environment, check=True)
    code = "from nbdev.clean import nbdev_install_hooks; nbdev_install_hooks()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (project / ".git" / "hooks" / "post-merge").exists() and (
        project / ".gitconfig"
    ).exists()
    assert (project / ".gitattributes").read_text() == (ROOT / ".gitattributes").read_text()
    assert list((tmp_path / "home" / ".jupyter").iterdir())


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:nbs|tests|partbook|results|\.ci)/[\w./]*)`", text))
    assert named and not [name for name in named if not (ROOT / name).exists()]


def test_citation_agrees_with_the_settings():
    yaml = pytest.importorskip("yaml", reason="no YAML parser here")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert (
        citation["version"] == settings["DEFAULT"]["version"]
        and citation["license"] == "Apache-2.0"
    )
    assert len(citation["references"]) == 4 and all(
        r["authors"] and r["year"] for r in citation["references"]
    )
    assert f"## {citation['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
