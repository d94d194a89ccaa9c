"""Pictures are made without a display and without pyplot's global state."""

import subprocess
import sys

import pytest
import torch

from partbook.core import InputError
from partbook.parts.plots import part_sheet, write_palette_png

HEADLESS = """
import sys, torch
from partbook.parts.plots import part_sheet
part_sheet(torch.rand(3, 3, 64, 64), torch.randint(0, 5, (3, 64, 64)), K=4, path=sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""


def test_part_sheet_needs_no_display(tmp_path, environment, root):
    path = tmp_path / "new" / "parts.png"
    kept = {k: v for k, v in environment.items() if k not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", HEADLESS, str(path)], check=True, cwd=root, env=kept)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_sheet_of_photographs_is_no_large_file(tmp_path):
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(400.0), indexing="ij")
    noise = 0.05 * torch.randn(16, 3, 300, 400, generator=torch.Generator().manual_seed(0))
    images = (0.5 + 0.3 * torch.sin(x / 30) * torch.cos(y / 40) + noise).clamp(0, 1)
    part_sheet(images, (x // 50).long().expand(16, -1, -1), K=8, path=tmp_path / "parts.png")
    assert (tmp_path / "parts.png").stat().st_size < 1_200_000


@pytest.mark.parametrize(
    "write",
    [
        lambda path: part_sheet(
            torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64), K=2, path=path
        ),
        lambda path: write_palette_png(path, torch.zeros(8, 8, dtype=torch.int64), K=2),
    ],
)
def test_a_folder_in_the_way_is_one_sentence(tmp_path, write):
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "taken" / "parts.png")
