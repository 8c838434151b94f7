"""Markets that are no countries: read from a user's YAML file, carried on by artifacts as market_table.json.

An artifact that is made from others has their markets, too (`artifacts.publish`), and who opens one knows them (`open_artifact`).
"""

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from countryreward import markets
from countryreward.errors import UserError
from countryreward.markets import Market

MARKET_TABLE = "market_table.json"
_FIELDS = ("code", "name", "adjective", "phrase", "parents")


def read_market_file(path: str | Path) -> tuple[Market, ...]:
    """The markets of a YAML file: a list of entries with code, or a mapping of codes to entries; alone or under `markets`.

    An entry has name, adjective (or phrase; without either the name) and parents. Every value is text: NO is Norway, not false.
    Raises `UserError` naming file, market, field and value.
    """
    import yaml

    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise UserError(f"markets: {str(path)!r} cannot be read ({error.strerror}); give a YAML file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"markets: {str(path)!r} is no YAML in UTF-8 ({' '.join(str(error).split())}); correct it"
        ) from None
    if isinstance(content, dict) and list(content) == ["markets"]:
        content = content["markets"]
    if isinstance(content, dict):
        content = [{"code": code, **_fields(entry, code)} for code, entry in content.items()]
    if not isinstance(content, list) or not content:
        raise UserError(
            f"markets: {str(path)!r} holds no markets; write such as EU: {{name: Europe, adjective: European}}"
        )
    entries = [_fields(entry, f"number {number}") for number, entry in enumerate(content, start=1)]
    codes = [str(entry.get("code", "")) for entry in entries]
    if repeated := sorted({code for code in codes if codes.count(code) > 1}):
        raise UserError(f"markets.{repeated[0]}: {str(path)!r} has it twice; leave one out")
    return tuple(_market(entry, codes) for entry in entries)


def define_market_file(path: str | Path, folder: Path) -> None:
    """Make the markets of a file known, and write them into the folder of a dataset. Raises `UserError`."""
    given = read_market_file(path)
    markets.define(given)
    write_market_table(given, folder)


def write_market_table(given: Iterable[Market], folder: Path) -> None:
    """market_table.json, of different markets; none is written where there are none."""
    table = {market.code: asdict(market) for market in given}
    if table:
        text = json.dumps([table[code] for code in sorted(table)], indent=1, ensure_ascii=False) + "\n"
        (folder / MARKET_TABLE).write_text(text, encoding="utf-8")


def read_market_table(folder: Path) -> tuple[Market, ...]:
    """The markets in an artifact's folder; none where there is no table. Raises `UserError` for a damaged one."""
    path = folder / MARKET_TABLE
    if not path.is_file():
        return ()
    try:
        return tuple(as_market(entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"markets: {path} is damaged ({error}); rebuild the artifact") from None


def as_market(entry: dict[str, Any]) -> Market:
    """From the plain form of one (`dataclasses.asdict`), as JSON has it."""
    return Market(code=entry["code"], name=entry["name"], adjective=entry["adjective"], parents=tuple(entry["parents"]))


def _fields(entry: Any, named: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(f"markets: {named} is {entry!r}; write name, adjective and parents of it")
    if unknown := [field for field in entry if field not in _FIELDS]:
        raise UserError(f"markets: {named} has {unknown[0]!r}; the fields are {', '.join(_FIELDS)}")
    return entry


def _market(entry: dict[str, Any], codes: list[str]) -> Market:
    code, name = _text(entry, "code", ""), _text(entry, "name", "")
    if not code or not name:
        raise UserError(f"markets: {entry!r} lacks {'code' if not code else 'name'}; write it")
    if "adjective" in entry and "phrase" in entry:
        raise UserError(f"markets.{code}: it has an adjective and a phrase, which are one thing; leave one out")
    adjective = _text(entry, "phrase", "") or _text(entry, "adjective", "") or name
    given = entry.get("parents") or []
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(parent, str) for parent in listed):
        raise UserError(f"markets.{code}.parents: {given!r} is no list of codes; write such as [DE, FR]")
    parents = dict.fromkeys(_parent(parent, codes) for parent in listed)
    return Market(code=code, name=name, adjective=adjective, parents=tuple(parents))


def _parent(text: str, codes: list[str]) -> str:
    """The code of a market of the file or of a country; anything else as it is, for `markets.define` to refuse."""
    return next((code for code in codes if code.casefold() == text.casefold()), markets.parse_country(text) or text)


def _text(entry: dict[str, Any], field: str, without: str) -> str:
    value = entry.get(field, without)
    if not isinstance(value, str):
        raise UserError(f"markets: {field} is {value!r}; write one text")
    return " ".join(unicodedata.normalize("NFC", value).split())
