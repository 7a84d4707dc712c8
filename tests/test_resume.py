"""A training run that is killed with kill -9 and resumed must end with the very same weights as one that was never stopped."""

import os

import pytest
import torch
from processes import finish, kill, start, wait_for
from safetensors.torch import load_file

RECIPE = """
size = 16
pictures = 96
vae_pictures = 64
[vae]
block_out_channels = [8, 16]
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
[vae_training]
batch_size = 8
checkpoint_every = 5
[words_training]
batch_size = 8
checkpoint_every = 5
[unet]
sample_size = 8
block_out_channels = [16, 16, 32]
norm_num_groups = 4
[training]
batch_size = 8
checkpoint_every = 5
sample_every = 0
"""
STEPS = 60


def train(folder, *options):
    return start("train", "--out", str(folder), *options)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return ["--config", str(path), "--steps", str(STEPS)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, recipe):
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    finish(train(folder, *recipe))
    return folder


def same_weights(first, second):
    checkpoint = f"training/diffusion/checkpoints/step-{STEPS:07d}"
    for name in ("network", "ema", "optimizer"):
        ours, theirs = (load_file(folder / checkpoint / f"{name}.safetensors") for folder in (first, second))
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), f"{name}: {key}"
    for part in ("unet", "vae"):
        file = f"{part}/diffusion_pytorch_model.safetensors"
        assert (first / file).read_bytes() == (second / file).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9 on Windows")
def test_killed_in_each_stage_and_resumed_is_the_same_to_the_bit(tmp_path, unbroken, recipe):
    folder = tmp_path / "run"
    process = train(folder, *recipe)
    wait_for(lambda: list(folder.glob("training/vae/checkpoints/step-00000[23]*")), process)
    kill(process)  # while the VAE is in training
    process = train(folder, "--resume")
    wait_for(lambda: list(folder.glob("training/words/checkpoints/step-000002*")), process)
    kill(process)  # while the words are
    process = train(folder, "--resume")
    wait_for(lambda: list(folder.glob("training/diffusion/checkpoints/step-000002*")), process)
    kill(process)  # while text encoder and UNet are
    finish(train(folder, "--resume"))
    same_weights(unbroken, folder)
    assert not list(folder.rglob("*.part")) and not list(folder.rglob("partial-*"))


def test_a_checkpoint_cut_short_is_named_and_the_one_before_it_used(tmp_path, unbroken, recipe):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    newest = folder / f"training/diffusion/checkpoints/step-{STEPS:07d}"
    weights = newest / "network.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    process = train(folder, "--resume")
    errors = process.communicate(timeout=400)[1]
    assert process.returncode == 0 and "is damaged" in errors and "Going back to the one before it" in errors, errors
    same_weights(unbroken, folder)


def test_latents_made_after_a_resume_are_the_same(tmp_path, unbroken, recipe):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    shutil.rmtree(folder / "latents")
    finish(train(folder, "--resume"))
    assert (folder / "latents/latents-00000.npy").read_bytes() == (unbroken / "latents/latents-00000.npy").read_bytes()
