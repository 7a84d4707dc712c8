# %% [markdown]
# ## t2i evaluate
#
# Notebook 23's exam for a model, as a table. What has been judged so far is kept in the JSON file, so that a stopped evaluation goes on when the same command is given again.

# %%
#| export
@main.command(epilog=examples(
    "t2i evaluate --model runs/mine --json scores.json",
    "t2i evaluate --prompts 20 --images 1"))
@click.option("--model", default="scenes", show_default=True, help="A shipped model's name, a model's folder, or OWNER/NAME on the Hugging Face Hub.")
@click.option("--json", "kept", type=click.Path(path_type=Path), help="Write scores and verdicts to this file, and go on from it.")
@click.option("--prompts", "count", type=click.IntRange(1, 100), default=100, show_default=True, help="Sentences of each category.")
@click.option("--images", type=click.IntRange(1), default=4, show_default=True, help="Pictures of each sentence.")
@click.option("--steps", type=int, help="Steps of the sampler.  [default: the model's, 20]")
@click.option("--sampler", help="ddpm, ddim, euler or dpm.  [default: the model's, dpm]")
@click.option("--guidance", type=float, help="How strongly to follow the words; 1 is no guidance.  [default: the model's]")
@click.option("--device", help="cpu or cuda.  [default: cuda where there is one]")
def evaluate(model, kept, count, images, device, **settings):
    "Draw the 1200 sentences of SceneEval, let the judge look at the pictures, and print a table."
    from t2i_nb.evaluation import load_judge, scene_eval, scene_eval_prompts, score_table, scores
    from t2i_nb.pipeline import TextToImage
    from t2i_nb.text import read_json, write_json

    if kept is not None and kept.suffix != ".json": raise ValueError(f"{kept} is no .json file: scores are written as JSON.")
    settings = {name: value for name, value in settings.items() if value is not None}
    pipeline, prompts = TextToImage.from_pretrained(model, device=device), scene_eval_prompts(count)
    lines = scores(prompts, scene_eval(pipeline, load_judge(device=device), prompts, images, kept=kept, **settings))
    if kept is not None: write_json({**read_json(kept), "scores": [line._asdict() for line in lines]}, kept)
    print(score_table(lines))


# %% [markdown]
# The exam for the shipped model, with one sentence of each kind, few steps, and again with nothing left to do:

# %%
exam = ["evaluate", "--prompts", 1, "--images", 1, "--steps", 4, "--device", "cpu", "--json", "scores.json"]
code, output, errors = t2i(*exam)
assert code == 0 and "full sentence" in output, errors
kept = json.loads((place / "scores.json").read_text())
assert len(kept["verdicts"]) == 12 and kept["scores"][0]["category"] == "single object" and t2i(*exam)[1] == output
mistake("another evaluation", *exam[:-1], "scores.json", "--guidance", 5)
mistake("no .json", "evaluate", "--json", "scores.txt")
mistake("no folder", "evaluate", "--json", "nowhere/scores.json")
mistake("no model", "evaluate", "--model", "nothing")

