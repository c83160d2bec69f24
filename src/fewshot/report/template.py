"""The HTML pages: templates that share one head and style. Layer 5."""

import re
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
    environment.filters["whole"] = _whole
    return environment.get_template(name).render(**values)


def _whole(text: str) -> Any:
    """A sentence as HTML in which no line ends within a number with its interval or unit, or within a task."""
    from markupsafe import Markup, escape

    pattern = r"\d+-way \d+-shot|[\d.]+( ± [\d.]+)?( (points|%))|[\d.]+ ± [\d.]+"
    return Markup(re.sub(pattern, r'<span class="whole">\g<0></span>', str(escape(text))))
