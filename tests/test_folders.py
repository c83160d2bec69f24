"""Files below a folder, sorted into pictures by the folder that holds them, and what is left out."""

from pathlib import Path

import pytest
from rights import ordinary_user

from fewshot.errors import InputError
from fewshot.folders import class_folder, left_out, look_into, name_of, some


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_pictures_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    root = files(tmp_path, "b/2.jpg", "b/1.PNG", "a/c/x.webp", "a/y.tif", "z.gif")
    found = look_into(root)
    assert [path.relative_to(root).as_posix() for path in found.paths] == [
        "a/c/x.webp", "a/y.tif", "b/1.PNG", "b/2.jpg", "z.gif"
    ]  # fmt: skip
    assert found.labels == ["a/c", "a", "b", "b", ""]
    assert left_out(found) == []


def test_what_is_left_out(tmp_path: Path) -> None:
    root = files(tmp_path, "a/1.jpg", "a/.1.jpg", ".git/b.png", "a/Thumbs.db", "__MACOSX/a/1.jpg", "a/x.txt", "a/jpg")
    found = look_into(root)
    assert found.labels == ["a"]
    assert left_out(found) == [
        "4 hidden files left out (b.png, 1.jpg, .1.jpg and 1 more)",
        "2 files that are no pictures left out (jpg, x.txt)",
    ]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = files(tmp_path / "root", "a/1.jpg")
    (root / "b").symlink_to(files(tmp_path / "other", "2.jpg"))
    (root / "a" / "up").symlink_to(root)
    assert look_into(root).labels == ["a", "b"]


def test_class_folders(tmp_path: Path) -> None:
    assert class_folder(files(tmp_path / "right", "a/1.jpg", "b/c/1.jpg")).labels == ["a", "b/c"]
    with pytest.raises(InputError, match=r"one has one class, a; two are needed to tell apart"):
        class_folder(files(tmp_path / "one", "a/1.jpg"))
    with pytest.raises(InputError, match=r"2 pictures lie in .*loose itself \(1\.jpg, \.\.\.\); put each into a"):
        class_folder(files(tmp_path / "loose", "a/1.jpg", "1.jpg", "2.jpg"))


def test_refused(tmp_path: Path) -> None:
    root = files(tmp_path, "a/1.jpg", "b/x.txt", "c/d/1.jpg")
    (root / "empty").mkdir()
    for name, message in {
        "nowhere": "nowhere does not exist", "a/1.jpg": r"1\.jpg is not a folder", "empty": "no pictures below .*y$",
        "b": r"no pictures below .*b; 1 other files, such as x\.txt",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=message):
            look_into(root / name)
    (root / "c" / "d").chmod(0)
    with ordinary_user(root):
        with pytest.raises(InputError, match=r"c/d may not be read; change its rights"):
            look_into(root)
        with pytest.raises(InputError, match=r"c/d/inner may not be read; change its rights"):
            look_into(root / "c" / "d" / "inner")
    (root / "c" / "d").chmod(0o755)


@pytest.mark.parametrize(
    ("root", "name"), [("a/my pets.v2/", "my pets.v2"), ("a/b/../pets", "pets"), ("a/pets.csv", "pets"), ("/", "")]
)
def test_a_root_is_called_by_its_own_name(root: str, name: str) -> None:
    assert name_of(root) == name


def test_some() -> None:
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some([1, 2, 3, 4, 5]) == "1, 2, 3 and 2 more"
