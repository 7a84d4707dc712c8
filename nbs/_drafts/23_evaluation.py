# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: python3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does the picture do what the sentence says?
#
# > A judge that looks at a picture and lists what is on it, how good that judge is, and SceneEval: an exam for text-to-image models in nine categories.

# %% [markdown]
# A loss does not say whether the red sphere stands left of the cube. One could count by eye, but eyes tire, and are kinder on some days than on others. So you build a judge: a small network that reads a picture and lists its objects. Then you judge the judge, before it may say anything about a model. *Runs in about a minute on a laptop's CPU.*

# %%
#| default_exp evaluation

# %%
#| export
from __future__ import annotations

import math
import zlib
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NamedTuple, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2i_nb.latents import decode
from t2i_nb.layers import Downsample, ResnetBlock, Upsample
from t2i_nb.pipeline import WEIGHTS, check_prompt, check_settings, load_weights, save_weights
from t2i_nb.scenes import (COLORS, EYE, KEYS, LIGHT_WORDS, LIGHTS, MATERIALS, MIDDLE, RELATIONS, SHAPES, SIZES, TANGENT, TARGET, Demands, Object,
                           Scene, listed, parse, phrase, relation, render, sample_scenes, satisfies, unit)
from t2i_nb.text import read_json, write_json
from t2i_nb.training import Shuffled, TrainingConfig, check_device, resume_run, start_run, step_generator, train

# %%
import os, tempfile
import matplotlib.pyplot as plt
from t2i_nb.pipeline import TextToImage
from t2i_nb.scenes import HELD_OUT, caption, image_grid, to_pil
from t2i_nb.text import Tokenizer
if "IN_TEST" in os.environ: torch.set_num_threads(1)  # nbdev_test runs a notebook on each core
plt.rcParams.update({"figure.dpi": 72, "font.size": 9})

# %% [markdown]
# ## Where on the picture is a thing?
#
# The ray tracer sends rays from the eye through the pixels. Backwards, a point of the room lands on a place of the picture: how far it is to the right and upwards, as the camera sees it, divided by how far away it is. (`TANGENT` is half the picture's width at a distance of 1.)

# %%
#| export
def project(
    points: Tensor,  # places in the room [n, 3]: right, away from the viewer, up
) -> Tensor:  # places on the picture [n, 2]: right and down, from 0 to 1
    "Where the camera of `scenes` sees points."
    forward = points.new_tensor(unit(tuple(b - a for a, b in zip(EYE, TARGET))))
    upward = torch.stack([forward.new_zeros(()), -forward[2], forward[1]])
    offset = points - points.new_tensor(EYE)
    depth = offset @ forward  # [n]
    return torch.stack([1 + offset[:, 0] / depth / TANGENT, 1 - offset @ upward / depth / TANGENT], dim=1) / 2


# %%
#| export
def middles(objects: Sequence[Object]) -> Tensor:  # [n, 2] on the picture, from 0 to 1
    "Where the middle of each object is seen."
    places = [(o.x, o.y, MIDDLE[SHAPES.index(o.shape)] * SIZES[o.size]) for o in objects]
    return project(torch.tensor(places, dtype=torch.float64))


# %%
scenes = sample_scenes(range(6), "test")
images = render(scenes)
figure, axes = plt.subplots(1, 6, figsize=(9, 1.6))
for axis, scene, image in zip(axes, scenes, images):
    places = 64 * middles(scene.objects) - 0.5  # imshow puts the middle of the first pixel at 0
    axis.imshow(image.permute(1, 2, 0)); axis.axis("off")
    axis.plot(*places.T, "+", color="black", ms=9, mew=3); axis.plot(*places.T, "+", color="white", ms=8)
plt.tight_layout(pad=0.2); plt.show()

# %% [markdown]
# Every cross sits on its object. A test that needs no eyes: the red pixels of a lone red sphere have their centre where `middles` says, all over the floor.

# %%
spread_out = [Object("sphere", "red", "small", "matte", x, y) for x in (-1.5, 0.0, 1.5) for y in (-1.2, 0.0, 1.3)]
for o, picture in zip(spread_out, render([Scene((o,)) for o in spread_out])):
    red = picture[0] > 2 * picture[1:].amax(0)  # [64, 64]
    row, column = (place.double().mean() for place in red.nonzero(as_tuple=True))
    right, down = 64 * middles([o])[0] - 0.5
    assert 60 < red.sum() < 250 and abs(column - right) < 1 and abs(row - down) < 1, o

# %% [markdown]
# ## A network that points
#
# The judge answers for each cell of a 32 x 32 grid: is the middle of an object here? And if it is: which shape, which colour, which size, which material, and where on the floor does it stand? The light is asked once for the whole picture. A cell is two pixels wide: fine enough that two objects never share one. The blocks are the UNet's: down to 8 x 8, where a cell oversees the whole picture and its edges, and up again.

# %%
#| export
CELLS = 32  # of the grid, in each direction
CHOICES = {"shape": SHAPES, "color": tuple(COLORS), "size": tuple(SIZES), "material": MATERIALS}


class Judge(nn.Module):
    "Reads pictures of scenes: a heat map of the objects' middles, their kinds and places, and the light (after CenterNet; Zhou et al. 2019)."

    def __init__(self, widths: tuple = (32, 64, 96)):  # channels at 32 x 32, 16 x 16 and 8 x 8
        super().__init__()
        fine, middle, coarse = widths
        block = lambda start, end: ResnetBlock(start, end, groups=8)
        self.config = {"widths": list(widths)}
        self.stem = nn.Conv2d(3, fine, 5, stride=2, padding=2)
        self.down = nn.ModuleList([block(fine, fine), nn.Sequential(Downsample(fine), block(fine, middle), block(middle, middle)),
                                   nn.Sequential(Downsample(middle), block(middle, coarse), block(coarse, coarse))])
        self.rise = nn.ModuleList([Upsample(coarse), Upsample(middle)])
        self.up = nn.ModuleList([block(coarse + middle, middle), block(middle + fine, middle)])
        self.head = nn.Conv2d(middle, 1 + sum(map(len, CHOICES.values())) + 2, 1)
        self.light = nn.Linear(coarse, len(LIGHTS))
        nn.init.constant_(self.head.bias[:1], -4.0)  # at first: nothing, anywhere

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # [n, 3, 64, 64] in [-1, 1] -> [n, 21, 32, 32], [n, 3]
        fine = self.down[0](self.stem(images))  # [n, 32, 32, 32]
        middle = self.down[1](fine)  # [n, 64, 16, 16]
        coarse = self.down[2](middle)  # [n, 96, 8, 8]
        x = self.up[0](torch.cat([self.rise[0](coarse), middle], dim=1))
        x = self.up[1](torch.cat([self.rise[1](x), fine], dim=1))
        return self.head(F.silu(x)), self.light(coarse.mean((2, 3)))


# %%
torch.manual_seed(0)
fresh = Judge()
answer, light = fresh(images * 2 - 1)
print(f"{sum(p.numel() for p in fresh.parameters()) / 1e6:.2f} million parameters", tuple(answer.shape), tuple(light.shape))
assert answer[:, 0].sigmoid().max() < 0.2  # it sees nothing yet


# %% [markdown]
# ## What is right?
#
# The truth, in the form of that answer: for a batch of scenes, where on the grid each object's middle is, what it is, and where it stands.

# %%
#| export
class Truth(NamedTuple):
    "What is on pictures, for the judge's loss. Every object of every picture is one entry of the first four."
    image: Tensor  # which picture [m]
    middle: Tensor  # of the object, counted in cells [m, 2]: right, down
    kinds: Tensor  # number of its shape, color, size, material [m, 4]
    place: Tensor  # on the floor [m, 2]
    light: Tensor  # of each picture [n]


def truth(scenes: Sequence[Scene]) -> Truth:
    "The right answers for renders of scenes."
    every = [(i, o) for i, scene in enumerate(scenes) for o in scene.objects]
    objects = [o for _, o in every]
    kinds = [[choices.index(getattr(o, key)) for key, choices in CHOICES.items()] for o in objects]
    return Truth(torch.tensor([i for i, _ in every]), (middles(objects) * CELLS).float(), torch.tensor(kinds),
                 torch.tensor([(o.x, o.y) for o in objects]), torch.tensor([LIGHTS.index(scene.light) for scene in scenes]))


# %% [markdown]
# A cell beside the middle is nearly right, and must not be punished like one far off. So the wanted heat is a little hill around each middle, with a standard deviation of one cell.

# %%
#| export
def hills(t: Truth) -> Tensor:  # [n, CELLS, CELLS] in [0, 1]: down, right
    "One hill around the middle of each object; where two overlap, the higher."
    cells = torch.arange(CELLS, device=t.middle.device) + 0.5
    right, down = ((cells - t.middle[:, i, None]).square() for i in (0, 1))  # [m, CELLS] each
    each = torch.exp(-(down[:, :, None] + right[:, None, :]) / 2)  # [m, CELLS, CELLS]
    index = t.image[:, None, None].expand_as(each)
    return each.new_zeros(len(t.light), CELLS, CELLS).scatter_reduce(0, index, each, "amax")


# %%
heat = hills(truth(scenes))
figure, axes = plt.subplots(1, 6, figsize=(9, 1.6))
for axis, image in zip(axes, heat): axis.imshow(image); axis.axis("off")
plt.tight_layout(pad=0.2); plt.show()

lone = Object("cone", "red", "small", "matte", 1.4, 1.0)  # right, and far up
(right, down), = (middles([lone]) * CELLS).long().tolist()
hill = hills(truth([Scene((lone,))]))[0]
assert hill.argmax() == down * CELLS + right and right > down + 8 and hill[down, right - 5] < 1e-4 and hill.max() > math.exp(-0.25)


# %% [markdown]
# ## A loss for rare things
#
# Nearly all of the 1024 cells are empty. With plain cross-entropy their small errors add up and drown the few cells that count. The *focal loss* makes an error count less, the smaller it is already. With $p$ the answer and $y$ the hill:
#
# $$-(1-p)^2\log p\;\text{ at a middle},\qquad -(1-y)^4\,p^2\log(1-p)\;\text{ elsewhere}$$
#
# An empty cell with $p=0.01$ weighs $10^{-6}$, one with $p=0.6$ weighs 0.33. The factor $(1-y)^4$ spares the slopes of a hill. (The powers 2 and 4 are those of the literature.)

# %%
#| export
def judge_loss(
    judge: Judge,
    images: Tensor,  # [n, 3, 64, 64] in [-1, 1]
    t: Truth,  # about them
) -> Tensor:  # scalar
    "Focal loss for the heat (CenterNet, eq. 1), cross-entropy for kinds and light, and for places a distance, squared where it is small. Kinds and places are asked at the middles only."
    answer, light = (x.float() for x in judge(images))
    column, row = t.middle.long().clamp(0, CELLS - 1).unbind(1)
    here = answer[t.image, :, row, column]  # [m, 21]: the answers at the middles
    logit, wanted = answer[:, 0], hills(t)
    empty = (1 - wanted) ** 4 * logit.sigmoid() ** 2 * -F.logsigmoid(-logit)
    empty[t.image, row, column] = 0  # a middle is not empty
    found = (1 - here[:, 0].sigmoid()) ** 2 * -F.logsigmoid(here[:, 0])
    *kinds, place = here[:, 1:].split([*map(len, CHOICES.values()), 2], dim=1)
    named = sum(F.cross_entropy(answers, t.kinds[:, i]) for i, answers in enumerate(kinds))
    return (empty.sum() + found.sum()) / len(found) + named + 2 * F.smooth_l1_loss(place, t.place, beta=0.1) + F.cross_entropy(light, t.light)


# %% [markdown]
# Can it learn at all? Sixty steps on the six pictures above:

# %%
optimizer, losses = torch.optim.AdamW(fresh.parameters(), 3e-4), []
for _ in range(60):
    loss = judge_loss(fresh, images * 2 - 1, truth(scenes))
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    losses.append(loss.item())
print(f"{losses[0]:.2f} -> {losses[-1]:.3f}")
assert losses[-1] < 0.05 * losses[0]


# %% [markdown]
# ## From heat to a scene
#
# An object is where the heat is higher than in all eight neighbours, and above a bar. What comes out is a `Scene`, so the question "does it satisfy the sentence?" is already answered by the first notebook's `satisfies`.

# %%
#| export
class Reading(NamedTuple):
    "What the judge sees on a picture."
    objects: tuple[Object, ...]  # perhaps none
    light: str


@torch.inference_mode()
def read_scenes(
    judge: Judge,
    images: Tensor,  # [n, 3, h, w] in [-1, 1], on any device; other sizes than 64 are resized
    bar: float = 0.4,  # how hot a cell must be; no probability, as the focal loss trusts small ones too little
) -> list[Reading]:
    "What is on pictures, according to the judge."
    readings, weight = [], next(judge.parameters())
    if images.shape[2:] != (64, 64): images = F.interpolate(images, (64, 64), mode="area")
    for part in images.split(128):
        answer, light = judge(part.to(weight))
        heat = answer[:, :1].sigmoid()
        peaks = (heat == F.max_pool2d(heat, 3, stride=1, padding=1)) & (heat > bar)  # [n, 1, CELLS, CELLS]
        for sheet, tops, number in zip(answer, peaks[:, 0], light.argmax(1).tolist()):
            *kinds, place = sheet[1:, tops].T.split([*map(len, CHOICES.values()), 2], dim=1)  # [objects, ...] each
            names = [[choices[i] for i in answers.argmax(1).tolist()] for choices, answers in zip(CHOICES.values(), kinds)]
            objects = tuple(Object(*name, x, y) for *name, (x, y) in zip(*names, place.tolist()))
            readings.append(Reading(objects, LIGHTS[number]))
    return readings


# %%
#| export
def agrees(reading: Reading, scene: Scene) -> bool:
    "Whether a reading names exactly what is there: every object with shape, color, size and material, and the light."
    kinds = lambda objects: sorted((o.shape, o.color, o.size, o.material) for o in objects)
    return reading.light == scene.light and kinds(reading.objects) == kinds(scene.objects)


def shows(reading: Reading, demands: Demands) -> bool:
    "Whether a picture, as it was read, does what a sentence demands."
    return bool(reading.objects) and satisfies(Scene(*reading), demands)


# %%
blank = read_scenes(Judge(), images * 2 - 1)[0]
assert blank.objects == () and not shows(blank, parse("a cube"))
for scene, reading in zip(scenes[:3], read_scenes(fresh, images * 2 - 1)):
    print([f"{o.size} {o.material} {o.color} {o.shape}" for o in scene.objects], "->", [f"{o.size} {o.material} {o.color} {o.shape}" for o in reading.objects])

# %% [markdown]
# ## Soft pictures
#
# The judge will look at pictures that a network has drawn. Those are softer than a ray tracer's, a little grainy, and never quite right in colour. So that it looks at content and not at finish, it is trained on spoilt renders.

# %%
#| export
def spoil(
    images: Tensor,  # [n, 3, h, w] in [-1, 1]
    generator: torch.Generator,  # another state, other flaws
) -> Tensor:  # the same shape
    "Blur (in seven of ten), grain and a tint, of a strength of its own for each picture."
    draw = lambda *shape: torch.rand(len(images), *shape, generator=generator)
    offset, width = torch.arange(-3.0, 4.0), 1.2 * draw(1).clamp(min=0.05)  # in pixels
    kernel = F.normalize(torch.exp(-offset**2 / (2 * width**2)), p=1, dim=1)  # [n, 7]
    soft = F.pad(images, (3, 3, 3, 3), mode="replicate").transpose(0, 1)  # [3, n, h + 6, w + 6]: each picture a channel, to have a kernel of its own
    soft = F.conv2d(F.conv2d(soft, kernel[:, None, :, None], groups=len(images)), kernel[:, None, None, :], groups=len(images)).transpose(0, 1)
    images = torch.where(draw(1, 1, 1) < 0.7, soft, images)
    grain = 0.06 * draw(1, 1, 1) * torch.randn(images.shape, generator=generator)
    return (images * (0.95 + 0.1 * draw(1, 1, 1)) + grain + 0.06 * (draw(3, 1, 1) - 0.5)).clamp(-1, 1)


# %%
spoilt = spoil(images * 2 - 1, torch.Generator().manual_seed(0))
image_grid([picture.resize((96, 96)) for picture in to_pil(torch.cat([images, (spoilt + 1) / 2]))], 6)


# %% [markdown]
# ## Training it
#
# Forty thousand scenes, a third of them with held-out pairs: the judge has to know those, so that it can tell whether a model that has not seen them can draw them. The loop is notebook 20's.

# %%
#| export
def judge_training() -> TrainingConfig:
    "How the judge is trained: ten minutes."
    return TrainingConfig(steps=None, minutes=10, batch_size=64, learning_rate=1e-3, warmup=200, decay=0.6, mixed_precision="auto", ema_decay=0.998,
                          checkpoint_every=2000, validate_every=500)


def train_judge(
    folder: str | Path,  # the judge is written here, its checkpoints in a sub-folder
    count: int = 40_000,  # scenes to learn from
    config: TrainingConfig | None = None,  # None: `judge_training`
    device: str | None = None,  # "cpu" to keep off a GPU
    resume: bool = False,  # go on from the newest checkpoint, with the same count
) -> Judge:
    "Train a judge on spoilt renders of scenes, and write it. Raises ValueError where there is another training in the folder."
    config, folder = config or judge_training(), Path(folder)
    if (folder / "training").exists() and not resume: raise ValueError(f"There is a training in {folder}: go on with it (resume=True), or choose another folder.")
    if count < 3: raise ValueError(f"count is {count}, but a judge needs some scenes to learn from.")
    scenes = sample_scenes(range(count - count // 3), "train") + sample_scenes(range(count // 3), "heldout")
    pictures = torch.cat([(render(scenes[i:i + 1000]) * 255).round().to(torch.uint8) for i in range(0, count, 1000)])
    torch.manual_seed(config.seed)
    run = start_run(Judge().to(memory_format=torch.channels_last), config, folder / "training", device)
    if resume: resume_run(run)
    order, device = Shuffled(count, config.batch_size, config.seed), run.accelerator.device
    to_device = lambda scenes: Truth(*(table.to(device) for table in truth(scenes)))

    def batch(step):
        chosen = order(step)
        images = spoil(pictures[chosen].float() / 127.5 - 1, step_generator(config.seed, step))
        return images.to(device), to_device([scenes[i] for i in chosen.tolist()])

    fixed = sample_scenes(range(500), "test")
    shown, right = spoil(render(fixed) * 2 - 1, torch.Generator().manual_seed(0)).to(device), to_device(fixed)
    train(run, lambda judge, batch, generator: judge_loss(judge, *batch), batch, lambda judge: judge_loss(judge, shown, right), name="judge")
    run.ema.copy_to(run.network)
    save_weights(run.network, folder / "model.safetensors")
    write_json(run.network.config, folder / "config.json")
    return run.network.eval().requires_grad_(False)


# %%
#| export
def load_judge(
    folder: str | Path = "judge",  # the shipped one, or a folder that `train_judge` has written
    device: str | None = None,  # None: a GPU if there is one
) -> Judge:  # ready to read
    "A trained judge. Raises FileNotFoundError or ValueError, in one sentence, where there is none."
    check_device(device)
    found = next((place for place in (Path(folder), WEIGHTS / str(folder)) if (place / "config.json").is_file()), None)
    if found is None: raise FileNotFoundError(f"There is no judge in {folder}: train one with train_judge, or use the shipped one, judge.")
    config = read_json(found / "config.json")
    if set(config) != {"widths"} or len(config["widths"]) != 3 or any(type(width) is not int or width < 8 or width % 8 for width in config["widths"]):
        raise ValueError(f"{found} holds no judge: its config.json must give three widths, multiples of 8, and nothing else.")
    return load_weights(Judge(**config), found / "model.safetensors").to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


# %% [markdown]
# A run in miniature, to see that it learns, writes what can be read again, goes on, and refuses what it must:

# %%
def complaint(function, *arguments, error=ValueError, **keywords):
    try: function(*arguments, **keywords)
    except error as problem: return str(problem)
    raise AssertionError("this should have been refused")

place, tiny = Path(tempfile.mkdtemp()), replace(judge_training(), minutes=None, steps=3, batch_size=8, warmup=0, decay=0.0)
trained = train_judge(place / "tiny", 24, tiny, "cpu")
again = load_judge(place / "tiny", "cpu")
assert all((again.state_dict()[name] - value).abs().max() < 1e-3 for name, value in trained.state_dict().items())
longer = train_judge(place / "tiny", 24, replace(tiny, steps=5), "cpu", resume=True)
assert max((longer.state_dict()[name] - value).abs().max() for name, value in trained.state_dict().items()) > 1e-4

# %%
print(complaint(train_judge, place / "tiny", 24, tiny, "cpu")); print(complaint(load_judge, "scenes/unet"))
print(complaint(load_judge, place, error=FileNotFoundError)); print(complaint(load_judge, device="gpu"))

# %% [markdown]
# And the real one. What this cell wrote is what the package ships, in `t2i_nb/weights/judge`:

# %%
#| slow
train_judge("../runs/judge", device="cpu");

# %% [markdown]
# ## Judging the judge
#
# A whole scene is read right if nothing is missing, nothing too many, every kind right, and the light. Unseen scenes, half of them with held-out pairs; clean ones and spoilt ones.

# %%
judge, count = load_judge(device="cpu"), 500
unseen = sample_scenes(range(100_000, 100_000 + count), "test") + sample_scenes(range(100_000, 100_000 + count), "heldout")
clean = render(unseen) * 2 - 1
dirty = spoil(clean, torch.Generator().manual_seed(1))
readings = {"clean": read_scenes(judge, clean), "spoilt": read_scenes(judge, dirty)}
exact = {name: sum(map(agrees, seen, unseen)) / len(unseen) for name, seen in readings.items()}
print(", ".join(f"{name}: {share:.2%}" for name, share in exact.items()), f"of {len(unseen)} scenes read exactly")

# %% [markdown]
# Is the bar well chosen, and do two middles ever come too near each other for two peaks? And how exactly does it know where a thing stands? (Relations are decided by that.)

# %%
for bar in (0.2, 0.4, 0.6):
    wrong = [len(reading.objects) - len(scene.objects) for reading, scene in zip(read_scenes(judge, dirty[::4], bar), unseen[::4])]
    print(f"bar {bar}: objects missed in {sum(w < 0 for w in wrong)}, too many in {sum(w > 0 for w in wrong)} of {len(wrong)} spoilt pictures")
apart = torch.cat([torch.pdist(CELLS * middles(scene.objects)) for scene in unseen])
errors = torch.tensor([min(math.hypot(o.x - seen.x, o.y - seen.y) for seen in reading.objects) for reading, scene in zip(readings["spoilt"], unseen) if reading.objects for o in scene.objects])
print(f"middles are at least {apart.min():.1f} cells apart; places are off by {errors.median():.3f}, and by less than {errors.quantile(0.95):.3f} in 95 of 100")
assert apart.min() > 2


# %% [markdown]
# A judge must not be fooled. We change one thing that a true sentence demands (a colour, a shape, a size, how many, a side, the light) so that it is false, and ask whether the picture satisfies it. Each kind of change equally often: the easy ones must not hide the hard ones.

# %%
#| export
def changed(
    demands: Demands,  # true of the scene
    scene: Scene,
    random: Random,
) -> tuple[str, Demands] | None:  # what was changed, and demands that are false; None where nothing can be changed
    "One demand exchanged for another, so that the scene does not satisfy it."
    options = {key: [replace(demands, objects=(*demands.objects[:i], replace(wanted, **{key: other}), *demands.objects[i + 1:]))
                     for i, wanted in enumerate(demands.objects) if getattr(wanted, key) for other in choices] for key, choices in CHOICES.items()}
    options["number"] = [replace(demands, objects=(*demands.objects, demands.objects[0]))] * (len(demands.objects) < 4)
    if len(demands.objects) > 1: options["number"].append(Demands(demands.objects[:-1], (), demands.light))
    options["relation"] = [replace(demands, relations=tuple((i, other, j) for i, _, j in demands.relations)) for other in RELATIONS if demands.relations]
    options["light"] = [replace(demands, light=other) for other in LIGHTS if demands.light]
    false = {kind: kept for kind, new in options.items() if (kept := [d for d in new if not satisfies(scene, d)])}
    if not false: return None
    kind = random.choice(sorted(false))
    return kind, random.choice(false[kind])


# %%
true = [parse(caption(scene, Random(i))) for i, scene in enumerate(unseen)]
false = [changed(demands, scene, Random(i)) for i, (demands, scene) in enumerate(zip(true, unseen))]
assert all(satisfies(scene, demands) for scene, demands in zip(unseen, true)) and all(false)
for name, seen in readings.items():
    right = [shows(reading, demands) for reading, demands in zip(seen, true)]
    fooled = [(kind, shows(reading, demands)) for reading, (kind, demands) in zip(seen, false)]
    kinds = {kind: [f for k, f in fooled if k == kind] for kind, _ in fooled}
    related = [r for r, demands in zip(right, true) if demands.relations]
    print(f"{name}: {sum(right) / len(right):.2%} of true sentences accepted ({sum(related) / len(related):.2%} of those with a relation), {sum(f for _, f in fooled) / len(fooled):.2%} of false ones")
    print("   fooled by", ", ".join(f"{kind} {sum(group)} of {len(group)}" for kind, group in sorted(kinds.items())))
    assert exact[name] > 0.9 and sum(right) / len(right) > 0.94 and sum(f for _, f in fooled) / len(fooled) < 0.03

# %% [markdown]
# What does it get wrong? Pictures on which it was wrong: what is there, and what it saw instead.

# %%
def differences(reading, scene):
    kinds = lambda objects: [" ".join((o.size, o.material, o.color, o.shape)) for o in objects]
    here, seen = kinds(scene.objects), kinds(reading.objects)
    for kind in list(here):
        if kind in seen: here.remove(kind); seen.remove(kind)
    light = f", {reading.light}" if reading.light != scene.light else ""
    return f"{' + '.join(here) or 'nothing'}: {' + '.join(seen) or 'nothing'}{light}"

wrong = [i for i, (reading, scene) in enumerate(zip(readings["clean"], unseen)) if not agrees(reading, scene)][:8]
image_grid([picture.resize((112, 112)) for picture in to_pil((clean[wrong] + 1) / 2)], 4, labels=[differences(readings["clean"][i], unseen[i]) for i in wrong]) if wrong else "nothing"

# %% [markdown]
# One limit remains, and no render can show it: the judge has no answer for "none of these". A cube with a dent gets the name of the nearest shape. At the end of this notebook its verdicts stand beside those of an eye.

# %% [markdown]
# ## SceneEval: nine kinds of sentences
#
# GenEval asks a text-to-image model for single objects, two objects, counts, colours, positions and colours on the right object; we add size and material, light, and whole sentences. A hundred prompts each, from scenes that no training has seen, so that every one of them can be drawn; where colours are named, a hundred more with a pair of colour and shape that no training scene had.

# %%
#| export
class Prompt(NamedTuple):
    "A sentence of SceneEval."
    category: str
    held_out: bool  # whether it names a pair of color and shape that training scenes never hold
    text: str


class Plain(Random):
    "No chance at all: always the usual word and the usual article."
    def random(self): return 0.5
    def choices(self, population, weights=None, *, cum_weights=None, k=1): return [population[0]] * k


CATEGORIES = {  # what each says of its objects, and of how many; whether it wants them alike, a relation, the light, or all there is
    "single object": (("shape",), (1,), None), "two objects": (("shape",), (2,), None), "counting": (("shape",), (2, 3, 4), "alike"),
    "colors": (("color", "shape"), (1,), None), "position": (("shape",), (2,), "relation"), "color attribution": (("color", "shape"), (2,), None),
    "size and material": (("size", "material", "shape"), (1,), None), "light": (("shape",), (1,), "light"), "full sentence": (KEYS, (1, 2, 3, 4), "all")}


# %%
#| export
def prompt_of(
    category: str,  # one of CATEGORIES
    scene: Scene,
) -> str | None:  # None: this scene is of no use for it
    "What a category says of a scene."
    keys, counts, extra = CATEGORIES[category]
    groups: dict[tuple, list[Object]] = {}
    for o in scene.objects:
        groups.setdefault(tuple(getattr(o, key) if key in keys else None for key in KEYS), []).append(o)
    if len(scene.objects) not in counts: return None
    if extra != "all" and len(groups) != (1 if extra == "alike" else len(scene.objects)): return None  # two cubes are no "a cube and a cube"
    parts = [phrase(described, len(objects), Plain()) for described, objects in groups.items()]
    ends = [*groups.values()]
    held = {relation(a, b) for a in ends[0] for b in ends[1]} if len(ends) == 2 and extra in ("relation", "all") else {None}
    related = held.pop() if len(held) == 1 else None
    if extra == "relation" and related is None: return None
    sentence = f" {related} ".join(parts) if related else listed(parts, Plain())
    return f"{sentence} {LIGHT_WORDS[scene.light]}" if extra in ("light", "all") else sentence


def scene_eval_prompts(
    per_category: int = 100,
) -> list[Prompt]:
    "The prompts of SceneEval: first those of pairs that training has seen, then those with a held-out pair."
    prompts = []
    for split in ("test", "heldout"):
        scenes = sample_scenes(range(1_000_000, 1_000_000 + 300 + 30 * per_category), split)
        for category, (keys, *_) in CATEGORIES.items():
            if split == "heldout" and "color" not in keys: continue
            texts = [text for scene in scenes if (text := prompt_of(category, scene))][:per_category]
            prompts += [Prompt(category, split == "heldout", text) for text in texts]
    return prompts


# %%
prompts = scene_eval_prompts()
for category in CATEGORIES:
    texts = [p.text for p in prompts if p.category == category and not p.held_out]
    print(f"{category:18} {len(set(texts)):3} different   {texts[-1]}")
assert len(prompts) == 1200 and len(scene_eval_prompts(1)) == 12

# %% [markdown]
# Short sentences come back: there are only four single objects. Repeats differ in their noise. Does every sentence tell the truth of its scene, and does a held-out one name a held-out pair?

# %%
for scene in unseen[::4]:
    for category in CATEGORIES:
        if text := prompt_of(category, scene): assert satisfies(scene, parse(text)), (category, text)
for p in prompts: assert any((wanted.color, wanted.shape) in HELD_OUT for wanted in parse(p.text).objects) == p.held_out, p
two = Scene((Object("cube", "red", "small", "matte", -1, 0), Object("cube", "red", "small", "matte", 1, 0)))
assert prompt_of("two objects", two) is None and prompt_of("counting", two) == "two cubes" and prompt_of("full sentence", two) == "two small matte red cubes in daylight"

# %% [markdown]
# ## A share is a range
#
# A score from a few hundred pictures is a range of scores. Wilson's interval asks: for which true shares $q$ would the counted share $p$ be nothing unusual, less than $z=1.96$ standard deviations away? That is a quadratic equation for $q$:
#
# $$(p-q)^2=z^2\,\frac{q(1-q)}{n}$$
#
# Unlike "plus or minus two standard deviations" it stays between 0 and 1, also when nothing or everything was right.

# %%
#| export
def interval(
    hits: int,
    total: int,
    z: float = 1.96,  # for 95%
) -> tuple[float, float]:  # shares, lower and upper
    "Wilson's interval for a share. (Wilson 1927)"
    p, a = hits / total, z**2 / total
    half = math.sqrt(a * p * (1 - p) + a**2 / 4)
    return max(0.0, (p + a / 2 - half) / (1 + a)), min(1.0, (p + a / 2 + half) / (1 + a))


# %%
print([f"{hits} of 100: {low:.1%} to {high:.1%}" for hits in (0, 50, 95, 100) for low, high in [interval(hits, 100)]])
for low, p in zip(interval(30, 80), (30 / 80,) * 2): assert abs((p - low) ** 2 - 1.96**2 * low * (1 - low) / 80) < 1e-12  # both ends solve the equation
torch.manual_seed(0)
drawn = torch.distributions.Binomial(200, torch.tensor(0.9)).sample((2000,))  # how often does it hold the truth?
inside = sum(low <= 0.9 <= high for low, high in (interval(int(hits), 200) for hits in drawn)) / 2000
assert 0.93 < inside < 0.975 and all(interval(0, n)[0] < 1e-12 and interval(n, n)[1] > 1 - 1e-12 for n in range(1, 300))


# %% [markdown]
# ## The exam
#
# A model draws each sentence several times, each picture with a seed of its own, and the judge looks. It takes minutes, so what is done is kept in a file with the name of all that it depends on, and a second call goes on from there.

# %%
#| export
def fingerprint(*networks: nn.Module) -> str:
    "A short name for weights: other weights, another name."
    code = 0
    for network in networks:
        for value in network.state_dict().values(): code = zlib.crc32(value.detach().half().cpu().contiguous().numpy().tobytes(), code)
    return f"{code:08x}"


def scene_eval(
    model,  # a TextToImage
    judge: Judge,
    prompts: Sequence[Prompt],
    images: int = 4,  # pictures of each prompt
    batch_size: int = 64,  # drawn at once
    kept: str | Path | None = None,  # a JSON file for the verdicts so far; None: nothing is kept
    **settings,  # steps, sampler and guidance; the model's own where they are not given
) -> list[list[bool]]:  # for each prompt, for each picture: whether it does what the sentence says
    "Draw and judge. Raises ValueError if the model doesn't know the words, for settings that make no sense, and if `kept` is of another evaluation."
    from tqdm.auto import tqdm

    settings, demands = {**model.defaults, **settings}, {p.text: parse(p.text) for p in prompts}
    check_settings(**settings, n=images, size=model.size, multiple=model.vae.downsampling, schedule_steps=model.schedule.steps, seed=0)
    for text in demands:
        if remark := check_prompt(text, model.tokenizer): raise ValueError(f"This model can't be judged by sentences about scenes. {remark}")
    texts = [p.text for p in prompts for _ in range(images)]
    header = {"networks": fingerprint(model.text_encoder, model.unet, model.vae, judge), "settings": settings, "images": images, "prompts": [p.text for p in prompts]}
    verdicts = kept_verdicts(Path(kept), header) if kept is not None else []
    with torch.inference_mode(), tqdm(total=len(texts), initial=len(verdicts), desc="SceneEval", unit=" pictures", dynamic_ncols=True) as bar:
        while len(verdicts) < len(texts):
            start, batch = len(verdicts), texts[len(verdicts):len(verdicts) + batch_size]
            for step in model.stream(batch, seeds=range(start, start + len(batch)), **settings): pass
            verdicts += [shows(reading, demands[text]) for reading, text in zip(read_scenes(judge, decode(model.vae, step.x)), batch)]
            if kept is not None: write_json({**header, "verdicts": verdicts}, Path(kept))
            bar.update(len(batch))
    return [verdicts[i:i + images] for i in range(0, len(verdicts), images)]


def kept_verdicts(
    path: Path,
    header: dict,  # what they must depend on
) -> list[bool]:
    "The verdicts in a file; none if there is no file. Raises ValueError for those of another evaluation, and where no file can be written."
    if not path.absolute().parent.is_dir(): raise ValueError(f"There is no folder {path.parent} for {path.name}: make it first.")
    found = read_json(path) if path.exists() else {**header, "verdicts": []}
    verdicts = found.get("verdicts")
    if any(found.get(key) != value for key, value in header.items()) or not isinstance(verdicts, list) or len(verdicts) > header["images"] * len(header["prompts"]):
        raise ValueError(f"{path} is of another evaluation (another model, other settings or sentences): name another file, or remove it.")
    return verdicts


# %%
#| export
class Score(NamedTuple):
    "How a model did in one category."
    category: str  # one of CATEGORIES, or a sum of several
    held_out: bool
    hits: int
    total: int


def scores(
    prompts: Sequence[Prompt],
    verdicts: Sequence[Sequence[bool]],  # from `scene_eval`
) -> list[Score]:
    "One line for each category, seen and held-out pairs apart; all of them; and those that have both kinds of pairs, which can be compared."
    lines, both = [], {p.category for p in prompts if p.held_out}
    for held_out in (False, True):
        own = [(p.category, rights) for p, rights in zip(prompts, verdicts) if p.held_out == held_out]
        sums = {**{name: {name} for name, _ in own}, **({} if held_out else {"overall": {name for name, _ in own}}), **({"with colors": both} if both else {})}
        for name, members in sums.items():
            rights = [right for category, group in own if category in members for right in group]
            if rights: lines.append(Score(name, held_out, sum(rights), len(rights)))
    return lines


def score_table(lines: Sequence[Score]) -> str:
    "Scores as text. The intervals are about other noise for the same sentences."
    rows = [f"{'category':18} {'pairs':8}  right   95% interval"]
    for category, held_out, hits, total in lines:
        low, high = interval(hits, total)
        rows.append(f"{category:18} {'held out' if held_out else 'seen':8} {hits / total:6.1%}   {low:.1%} to {high:.1%}   ({hits} of {total})")
    return "\n".join(rows)


# %%
invented = [Prompt("colors", False, "a red cube"), Prompt("light", False, "a cone at night"), Prompt("colors", True, "a red cone")]
lines = scores(invented, [[True, False], [True, True], [False, False]])
assert [(s.category, s.held_out, s.hits, s.total) for s in lines] == [("colors", False, 1, 2), ("light", False, 2, 2), ("overall", False, 3, 4), ("with colors", False, 1, 2), ("colors", True, 0, 2), ("with colors", True, 0, 2)]
print(score_table(lines))

# %% [markdown]
# A few prompts with few steps, stopped halfway: the second call draws only what is missing.

# %%
model, few = TextToImage.from_pretrained("scenes", device="cpu"), prompts[::100]
exam = lambda **options: scene_eval(model, judge, few, **{"images": 1, "kept": place / "few.json", "steps": 6, **options})
verdicts = exam()
half = {**read_json(place / "few.json"), "verdicts": [not verdicts[0][0], *(v[0] for v in verdicts[1:5])]}  # the first one turned round, to know it again
write_json(half, place / "few.json")
assert exam() == [[not verdicts[0][0]], *verdicts[1:]]

# %% [markdown]
# Refused, each before anything is drawn: verdicts of another evaluation, settings that make no sense, and a model that has never read the words.

# %%
deaf = TextToImage(model.unet, model.vae, model.text_encoder, Tokenizer.build(["a cat"], 32), model.schedule_config)
print(complaint(exam, steps=7)); print(complaint(exam, sampler="magic")); print(complaint(exam, kept=place / "none" / "few.json"))
print(complaint(scene_eval, deaf, judge, few)); print(complaint(scene_eval, model, judge, [Prompt("colors", False, "a purple dragon")]))
other = TextToImage(model.unet, model.vae, TextToImage.from_pretrained("scenes", device="cpu").text_encoder, model.tokenizer, model.schedule_config, model.defaults)
other.text_encoder.embeddings.token_embedding.weight[7] += 1
assert "another model" in complaint(scene_eval, other, judge, few, images=1, kept=place / "few.json", steps=6)

# %% [markdown]
# ## How good is the shipped model?
#
# One picture for each of the 1200 sentences:

# %%
#| slow
verdicts = scene_eval(model, judge, prompts, images=1)
print(score_table(scores(prompts, verdicts)))

# %% [markdown]
# Which colours and shapes does it miss? Each pair drawn eight times; a star marks those that it was never trained on.

# %%
#| slow
pairs = [(color, shape) for shape in SHAPES for color in COLORS]
hits = scene_eval(model, judge, [Prompt("colors", pair in HELD_OUT, phrase((None, None, *pair), 1, Plain())) for pair in pairs], images=8)
table = torch.tensor([sum(group) for group in hits]).view(4, 10)
figure, axis = plt.subplots(figsize=(6, 2.4)); axis.imshow(table, vmin=0, vmax=8, cmap="RdYlGn")
for i, pair in enumerate(pairs): axis.text(i % 10, i // 10, f"{table.flatten()[i]}" + "*" * (pair in HELD_OUT), ha="center", va="center")
axis.set(xticks=range(10), xticklabels=COLORS, yticks=range(4), yticklabels=SHAPES); plt.xticks(rotation=45); plt.show()

# %% [markdown]
# And what went wrong, with what the judge saw:

# %%
#| slow
wrong = [(i, p) for i, (p, group) in enumerate(zip(prompts, verdicts)) if not group[0]]
wrong = wrong[::max(1, len(wrong) // 16)][:16]
with torch.inference_mode():
    for step in model.stream([p.text for _, p in wrong], seeds=[i for i, _ in wrong], **model.defaults): pass
    drawn = decode(model.vae, step.x)
seen = [" + ".join(f"{o.size} {o.material} {o.color} {o.shape}" for o in reading.objects) or "nothing" for reading in read_scenes(judge, drawn)]
image_grid([picture.resize((112, 112)) for picture in to_pil((drawn + 1) / 2)], 8, labels=[f"{p.text} | {what}" for (_, p), what in zip(wrong, seen)])

# %%
import shutil
shutil.rmtree(place)

# %% [markdown]
# ## What you have now
#
# - `Judge`, `read_scenes`: what is on a picture, with the judge's own errors beside it.
# - `scene_eval_prompts`, `scene_eval`, `scores`: a fixed exam for a model, in nine categories, with intervals; on the command line, `t2i evaluate`.
#
# ## Exercises
#
# **1.** The judge calls a few false sentences satisfied. By how much can that raise a model's score?
#
# <details><summary>Solution</summary>
#
# If a model's true share is $p$, the judge reports about $p\,a+(1-p)\,f$, with $a$ the share of true sentences that it accepts and $f$ that of false ones. With $f$ at one in a hundred, a model that is right half of the time gains half a point, and loses $(1-a)/2$.
#
# </details>
#
# **2.** How many pictures do you need to tell 80% from 82%?
#
# <details><summary>Solution</summary>
#
# The difference of two shares near 0.8 has a standard deviation of $\sqrt{2\cdot0.16/n}$; for 1.96 of them to be 0.02, $n$ is about 3,100 pictures of each model.
#
# </details>
#
# **3.** What does training on spoilt pictures bring? Train a judge without it for three minutes, another with it, and compare both columns, clean and spoilt.
#
# <details><summary>Solution</summary>
#
# `import t2i_nb.evaluation as e; e.spoil = lambda images, generator: images; plain = e.train_judge("plain", config=replace(judge_training(), minutes=3))`, and the same without the second statement. Then `sum(map(agrees, read_scenes(plain, dirty), unseen))`.
#
# </details>
#
# ## Where to read on
#
# - Ghosh et al., *GenEval: an object-focused framework for evaluating text-to-image alignment*, 2023.
# - Zhou et al., *Objects as points*, 2019: the heat map and its loss.
# - Wilson, *Probable inference, the law of succession, and statistical inference*, 1927.
