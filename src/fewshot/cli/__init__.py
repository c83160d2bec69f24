"""The command line: the first word picks the verb, the rest is Hydra's grammar. Layer 6.

Only the standard library is imported here, so that `fewshot --help` answers at once.
"""

import importlib
import io
import os
import sys
from pathlib import Path

VERBS = {
    "train": "learn, test once, and leave a complete record",
    "evaluate": "test run=FOLDER again: other ways, shots, split or data",
    "predict": "own pictures: label those of query=DIR by the few of support=DIR",
    "export": "the classifier of support=DIR as one file, ONNX or torch.export",
    "report": "tables, curves and pictures of run folders, two runs in pairs",
    "data": "list, prepare, verify, or show a data set",
    "check": "machine, data, and the meta-gradient of the configured model",
}

USAGE = """fewshot: few-shot meta-learning from configs

  fewshot train algorithm=maml                        a minute, no download
  fewshot train -m algorithm=maml,protonet shots=1,5  a sweep
  fewshot evaluate run=outputs/train/... shots=5      with another protocol
  fewshot predict support=DIR query=DIR               own pictures, no training
  fewshot export support=DIR out=model.onnx           the same for use elsewhere
  fewshot report outputs --html report.html           all runs on one page
  fewshot data show omniglot                          look at episodes

Verbs:
{verbs}

`fewshot VERB --help` lists its groups and keys; `--cfg job` prints the
configuration, `--info` more; `--debug` shows the trace of an error.
Completion: eval "$(fewshot -sc install=bash)"
"""


def usage() -> str:
    return USAGE.format(verbs="\n".join(f"  {verb:<10}{text}" for verb, text in VERBS.items()))


def main(argv: list[str] | None = None) -> None:
    """Console script: runs a verb and exits with its code (0 ok, 1 failed, 2 bad input, 75, 130)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-sc"], ["--shell-completion"]):
        from fewshot.cli.completion import answer

        words = answer(words)
    from fewshot.cli.errors import finish, guarded
    from fewshot.signals import end_at_once_from_here

    for name in ("stdout", "stderr"):  # closed (`>&-`): the next file that is opened would be written in their place
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  as long as the process
    for stream in (sys.stdout, sys.stderr):  # where it knows no ±, or a folder's name is no text: a `?`, not an error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if argv is None:  # as the console script: Ctrl-C in the middle of an import would come out as another error
        end_at_once_from_here()
    verb, *rest = words or ["help"]
    if verb in ("-h", "--help", "help", "--version"):
        finish(guarded(lambda: print(_version() if verb == "--version" else usage()) or 0, debug=False))
    if message := _unknown(verb) or _misplaced(verb) or _nowhere():
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    if verb != "report":  # a report reads records and imports nothing of the user's
        sys.path.append(str(Path.cwd()))  # `_target_: my.module.MyNet`; last: no file there stands in for another
    debug = "--debug" in rest

    def run() -> int:
        return importlib.import_module(f"fewshot.cli.{verb}").main([word for word in rest if word != "--debug"])

    finish(guarded(run, debug=debug))


def _version() -> str:
    from fewshot import __version__

    return f"fewshot {__version__}"


def _unknown(verb: str) -> str | None:
    """The error message for a first word that is no verb."""
    if verb in VERBS:
        return None
    import difflib

    near = difflib.get_close_matches(verb, VERBS)
    hint = f"did you mean '{near[0]}'?" if near else f"verbs are: {', '.join(VERBS)}"
    return f"'{verb}' is not a verb of fewshot; {hint}"


def _misplaced(verb: str) -> str | None:
    """The error message where the environment asks for several processes, but incompletely or for the wrong verb."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return None
    if not size.isdecimal() or not int(size):
        return f"WORLD_SIZE={size} is not a number of processes; unset it, or start by torchrun"
    needed = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [word for word in needed if not os.environ.get(word)]:
        return (
            f"WORLD_SIZE={size} without {', '.join(missing)}; start several processes by torchrun, or unset WORLD_SIZE"
        )
    if wrong := [word for word in needed if word != "MASTER_ADDR" and not os.environ[word].isdecimal()]:
        return (
            f"{wrong[0]}={os.environ[wrong[0]]} is no number; start several processes by torchrun, or unset WORLD_SIZE"
        )
    if verb != "train":
        if os.environ["RANK"] != "0":
            sys.exit(2)
        return f"'fewshot {verb}' runs in one process; start it without torchrun"
    return None


def _nowhere() -> str | None:
    """The error message where the working directory was deleted."""
    try:
        Path.cwd()
    except OSError as error:
        return f"the working directory cannot be read ({error.strerror}); cd to another"
    return None
