"""The command line: the first word picks the verb, the rest is Hydra's grammar. Layer 6.

Only the standard library is imported here, so that `fewshot --help` answers at once.
"""

import importlib
import os
import sys
from pathlib import Path

VERBS = {
    "train": "learn, test once, and leave a complete record",
    "evaluate": "test a trained run again: other ways, shots, split, data (run=FOLDER)",
    "report": "tables, curves and pictures of run folders (--html FILE), two runs in pairs",
    "data": "list, prepare, verify, or show a data set",
    "check": "machine, data, and the meta-gradient of the configured model",
}

USAGE = """fewshot: few-shot meta-learning from configs

  fewshot train algorithm=maml                              about a minute, nothing to download
  fewshot train -m algorithm=maml,protonet shots=1,5        a sweep
  fewshot evaluate run=outputs/train/... shots=5            the same checkpoint under another protocol
  fewshot report outputs --html report.html                 what all runs reached, in one page
  fewshot data show omniglot                                look at episodes

Verbs:
{verbs}

`fewshot VERB --help` lists its configuration groups; `--cfg job` prints the configuration, `--info` more.
`--debug` shows the trace of an error. Completion: eval "$(fewshot -sc install=bash)"
"""


def usage() -> str:
    return USAGE.format(verbs="\n".join(f"  {verb:<10}{text}" for verb, text in VERBS.items()))


def main(argv: list[str] | None = None) -> None:
    """Console script: runs a verb and exits with its code (0 ok, 1 failed, 2 bad input, 75, 130)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-sc"], ["--shell-completion"]):
        from fewshot.cli.completion import answer

        words = answer(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0)
    if words[0] == "--version":
        from fewshot import __version__

        print(f"fewshot {__version__}")
        sys.exit(0)
    verb, *rest = words
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS)
        hint = f"did you mean '{near[0]}'?" if near else f"verbs are: {', '.join(VERBS)}"
        print(f"error: '{verb}' is not a verb of fewshot; {hint}", file=sys.stderr)
        sys.exit(2)
    if verb != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if os.environ.get("RANK") == "0":
            print(f"error: 'fewshot {verb}' runs in one process; start it without torchrun", file=sys.stderr)
        sys.exit(2)
    sys.path.insert(0, str(Path.cwd()))  # so that `_target_: my.module.MyNet` finds the user's own files
    debug = "--debug" in rest
    from fewshot.cli.errors import guarded

    def run() -> int:
        return importlib.import_module(f"fewshot.cli.{verb}").main([word for word in rest if word != "--debug"])

    sys.exit(guarded(run, debug=debug))
