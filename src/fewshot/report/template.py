"""The HTML pages: templates that share one head and style. Layer 5."""

from importlib.resources import files
from typing import Any


def render(name: str, **values: Any) -> str:
    """A page of its own, which loads nothing. All values are text, escaped, but for those marked `safe`."""
    import jinja2  # late: a quarter of a second

    folder = files("fewshot.report")
    loader = jinja2.FunctionLoader(lambda file: (folder / file).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, loader=loader
    )
    return environment.get_template(name).render(**values)
