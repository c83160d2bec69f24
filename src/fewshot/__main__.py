"""`python -m fewshot`, which is what torchrun starts."""

from fewshot.cli import main

main()
