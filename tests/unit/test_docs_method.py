"""docs/method.md and CONTRIBUTING.md name files and functions: each of them exists; every option of both readings is there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from countryreward.equations.readings import READINGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:\w+/)+\w+\.py)(?:::(\w+))?`", PAGE + GUIDE)))


@cache
def defined_in(path: Path) -> set[str]:
    """Names of functions, methods, classes and module constants."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_what_the_page_names_exists(file: str, name: str) -> None:
    folder = ROOT if file.startswith(("tests/", "jobs/")) else ROOT / "platform" / "countryreward"
    assert (folder / file).is_file()
    assert not name or name in defined_in(folder / file)


def test_the_pages_name_enough() -> None:
    assert len(NAMED) > 80


def test_every_room_of_the_library_has_its_line() -> None:
    library = ROOT / "platform" / "countryreward"
    rooms = {path.name for path in library.iterdir() if (path / "__init__.py").is_file()}
    assert {room for room in rooms if f"`{room}/" not in GUIDE} == set()


def test_both_readings_of_every_option_are_in_the_table() -> None:
    for option, (paper, repaired) in READINGS.items():
        assert re.search(
            rf"^\| `{re.escape(option)}` \|[^|]*\| `{paper}` \| `{re.escape(repaired)}` \|", PAGE, re.MULTILINE
        )


def test_links_lead_somewhere() -> None:
    for page in ("method.md", "data.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([\w./]*)#?([\w-]*)\)", text):
            other = ROOT / "docs" / (target or page)
            assert other.is_file(), target
            headings = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in slugs, anchor
