"""Views of a running experiment. `metrics.jsonl` in the run folder is the truth; these mirror it."""
