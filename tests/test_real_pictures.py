"""Ten real pictures with names: a short run from nothing must learn to draw each by its name. Needs the folder of pictures that T2I_DATA names."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from t2i_nb.data import FolderDataset
from t2i_nb.pipeline import TextToImage

DATA = Path(os.environ.get("T2I_DATA", "/nonexistent"))
pytestmark = pytest.mark.skipif(not (DATA / "noto-emoji.tar").is_file(), reason="T2I_DATA does not name a folder with noto-emoji.tar")

NAMES = ("red apple", "banana", "tomato", "eggplant", "carrot", "mushroom", "bread", "cheese wedge", "fried shrimp", "doughnut")
RECIPE = """
size = 32
[vae]
block_out_channels = [16, 32, 64]
[vae_training]
validate_every = 400
[words_training]
batch_size = 32
[unet]
sample_size = 8
block_out_channels = [64, 96]
down_block_types = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
up_block_types = ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
[training]
ema_decay = 0.99
sample_every = 0
validate_every = 200
"""


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ten")
    with tarfile.open(DATA / "noto-emoji.tar") as archive:
        lines = archive.extractfile("noto-emoji/metadata.jsonl").read().decode().splitlines()
        wanted = [entry for entry in map(json.loads, lines) if entry["text"] in NAMES]
        for entry in wanted:
            (folder / entry["file_name"]).write_bytes(archive.extractfile(f"noto-emoji/{entry['file_name']}").read())
    (folder / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in wanted), encoding="utf-8")
    assert sorted(entry["text"] for entry in wanted) == sorted(NAMES)
    return folder


def test_a_short_run_learns_ten_pictures_by_name(ten, tmp_path):
    (tmp_path / "small.toml").write_text(RECIPE)
    command = [sys.executable, "-m", "t2i_nb.cli", "train", "--data", f"folder:{ten}", "--config", tmp_path / "small.toml", "--steps", "600",
               "--out", tmp_path / "run", "--device", "cpu"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    model, data = TextToImage.from_pretrained(tmp_path / "run", device="cpu"), FolderDataset(ten, 32)
    truth = torch.stack([data[index][0] for index in range(len(data))])
    names = [data[index][1][0] for index in range(len(data))]
    drawn = torch.stack([torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(32, 32, 3).permute(2, 0, 1) / 127.5 - 1
                         for picture in model(names, seed=5)])
    distance = (drawn[:, None] - truth[None]).square().mean((2, 3, 4))  # [drawn, true]
    right = sum(row.argmin().item() == index for index, row in enumerate(distance))
    assert right >= 9, f"only {right} of {len(names)} pictures are nearest to the one that was named"
