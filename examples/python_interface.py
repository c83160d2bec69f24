# %% [markdown]
# # fewshot from Python
# Cells as in a notebook (VS Code, Jupyter with jupytext); as a script it runs from top to bottom in half a minute:
# `python examples/python_interface.py`.

# %% A short training: the words are those of `fewshot train`. Nothing is downloaded.
import fewshot
from fewshot.errors import InputError

short = ["trainer.steps=30", "trainer.val_every=15", "evaluation.episodes=100"]
run = fewshot.train(["algorithm=protonet", "logger=console", *short])
print(run, run.result["test"])

# %% What it logged, as a list of rows; as a data frame where pandas is installed.
print(run.metrics[-1])
try:
    print(run.metrics_frame().filter(like="val/").dropna())
except InputError as error:
    print(error)

# %% The same weights under other protocols: keys as on the command line.
for ways, shots in ((5, 5), (10, 1)):
    test = run.evaluate(ways=ways, shots=shots)["test"]
    print(f"{ways}-way {shots}-shot: {test['accuracy']:.1f} ± {test['accuracy_ci95']:.1f} %")

# %% Any run folder, by its path: this one, or one from last month.
run = fewshot.load(run.path)

# %% A classifier for pictures of new classes: paths, PIL images or uint8 arrays of any size.
from PIL import Image, ImageDraw  # noqa: E402


def drawing(shape: str, size: int, shift: int) -> Image.Image:
    """White on black, as the images that this run was trained on."""
    picture = Image.new("L", (size, size))
    box = (size // 5 + shift, size // 5, size * 4 // 5 + shift, size * 4 // 5)
    draw = ImageDraw.Draw(picture)
    draw.ellipse(box, outline=255, width=size // 12) if shape == "ring" else draw.rectangle(box, fill=255)
    return picture


pictures = [drawing("ring", 40, 0), drawing("ring", 64, 3), drawing("square", 50, 2)]
classifier = run.fit(pictures, ["ring", "ring", "square"])

# %% scikit-learn's words: classes_, predict, predict_proba.
queries = [drawing("square", 90, 5), drawing("ring", 30, 1)]
print(classifier.classes_, classifier.predict(queries))
print(classifier.predict_proba(queries).round(2))
