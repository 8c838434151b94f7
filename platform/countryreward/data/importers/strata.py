"""Which part of a creative's showing a row is: strata and days from the columns of platforms, and rows that sum up others.

The headers by which platforms call these columns stand here and nowhere else.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from countryreward.data.importers.parsing import MISSING_WORDS
from countryreward.data.importers.table_files import RawTable
from countryreward.data.tables import STRATA

HEADERS: dict[str, tuple[str, ...]] = {
    "placement": (
        "placement", "placement type", "publisher platform", "platform", "platform position", "network",
        "network type", "ad network type", "network (with search partners)", "publisher", "inventory", "ad slot", "site",
        "top vs other", "top vs. other",
    ),
    "device": (
        "device", "device type", "device category", "device platform", "platform (device)", "impression device",
        "conversion device", "operating system", "os",
    ),
    "ad_set": (
        "ad set", "ad set id", "ad set name", "adset", "adset id", "adset name", "ad group", "ad group id",
        "ad group name", "adgroup", "adgroup id", "adgroup name", "line item", "line item id", "line item name",
        "campaign", "campaign id", "campaign name",
    ),
    "audience": (
        "audience", "audience name", "audience segment", "targeting", "age", "age range", "age group", "gender", "sex",
        "region", "region (user location)", "province", "city", "city (user location)", "dma", "dma region",
        "metro area", "language", "interest", "income", "household income", "parental status", "new or returning",
    ),
}  # fmt: skip
"""Stratum -> headers of columns that tell it, in the form of `plain`."""

PERIODS: dict[str, str] = {
    **dict.fromkeys((
        "day", "date", "date range", "start date (in utc)", "date (utc)", "report date", "reporting date", "stat date",
        "event date", "activity date", "tag", "datum", "jour", "fecha", "día", "dia", "data", "giorno", "dag", "dato",
        "päivä", "päivämäärä", "dzień", "den", "gün", "tarih", "дата", "день", "日付", "日期", "日", "날짜", "일자", "일",
    ), "day"),
    **dict.fromkeys((
        "week", "week start", "week starting", "week of", "week (monday to sunday)", "woche", "semaine", "semana",
        "settimana", "vecka", "uge", "uke", "viikko", "tydzień", "týden", "hafta", "неделя", "週", "周", "주",
    ), "week"),
    **dict.fromkeys((
        "month", "month of", "monat", "mois", "mes", "mese", "mês", "maand", "månad", "måned", "kuukausi", "miesiąc",
        "měsíc", "ay", "месяц", "月", "月份", "월",
    ), "month"),
}  # fmt: skip
"""Headers of columns of periods -> how long a period is whose cell says its first day alone; the finest first."""

OTHERWISE: tuple[str, ...] = ("tag", "data", "den", "dag", "dia", "mes", "ay", "일", "日", "月", "주", "周")
"""Of those the headers that mean something else, too: of periods only where most cells are dates."""

PERIOD_ENDS: dict[str, str] = {
    "reporting starts": "reporting ends",
    "period start": "period end",
    "period starts": "period ends",
    "date start": "date stop",
}
"""Headers of a row's first day -> that of its last, used where both are there and no period columns."""

HOURS: tuple[str, ...] = (
    "hour", "hour of day", "hour of the day", "time", "time of day", "time of the day", "hourly stats", "daypart",
    "stunde", "uhrzeit", "heure", "hora", "ora", "uur", "timme", "time slot", "час", "時間", "時刻", "小时", "시간",
)  # fmt: skip
"""Headers of columns that tell the parts of a day."""

REPEATED: tuple[str, ...] = (
    "conversion action", "conversion action name", "conversion action category", "conversion name", "conversion type",
    "conversion category", "conversion source", "conversion event", "conversion window", "action type", "event",
    "event name", "event type", "goal", "result type", "result indicator", "attribution window", "attribution setting",
    "attribution model", "click type", "asset", "asset id", "asset name", "asset type", "extension", "extension type",
    "carousel card", "card",
)  # fmt: skip
"""Headers of columns in whose rows platforms count the same impressions again: such rows are no parts."""

ROW_IDS: tuple[str, ...] = (
    "", "#", "row", "row id", "row number", "row no", "index", "no", "no.", "nr", "nr.", "line", "line number",
    "record", "record id", "record number", "uuid", "guid", "key", "exported at", "export time", "downloaded at",
    "extracted at", "loaded at", "ingested at", "synced at", "fetched at", "last updated", "updated at",
    "airbyte extracted at", "airbyte raw id", "fivetran synced",
    "file", "file name", "filename", "unnamed: 0", "index level 0",
)  # fmt: skip
"""Headers of columns that number the rows or say when and where they were written: no part of what a row says."""

_PARTS = (
    "(?:ad groups?|ad sets?|adsets?|ads?|ages?|age groups?|age ranges?|audiences?|campaigns?|cities|countries|creatives?|days?|"
    "devices?|device types?|dmas?|genders?|languages?|markets?|networks?|placements?|platforms?|positions?|products?|"
    "regions?|rows?|states?|traffic)"
)
_ALL = re.compile(
    rf"\(?all\)?(?:\s+{_PARTS})?|alle(?: geräte)?|tous|toutes|tous les appareils|todos|todas|todos los dispositivos"
    r"|todos os dispositivos|tutti|tutte|alla|kaikki|wszystkie|všechny|všechna|összes|tümü|hepsi|все|усі"
    r"|すべて|全て|全部|所有|전체|모두"
)
_TOTAL = re.compile(
    rf"(?:(?:grand|sub|report|overall|account|campaign|ad group|ad set)[ -]?)?totals?(?:\s*[:(–—-].*|\s+of\s+\d.*|\s+{_PARTS})?"
    r"|summary|sum|overall|combined|gesamt|gesamtsumme|gesamtergebnis|summe|insgesamt|total général|somme|ensemble"
    r"|total general|suma|suma total|totale|totale generale|totale complessivo|somma|totaal|eindtotaal|totalt|summa|totalsumma"
    r"|i alt|ialt|sammenlagt|yhteensä|summa yhteensä|ogółem|razem|suma końcowa|łącznie|celkem|celkový součet|součet|spolu"
    r"|összesen|végösszeg|toplam|genel toplam|ukupno|skupaj|kokku|kopā|iš viso|total general|συνολο|σύνολο|γενικό σύνολο"
    r"|итого|всего|общий итог|общо|разом|всього|усього|jumlah|tổng|tổng cộng|รวม|ทั้งหมด|المجموع|الإجمالي|סה\"כ|कुल"
    r"|合計|総計|総合計|小計|总计|總計|合计|合計|小计|总和|總和|합계|총계|총합계|소계"
)

NAMED: tuple[str, ...] = ("audience", "audience name", "audience segment", "targeting", "interest")
"""Headers of audiences that people name; so are ad sets and campaigns. One that is called All may be a broad one."""

SETTINGS: tuple[str, ...] = (*NAMED, "language")
"""Headers of columns that may say how an ad was set up instead of which part of its showing a row is."""


def plain(header: str) -> str:
    """A header as the lists of this module write it: composed form, lower case, single spaces for `_`, `-` and white space."""
    return " ".join(re.sub(r"[_\s-]+", " ", unicodedata.normalize("NFC", header)).lower().split())


def is_total(text: pd.Series) -> pd.Series:
    """Cells that say they sum up others: Total, Total: Ads, All devices, 合計; but not Total Comfort, which is a name."""
    return _matches(text, _TOTAL) | says_all(text)


def says_all(text: pd.Series) -> pd.Series:
    """Cells such as All and All devices, which may also be what somebody called something."""
    return _matches(text, _ALL)


def _matches(text: pd.Series, pattern: re.Pattern[str]) -> pd.Series:
    return text.isin(
        [cell for cell in text.dropna().unique() if pattern.fullmatch(" ".join(cell.lower().strip(" :").split()))]
    )


@dataclass(frozen=True, kw_only=True)
class Strata:
    """The columns of a file that say which part of a creative's showing a row is."""

    columns: Mapping[str, Mapping[str, pd.Series]]
    """Stratum -> the file's header -> its cells, in the file's order."""
    notes: tuple[str, ...] = ()
    """What was decided about the columns, in sentences."""

    def cells(self) -> Iterator[tuple[str, str, pd.Series]]:
        """Stratum, header and cells of each column."""
        for stratum, found in self.columns.items():
            for name, text in found.items():
                yield stratum, name, text

    @property
    def recognised(self) -> dict[str, list[str]]:
        """Stratum -> headers of those that nobody mapped."""
        return {
            stratum: names
            for stratum, found in self.columns.items()
            if (names := [name for name in found if name != stratum])
        }

    def frame(self, index: pd.Index) -> pd.DataFrame:
        """One text per stratum: the cell, or `Age=25-34; Gender=f` where several columns tell one; missing where none does."""
        return pd.DataFrame({stratum: _joined(self.columns.get(stratum, {}), index) for stratum in STRATA})


def read_strata(raw: RawTable) -> Strata:
    """The mapped strata, and of the others those whose header is known."""
    columns: dict[str, dict[str, pd.Series]] = {}
    for stratum in STRATA:
        if stratum in raw.frame:
            if raw.column(stratum).notna().any():
                columns[stratum] = {stratum: raw.column(stratum).str.strip()}
            continue
        named = [name for name in raw.others if plain(name) in HEADERS[stratum]]
        found = {name: cells for name in named if (cells := read_cells(raw, name)).notna().any()}
        if found:
            columns[stratum] = found
    return Strata(columns=columns)


def without_settings(strata: Strata, rows: pd.DataFrame, products: pd.Series | None) -> Strata:
    """The strata without recognised columns that tell no part of a showing, which `notes` names.

    Numbers, nearly all different or one for each creative, are a measure (income, the days of an ad). A setting (`SETTINGS`)
    that each creative of a product has to itself compares nothing. rows: creative_id and market. products: creative -> product;
    without, settings stay.
    """
    columns: dict[str, dict[str, pd.Series]] = {}
    notes = list(strata.notes)
    for stratum, name, text in strata.cells():
        reason = ""
        if name != stratum or plain(name) in SETTINGS:
            if stratum != "ad_set" and not plain(name).endswith(" id") and _is_measure(text, rows["creative_id"]):
                reason = "holds a number of its own in each row or for each creative"
            elif plain(name) in SETTINGS and products is not None and _is_setting(text, rows, products):
                reason = "has a value of its own for each creative of a product"
        if reason:
            notes.append(f"{name} {reason}: it is not used as a part of the showing ({stratum})")
        else:
            columns.setdefault(stratum, {})[name] = text
    return Strata(columns=columns, notes=tuple(notes))


def _is_measure(text: pd.Series, creatives: pd.Series) -> bool:
    filled = text[text.notna() & ~is_total(text)]
    creative = creatives[filled.index]
    if filled.empty or creative.nunique() < 2 or filled.nunique() < 2:
        return False
    if not filled.str.fullmatch(r"[^\w]*[0-9][0-9.,'\s]*[^\w]*").all():
        return False
    return bool(filled.nunique() >= 0.9 * len(filled) or filled.groupby(creative).nunique().max() == 1)


def _is_setting(text: pd.Series, rows: pd.DataFrame, products: pd.Series) -> bool:
    told = pd.DataFrame({
        "creative": rows["creative_id"], "of": rows["creative_id"].map(products), "market": rows["market"], "value": text,
    }).dropna().drop_duplicates()  # fmt: skip
    alone = not told.duplicated(["creative", "market"]).any() and not told.duplicated(["of", "market", "value"]).any()
    return alone and bool(told.duplicated(["of", "market"]).any())


def read_cells(raw: RawTable, name: str) -> pd.Series:
    """A column that nobody mapped, its words that mean an empty cell missing."""
    words = MISSING_WORDS | {word.strip().lower() for word in raw.source.missing}
    cells = raw.other(name)
    return cells.where(~cells.str.lower().isin(words))


def _joined(columns: Mapping[str, pd.Series], index: pd.Index) -> pd.Series:
    if not columns:
        return pd.Series(None, index=index, dtype="str")
    if len(columns) == 1:
        return next(iter(columns.values()))
    combinations = pd.DataFrame(columns)
    code = combinations.groupby(list(combinations), dropna=False, sort=False).ngroup()
    distinct = combinations.drop_duplicates()
    texts = [
        "; ".join(f"{name}={cell}" for name, cell in zip(combinations, row, strict=True) if isinstance(cell, str))
        for row in distinct.itertuples(index=False, name=None)
    ]
    return code.map(dict(zip(code.loc[distinct.index], (text or None for text in texts), strict=True))).astype("str")
