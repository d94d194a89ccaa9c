"""What a plan refuses before the work begins, and that nothing has changed then."""

import os
from pathlib import Path

import pytest
from helpers import message
from PIL import Image

from partbook.core import InputError
from partbook.files import write_json
from partbook.plan import Plan, describe, refuse_twins, same_name


def photograph(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)
    return path


def refusal(plan: Plan) -> str:
    with pytest.raises(InputError) as found:
        plan.check()
    return message(found)


def test_a_result_never_replaces_what_is_read(tmp_path, monkeypatch):
    "By the same path, another spelling of it, a symbolic link, a hard link, a link to the folder."
    duck = photograph(tmp_path / "photos" / "duck.png")
    (tmp_path / "soft.png").symlink_to(duck)
    os.link(duck, tmp_path / "hard.png")
    (tmp_path / "album").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    spellings = [
        "photos/duck.png",
        "photos/../photos/duck.png",
        "soft.png",
        "hard.png",
        "album/duck.png",
        duck,
    ]
    for spelling in spellings:
        plan = Plan()
        plan.read("photos/duck.png")
        plan.make(spelling)
        assert "would be written over photos/duck.png" in refusal(plan)


def test_a_record_of_ours_that_is_read_is_kept(tmp_path):
    model = write_json(tmp_path / "model" / "model.json", {"versions": {"partbook": "1"}})
    plan = Plan()
    plan.make(model)
    plan.check()  # ours, and nobody reads it
    plan.read(model)
    assert "would be written over" in refusal(plan)


@pytest.mark.parametrize(
    "name", ["parts.png", "metrics.json", "log.csv", "model.safetensors", "notes.txt"]
)
def test_somebody_elses_file_stays(tmp_path, name):
    (tmp_path / name).write_bytes(b"mine")
    plan = Plan()
    plan.make(tmp_path / name)
    assert f"{name} was not made by partbook" in refusal(plan)
    assert (tmp_path / name).read_bytes() == b"mine"


def test_what_is_no_file_is_no_place_for_one(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.png").mkdir()
    for path, word in (
        (tmp_path / "pipe.csv", "pipe"),
        (tmp_path / "folder.png", "is a folder"),
        (Path("/dev/full"), "device"),
    ):
        plan = Plan()
        plan.extend(path)
        assert word in refusal(plan)


def test_an_empty_table_may_be_begun(tmp_path):
    (tmp_path / "rows.csv").touch()
    plan = Plan()
    plan.extend(tmp_path / "rows.csv")
    plan.check()
    (tmp_path / "rows.csv").write_text("day,km\n1,2\n")
    assert "rows.csv was not made by partbook" in refusal(plan)


@pytest.mark.parametrize(
    "one, two",
    [
        ("a.png", "A.PNG"),
        ("ü.png", "u\u0308.png"),
        ("x/../a.png", "a.png"),
        ("straße.png", "STRASSE.png"),
    ],
)
def test_two_results_with_one_name(one, two):
    assert same_name(Path(one)) == same_name(Path(two))
    with pytest.raises(InputError, match="Two results would be called"):
        refuse_twins([Path(one), Path("other.png"), Path(two)])


def test_different_names_are_different():
    refuse_twins(
        [Path("a.png"), Path("b.png"), Path("x/a.png"), Path("a_overlay.png"), Path("a.png.json")]
    )


def test_room_and_rights_come_first(tmp_path):
    plan = Plan(makes=[tmp_path / "parts.png"], room=10**17)
    assert "has room for" in refusal(plan)
    (tmp_path / "file").touch()
    assert "file is a file; give a folder" in refusal(
        Plan(makes=[tmp_path / "file" / "x" / "parts.png"])
    )
    assert "cannot be looked at" in refusal(Plan(makes=[tmp_path / ("x" * 300) / "parts.png"]))
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o555)
        assert "Permission denied" in refusal(Plan(makes=[tmp_path / "closed" / "parts.png"]))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "closed") == ["file"]


def test_a_plan_in_words(tmp_path):
    old = write_json(tmp_path / "metrics.json", {"versions": {"partbook": "1"}})
    plan = Plan(reads=[Path(f"p{n}.jpg") for n in range(9)], makes=[old, tmp_path / "parts.png"])
    lines = describe(plan, most=2).replace(str(tmp_path), "out").splitlines()
    assert lines == [
        "reads    p0.jpg",
        "         p1.jpg",
        "         and 7 more files",
        "makes    out/metrics.json (made anew)",
        "         out/parts.png (new)",
    ]


def test_a_record_is_no_table(tmp_path):
    record = write_json(tmp_path / "metrics.json", {"versions": {"partbook": "1"}})
    assert "was not made by partbook" in refusal(Plan(extends=[record]))
    table = tmp_path / "rows.txt"
    table.write_text("nmi,versions.partbook\n1,2\n")
    Plan(extends=[table]).check()
