"A few random kills of tests/kills.py, and whether it would see what they may leave."

import json

import numpy as np
import torch
from kills import broken, kill, left
from PIL import Image
from safetensors.torch import save_file


def test_a_few_kills():
    "Runs that are killed end, when run again, as if nothing had been."
    tallies = kill(4, seed=5, names=["segment", "contrastive", "unpack", "saliency"])
    assert sum(t.kills for t in tallies.values()) >= 4
    failures = [line for t in tallies.values() for line in t.failures]
    assert not failures, "\n".join(failures)


def test_half_files_are_seen(tmp_path):
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "c.csv").write_text("a,b\n1,2\n")
    save_file({"a": torch.zeros(9)}, tmp_path / "d.safetensors")
    assert broken(tmp_path) == [] and left(tmp_path) == []
    for name in ("a.png", "b.json", "c.csv", "d.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-3] if name != "a.png" else whole[:-30])
    assert len(broken(tmp_path)) == 4
    (tmp_path / ".partbook-00000000-1-x.png").touch()
    assert len(broken(tmp_path)) == 4 and len(left(tmp_path)) == 1
