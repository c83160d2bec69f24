"""`fewshot export support=DIR out=FILE.onnx`: a classifier for own pictures as one file. Layer 6."""

import tempfile
from pathlib import Path

from fewshot.cli.own_pictures import OF_BOTH, Words, feature_cache, progress
from fewshot.cli.words import check_writable, writing

HELP = f"""fewshot export support=DIR out=FILE [run=RUN] [KEY=VALUE ...]: a classifier that runs without fewshot

  out=FILE         FILE.onnx (ONNX) or FILE.pt2 (torch.export); it is run on the support pictures at once
{OF_BOTH}"""
TRIED = 500  # support pictures, at most, that the file is run on


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0
    words = Words("export", argv, {"out": None}, {"support": "DIR", "out": "FILE.onnx"})
    path, words.keys["device"] = Path(words.keys["out"]), "cpu"

    import numpy as np

    from fewshot import __version__
    from fewshot.decoding import decode, read
    from fewshot.own_pictures import exported
    from fewshot.own_pictures.prediction import learn
    from fewshot.own_pictures.scores import accuracy, has_others, scale_of, softmax

    exported.check_ending(path)
    check_writable(path)
    cache = feature_cache(words)
    method = cache.method
    learned, features = learn(Path(words.keys["support"]), cache, skip=words.keys["unreadable"] == "skip",
                              progress=progress)  # fmt: skip
    ways = len(learned.names)
    tried = np.unique(np.linspace(0, len(learned.y) - 1, TRIED, dtype=int))  # of all classes
    judged = cache.judge(features, learned.y, ways, features[tried])
    scale, rules = scale_of(judged.left_out, learned.y), dict(method.rules)
    inverted = rules.pop("inverted")
    shown = [learned.paths[i] for i in tried]
    images = [method.images(decode(read(path), str(path))).transpose(1, 2, 0) for path in shown]
    pictures = np.ascontiguousarray(255 - np.stack(images) if inverted else np.stack(images))
    model = exported.Exported(method.fitted(features, learned.y, ways), scale=scale, inverted=inverted)
    metadata = {"classes": learned.names, **rules, "temperature": 1 / scale, "fewshot": __version__}
    # beside its place: what was there before stays until the new one is checked
    with writing(path), tempfile.TemporaryDirectory(prefix=".export-", dir=path.resolve().parent) as folder:
        new = Path(folder) / path.name
        exported.write(new, model, pictures[:2], metadata)
        found = exported.checked(new, pictures, softmax(scale * judged.query))
        new.replace(path.resolve())
    for note in learned.notes:
        print(note)
    told = has_others(learned.y)
    if expected := accuracy(judged.left_out[told].argmax(-1) == learned.y[told]):
        print(f"expected accuracy: {expected}, each support picture judged by the others")
    print(f"{path}: {ways} classes, {found.megabytes:.1f} MB, {1000 * found.seconds:.1f} ms a picture")
    of = f"{len(pictures)}" if len(pictures) == len(learned.y) else f"{len(pictures)} of {len(learned.y)}"
    print(f"largest difference to fewshot's probabilities, {of} support pictures: {found.difference:.1g}")
    return 0
