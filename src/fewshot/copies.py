"""Pictures that come a second time, by their pixels. Layer 1; imports no torch."""

from collections import Counter
from collections.abc import Hashable

from fewshot.errors import some


class Copies:
    """What was seen of the pictures of each class, one after the other."""

    def __init__(self) -> None:
        self.left_out: list[str] = []  # names of second pictures of a class
        self._classes: dict[Hashable, list[str]] = {}  # of the same pixels

    def is_new(self, pixels: Hashable, label: str, name: str) -> bool:
        """Whether the class `label` has no picture of these pixels (a hash of them) yet; name: for the notes."""
        classes = self._classes.setdefault(pixels, [])
        if label in classes:
            self.left_out.append(name)
            return False
        classes.append(label)
        return True

    def notes(self) -> list[str]:
        """What a user should know of them, a line each: copies of a class, and pictures of several classes."""
        shared = Counter(tuple(classes) for classes in self._classes.values() if len(classes) > 1)
        copies = [f"{len(self.left_out)} copies of other pictures left out ({some(self.left_out)})"]
        return (copies if self.left_out else []) + [
            f"{count} pictures are in {' and in '.join(classes)}, the same pixels; nothing can tell them apart"
            for classes, count in shared.items()
        ]
