"""`python -m fewshot`, which is what torchrun starts."""

import sys

sys.path.pop(0)  # Python has put the working directory first: a `random.py` there would stand in for the library's

from fewshot.cli import main

main()
