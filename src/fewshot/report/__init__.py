"""Views of run folders. Reads result.json, metrics.jsonl and config.yaml; nothing else of the project's state."""
