"""The markets: code, name, the adjective used in prompts, and which markets a prompt names.

A market is a country, by its ISO 3166-1 alpha-2 code, or one that a user defined: a region, a language, a segment. Names of
countries come from pycountry, loaded when first asked for; adjectives are one table of ours. What is defined holds for the
process; artifacts carry it on (`data/market_table.py`).
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from countryreward.errors import UserError

DEFAULT_MARKETS = ("BR", "CL", "ES", "FR", "KR", "JP", "US", "MX", "AU", "SA")
"""The paper's ten markets (its section 4.1 forgets KR)."""

# One entry per ISO 3166-1 country. Places without an adjective of their own carry their name, used attributively.
_ADJECTIVES = """
AD Andorran; AE Emirati; AF Afghan; AG Antiguan and Barbudan; AI Anguillan; AL Albanian; AM Armenian; AO Angolan;
AQ Antarctic; AR Argentine; AS American Samoan; AT Austrian; AU Australian; AW Aruban; AX Åland; AZ Azerbaijani;
BA Bosnian; BB Barbadian; BD Bangladeshi; BE Belgian; BF Burkinabe; BG Bulgarian; BH Bahraini; BI Burundian;
BJ Beninese; BL Barthelemois; BM Bermudian; BN Bruneian; BO Bolivian; BQ Bonairean; BR Brazilian; BS Bahamian;
BT Bhutanese; BV Bouvet Island; BW Botswanan; BY Belarusian; BZ Belizean; CA Canadian; CC Cocos Islander;
CD Congolese; CF Central African; CG Congolese; CH Swiss; CI Ivorian; CK Cook Islander; CL Chilean; CM Cameroonian;
CN Chinese; CO Colombian; CR Costa Rican; CU Cuban; CV Cape Verdean; CW Curaçaoan; CX Christmas Island; CY Cypriot;
CZ Czech; DE German; DJ Djiboutian; DK Danish; DM Dominican; DO Dominican; DZ Algerian; EC Ecuadorian; EE Estonian;
EG Egyptian; EH Sahrawi; ER Eritrean; ES Spanish; ET Ethiopian; FI Finnish; FJ Fijian; FK Falkland Islander;
FM Micronesian; FO Faroese; FR French; GA Gabonese; GB British; GD Grenadian; GE Georgian; GF French Guianese;
GG Guernsey; GH Ghanaian; GI Gibraltarian; GL Greenlandic; GM Gambian; GN Guinean; GP Guadeloupean;
GQ Equatorial Guinean; GR Greek; GS South Georgia; GT Guatemalan; GU Guamanian; GW Bissau-Guinean; GY Guyanese;
HK Hong Kong; HM Heard Island; HN Honduran; HR Croatian; HT Haitian; HU Hungarian; ID Indonesian; IE Irish;
IL Israeli; IM Manx; IN Indian; IO British Indian Ocean Territory; IQ Iraqi; IR Iranian; IS Icelandic; IT Italian;
JE Jersey; JM Jamaican; JO Jordanian; JP Japanese; KE Kenyan; KG Kyrgyz; KH Cambodian; KI I-Kiribati; KM Comorian;
KN Kittitian and Nevisian; KP North Korean; KR Korean; KW Kuwaiti; KY Caymanian; KZ Kazakh; LA Lao; LB Lebanese;
LC Saint Lucian; LI Liechtenstein; LK Sri Lankan; LR Liberian; LS Basotho; LT Lithuanian; LU Luxembourgish;
LV Latvian; LY Libyan; MA Moroccan; MC Monegasque; MD Moldovan; ME Montenegrin; MF Saint-Martinois; MG Malagasy;
MH Marshallese; MK Macedonian; ML Malian; MM Burmese; MN Mongolian; MO Macanese; MP Northern Mariana Islander;
MQ Martinican; MR Mauritanian; MS Montserratian; MT Maltese; MU Mauritian; MV Maldivian; MW Malawian; MX Mexican;
MY Malaysian; MZ Mozambican; NA Namibian; NC New Caledonian; NE Nigerien; NF Norfolk Island; NG Nigerian;
NI Nicaraguan; NL Dutch; NO Norwegian; NP Nepali; NR Nauruan; NU Niuean; NZ New Zealand; OM Omani; PA Panamanian;
PE Peruvian; PF French Polynesian; PG Papua New Guinean; PH Philippine; PK Pakistani; PL Polish;
PM Saint-Pierrais and Miquelonnais; PN Pitcairn Islander; PR Puerto Rican; PS Palestinian; PT Portuguese; PW Palauan;
PY Paraguayan; QA Qatari; RE Réunionese; RO Romanian; RS Serbian; RU Russian; RW Rwandan; SA Saudi;
SB Solomon Islander; SC Seychellois; SD Sudanese; SE Swedish; SG Singaporean; SH Saint Helenian; SI Slovenian;
SJ Svalbard; SK Slovak; SL Sierra Leonean; SM Sammarinese; SN Senegalese; SO Somali; SR Surinamese;
SS South Sudanese; ST São Toméan; SV Salvadoran; SX Sint Maartener; SY Syrian; SZ Swazi;
TC Turks and Caicos Islander; TD Chadian; TF French Southern Territories; TG Togolese; TH Thai; TJ Tajik;
TK Tokelauan; TL Timorese; TM Turkmen; TN Tunisian; TO Tongan; TR Turkish; TT Trinidadian and Tobagonian;
TV Tuvaluan; TW Taiwanese; TZ Tanzanian; UA Ukrainian; UG Ugandan; UM U.S. Outlying Islands; US American;
UY Uruguayan; UZ Uzbek; VA Vatican; VC Vincentian; VE Venezuelan; VG British Virgin Islander;
VI U.S. Virgin Islander; VN Vietnamese; VU Vanuatuan; WF Wallisian and Futunan; WS Samoan; YE Yemeni; YT Mahoran;
ZA South African; ZM Zambian; ZW Zimbabwean
"""

# Adjectives a prompt may use instead, and shared ones: one adjective may mean several codes.
_OTHER_ADJECTIVES = """
AE UAE; AE Emirian; AG Antiguan; AR Argentinian; AR Argentinean; BA Herzegovinian; BB Bajan; BF Burkinabé;
BL Barthélemois; CY Cypriote; DO Dominican Republic; EH Western Saharan; FJ Fiji; FO Faeroese; GB UK; GB English;
GB Scottish; GB Welsh; GB Northern Irish; GQ Guinean; GW Guinean; GR Hellenic; HK Hongkonger; IR Persian;
KG Kyrgyzstani; KP Korean; KR South Korean; KZ Kazakhstani; LA Laotian; LU Luxembourger; MK North Macedonian;
MM Myanma; MO Macau; NE Nigerois; NL Netherlandish; NP Nepalese; NZ New Zealander; PH Filipino; PK Pakistan;
RE Reunionese; SA Saudi Arabian; SV Salvadorean; TL East Timorese; TT Trinidadian; UZ Uzbekistani; US US; US USA;
VG Virgin Islander; VI Virgin Islander; VU Ni-Vanuatu; YT Mahorais; TJ Tajikistani; TM Turkmenistani; SZ Eswatini
"""

# Names and spellings that pycountry does not list.
_OTHER_NAMES = """
AE UAE; AE Emirates; BN Brunei; BO Bolivia; BQ Caribbean Netherlands; BQ Bonaire; CC Cocos Islands; CD DR Congo; CD DRC;
CD Congo-Kinshasa; CD Democratic Republic of the Congo; CG Congo-Brazzaville; CG Republic of the Congo; CG Congo;
CI Ivory Coast; CV Cape Verde; CZ Czech; FK Malvinas; FK Falklands; FM Micronesia; GB UK; GB Great Britain;
GB Britain; GB England; GB Scotland; GB Wales; GB Northern Ireland; GR EL; HK Hong Kong SAR; HK Hongkong; IE Eire;
IE Republic of Ireland; IE Southern Ireland; KP DPRK; KR Korea; KR Korea South; KP Korea North; LA Laos; MK Macedonia;
MK FYROM; MM Burma; MO Macau; NL Holland; NL The Netherlands; PS Palestine; PS Palestinian Territories; RU Russia;
SA KSA; SH Saint Helena; SZ Swaziland; TL East Timor; TL Timor Leste; TR Turkey; TR Turkiye; TT Trinidad; TW Taiwan;
US America; US U.S.; US U.S.A.; VA Vatican; VA Vatican City; VA Holy See; VG British Virgin Islands;
VI US Virgin Islands; VI United States Virgin Islands; VN Vietnam; ZA RSA; CN Mainland China; CN PRC; GS South Georgia
"""

# Preferred over pycountry's name, which is inverted or official there.
_SHORT_NAMES = {
    "BN": "Brunei", "BQ": "Caribbean Netherlands", "CC": "Cocos Islands", "CD": "Democratic Republic of the Congo",
    "CG": "Republic of the Congo", "FK": "Falkland Islands", "FM": "Micronesia", "MF": "Saint Martin",
    "PS": "Palestine", "RU": "Russia", "SH": "Saint Helena", "SX": "Sint Maarten", "VA": "Vatican City",
    "VG": "British Virgin Islands", "VI": "U.S. Virgin Islands",
}  # fmt: skip

# Also common English words: only a capital letter makes them a country ("nail polish market" names none).
_ALSO_WORDS = frozenset({"polish", "turkey", "china", "jersey", "guinea", "chad", "us", "swede", "thai", "lao"})
_LONGEST_NAME = 8  # words, after normalising
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_PHRASE = re.compile(r"[\w'’&+-]+( [\w'’&+-]+){0,7}")
_REGION_CODES = "EU EEA EUROPE EMEA APAC AMER NAMER NORAM LATAM MENA SEA DACH CEE ANZ ROW WW"
# What codes of countries may also mean in a column that holds others which no country has: (those others, codes of
# countries, their second meaning, what codes for it begin with).
_SECOND_MEANINGS = (
    (_REGION_CODES, "NA NAM", "North America", ""),
    (_REGION_CODES, "SA", "South America", ""),
    (_REGION_CODES, "LA", "Latin America", ""),
    (_REGION_CODES, "ME", "Middle East", ""),
    (_REGION_CODES, "AS", "Asia", ""),
    (_REGION_CODES, "AF", "Africa", ""),
    (
        "AK CT DC FL HI IA KS MI ND NH NJ NM NV NY OH OK OR RI TX UT WA WI WV WY",
        "AL AR AZ CA CO DE GA ID IL IN KY LA MA MD ME MN MO MS MT NC NE PA SC SD TN VA",
        "a state of the US",
        "US-",
    ),
    (
        "en ja ko zh cs da hi ur",
        "ar be bg bn bs ca de es et fi fr gl he hr hy id is it ka km ky lt lv mk ml mn ms my ne nl no pl pt ro ru si sk sl so sq"
        " sr sv ta te th tr vi",
        "a language",
        "lang-",
    ),
)
_MARKET_WORD = re.compile(r"\bmarkets?\b", re.IGNORECASE)
_ABBREVIATION = re.compile(r"(?:[A-Za-z]\.){2,}|St\.", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Market:
    """A market that is no country: a region, a language, a segment."""

    code: str
    """1 to 40 letters, digits, '-' and '_', in any case; no code or name of a country."""
    name: str
    """As it is shown ("Kansai")."""
    adjective: str
    """The one string that stands for it in every prompt, before "market" ("Kansai Japanese", "European")."""
    parents: tuple[str, ...] = ()
    """Codes of the markets whose past ads speak where it has none, the nearest first; a region's are its members."""

    def __post_init__(self) -> None:
        """Raises `UserError` naming market, field and value."""
        field = f"markets.{self.code}"
        if not _CODE.fullmatch(self.code):
            raise UserError(
                f"markets: code {self.code!r} must be 1 to 40 letters, digits, '-' and '_'; write one such as JP-kansai"
            )
        if not self.name.strip() or len(self.name) > 80 or not self.name.isprintable():
            raise UserError(f"{field}.name: {self.name!r} must be 1 to 80 printable characters")
        if not _PHRASE.fullmatch(self.adjective) or len(self.adjective) > 80:
            raise UserError(
                f"{field}.adjective: {self.adjective!r} must be 1 to 8 words of letters, digits, hyphens and apostrophes, as it"
                ' stands before "market" in a prompt: European, Kansai Japanese'
            )
        if country := parse_country(self.code):
            raise UserError(self._taken(country))
        if country := parse_country(self.name):
            raise UserError(
                f"{field}.name: {self.name!r} is a name of the country {country}; write another, such as {self.name} (region)"
            )
        if shared := _phrases().get(_plain(self.adjective)):
            raise UserError(
                f"{field}.adjective: {self.adjective!r} is what prompts say for {', '.join(sorted(shared))}; write another, so"
                " that the two can be told apart"
            )

    def _taken(self, country: str) -> str:
        other = re.sub(r"[^A-Z0-9]+", "-", _plain(self.name).upper()).strip("-")
        other = f"{self.code}-MARKET" if not other or parse_country(other) else other[:40]
        return (
            f"markets: code {self.code!r} is {name(country)}'s ({country}, ISO 3166); write code: {other}, and, where files say"
            f" {self.code}, market_aliases: {{{self.code}: {other}}}"
        )


_defined: dict[str, Market] = {}


def define(given: Iterable[Market], *, replace: bool = False) -> None:
    """Make markets that are no countries known to this process, beside those that it knows.

    replace: whether a code may be given anew, in processes that only show names. Raises `UserError` for a code that stands for
    another market here, two markets that would be called or prompted alike, and parents that are none.
    """
    known = dict(_defined)
    for market in given:
        before = known.get(market.code)
        if before not in (None, market) and not replace:
            raise UserError(
                f"markets.{market.code}: is {before} in one artifact and {market} in another; make them anew from one markets"
                " file, in a new process"
            )
        known[market.code] = market
    owners: dict[str, str] = {}
    for market in known.values():
        for words in {_plain(market.code), _plain(market.name), f"adjective {_plain(market.adjective)}"}:
            if owners.setdefault(words, market.code) != market.code:
                raise UserError(
                    f"markets.{market.code}: {words!r} is {owners[words]}'s already, but for case and punctuation; write another"
                    " code, name or adjective"
                )
        for parent in market.parents:
            if parent not in known and parent not in _table(_ADJECTIVES):
                raise UserError(
                    f"markets.{market.code}.parents: {parent!r} is no country and no market of the file; correct it"
                )
        if market.code in _ancestors(market.code, known):
            raise UserError(
                f"markets.{market.code}.parents: {', '.join(market.parents)} lead back to it; leave one out"
            )
    _defined.update(known)


def defined() -> tuple[Market, ...]:
    """The markets that are no countries and are known to this process, by code."""
    return tuple(sorted(_defined.values(), key=lambda market: market.code))


def parents(code: str) -> tuple[str, ...]:
    """The markets to look at where one has no past ads, the nearest first, parents of parents behind them; a country has none."""
    return tuple(_ancestors(code, _defined))


def may_be_named(code: str) -> set[str]:
    """The markets that a prompt for one may name: itself, those that share its adjective, and its parents."""
    return {code, *named_in(adjective(code)), *parents(code)}


def _ancestors(code: str, known: Mapping[str, Market]) -> list[str]:
    found: list[str] = []
    waiting = [code]
    while waiting:
        market = known.get(waiting.pop(0))
        fresh = [parent for parent in market.parents if parent not in found] if market else []
        found += fresh
        waiting += fresh
    return found


def parse(text: str | None, aliases: Mapping[str, str] | None = None) -> str | None:
    """The code of a spelling, or None when it is unknown.

    text: a code, alpha-3 code, English name, common name or one of our spellings (UK, EIRE, Korea), or the code or name of a
    market that was defined; any case.
    aliases: the user's own spellings -> codes; they win. Raises `UserError` when an alias leads to no market.
    """
    if not text or not text.strip():
        return None
    for spelling, code in (aliases or {}).items():
        if _plain(spelling) == _plain(text):
            return _alias_target(spelling, code)
    return _defined_spellings().get(_plain(text)) or parse_country(text)


def parse_country(text: str) -> str | None:
    """The alpha-2 code of a country's spelling, as `parse` reads it, or None."""
    upper = text.strip().upper()
    return upper if upper in _table(_ADJECTIVES) else _spellings().get(_plain(text))


def _alias_target(spelling: str, code: str) -> str:
    target = code.strip().upper()
    if target not in _table(_ADJECTIVES):
        target = next((known for known in _defined if _plain(known) == _plain(code)), code)
        _check(target, f"market_aliases.{spelling}")
    return target


def refuse_doubtful(spellings: Iterable[str], aliases: Mapping[str, str] | None = None) -> None:
    """Ask what a country's code means in a column whose other markets are none: NA beside EU is Namibia or North America.

    spellings: all of the column. An alias answers, also one that leads to the country. Raises `UserError` with the lines to
    write.
    """
    written = {text.strip() for text in spellings}
    answered = {_plain(spelling) for spelling in aliases or {}}
    for others, codes, meaning, prefix in _SECOND_MEANINGS:
        cells = written if others.islower() else {text.upper() for text in written}
        beside = sorted(cells & set(others.split()))
        doubtful = sorted(code for code in cells & set(codes.split()) if _plain(code) not in answered)
        if beside and doubtful:
            countries = {code: parse_country(code) or code for code in doubtful}
            own = {code: prefix + code if prefix else meaning.upper().replace(" ", "-") for code in doubtful}
            raise UserError(
                f"market: {', '.join(beside)} in the column are no countries, and {doubtful[0]!r} beside them may be"
                f" {name(countries[doubtful[0]])} or {meaning}; write market_aliases: {_as_yaml(countries)} where countries are"
                f" meant; where not, define {', '.join(own.values())} in the markets file and write market_aliases:"
                f" {_as_yaml(own)}"
            )


def _as_yaml(aliases: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{spelling}: {code}" for spelling, code in aliases.items()) + "}"


def codes() -> tuple[str, ...]:
    """Every known code: those of ISO 3166 and those that were defined, sorted."""
    return tuple(sorted({*_table(_ADJECTIVES), *_defined}))


def name(code: str) -> str:
    """The common English name ("South Korea"), or the name that was defined. Raises `UserError` for an unknown code."""
    _check(code)
    if code in _defined:
        return _defined[code].name
    import pycountry

    country = pycountry.countries.get(alpha_2=code)
    assert country is not None, f"pycountry does not know {code}"
    return _SHORT_NAMES.get(code) or getattr(country, "common_name", None) or country.name


def adjective(code: str) -> str:
    """The one canonical market string of every prompt ("Korean"). Raises `UserError` for an unknown code.

    Two pairs of countries share theirs: CD and CG (Congolese), DM and DO (Dominican).
    """
    _check(code)
    return _defined[code].adjective if code in _defined else _table(_ADJECTIVES)[code][0]


def named_in(text: str) -> set[str]:
    """The markets that a prompt names: every code its adjective or country name may mean; empty when it names none.

    A market is named by the words directly before "market" ("For American market, ...", "the French and Spanish
    markets"), or by a text that is nothing but one adjective (the country prompt "Korean"). A title such as "French
    press" names none.
    """
    bare = text.strip()
    alone = _defined_adjectives().get(_plain(bare)) or _adjectives().get(_plain(bare)) if len(bare) < 60 else None
    if alone and not (bare.islower() and _is_also_a_word(bare, 1)):
        return set(alone)
    named: set[str] = set()
    for match in _MARKET_WORD.finditer(text):
        named |= _named_before(text[max(0, match.start() - 160) : match.start()])
    return named


def _named_before(text: str) -> set[str]:
    """Codes named by the last words of `text`, and by those joined to them with commas, "and", "or"."""
    named: set[str] = set()
    if not text or not text[-1].isspace():
        return named
    words = text.replace("/", " / ").split()
    while words:
        length, codes = _longest_suffix(words)
        if not codes:
            return named
        named |= codes
        words = words[:-length]
        joined = False
        while words and (words[-1].lower() in ("and", "or", "&", "/") or (joined and words[-1] == ",")):
            words = words[:-1]
            joined = True
        if words and words[-1].endswith(","):
            words = [*words[:-1], words[-1].rstrip(",")]
            joined = True
        if not joined:
            return named
    return named


def _longest_suffix(words: list[str]) -> tuple[int, set[str]]:
    """How many of the last words form the longest market name, and its codes: South African before African."""
    for length in range(min(_LONGEST_NAME, len(words)), 0, -1):
        phrase = words[-length:]
        if not any(letter.isalnum() for letter in phrase[0]):
            continue  # "/ Japanese": the joining sign is no part of the name
        if any(word[-1] in '.,;:!?)"”' and not _ABBREVIATION.fullmatch(word) for word in phrase):
            continue  # a sentence or a list ends inside the phrase
        plain = _plain(" ".join(phrase).strip("(\"“'<"))
        codes = _defined_phrases().get(plain) or _phrases().get(plain)
        lower = phrase[-1].islower() and "." not in phrase[-1]
        if codes and not (lower and _is_also_a_word(plain, length)):
            return length, set(codes)
    return 0, set()


def _is_also_a_word(plain: str, length: int) -> bool:
    """Whether only a capital letter makes it a market; so it is with every single word that was defined ("premium"). length:
    words of the text, "the" included."""
    return (length == 1 and plain in _ALSO_WORDS) or (" " not in plain and plain in _defined_phrases())


def _check(code: str, field: str = "market") -> None:
    if code not in _table(_ADJECTIVES) and code not in _defined:
        raise UserError(
            f"{field}: {code!r} is not an ISO 3166-1 alpha-2 code and no market that was defined; write one such as KR, or use"
            " markets.parse"
        )


def _plain(text: str) -> str:
    """Lower case, without accents, punctuation and a leading "the"; "&" is "and", dotted letters join (U.S. -> us)."""
    text = re.sub(r"(?<=\b\w)\.(?=\w\b|\s|$|,)", "", text.replace("&", " and "))
    text = unicodedata.normalize("NFKD", text).casefold()
    words = re.findall(r"\w+", "".join(letter for letter in text if not unicodedata.combining(letter)))
    words = ["saint" if word == "st" else word for word in words]
    return " ".join(words[1:] if words[:1] == ["the"] and len(words) > 1 else words)


def _entries(table: str) -> Iterator[tuple[str, str]]:
    for entry in table.split(";"):
        code, _, text = entry.strip().partition(" ")
        yield code, text


@functools.cache
def _table(table: str) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for code, text in _entries(table):
        texts.setdefault(code, []).append(text)
    return texts


@functools.cache
def _spellings() -> dict[str, str]:
    """Plain spelling -> code: names of pycountry, also turned around ("Republic of Korea"), alpha-3 codes, ours."""
    import pycountry

    code_of: dict[str, str] = {}
    for country in pycountry.countries:
        names = [getattr(country, field, None) for field in ("name", "common_name", "official_name")]
        for spelling in [country.alpha_3, *filter(None, names)]:
            head, comma, tail = spelling.partition(", ")
            reordered = f"{tail} {head}" if comma and " and " not in spelling else spelling
            for variant in (spelling, reordered, spelling.partition(" (")[0]):
                code_of.setdefault(_plain(variant), country.alpha_2)
    code_of.update((_plain(spelling), code) for code, spelling in _entries(_OTHER_NAMES))
    return code_of


@functools.cache
def _adjectives() -> dict[str, frozenset[str]]:
    """Plain adjective -> every code that it may mean."""
    codes_of: dict[str, set[str]] = {}
    for code, text in [*_entries(_ADJECTIVES), *_entries(_OTHER_ADJECTIVES)]:
        codes_of.setdefault(_plain(text), set()).add(code)
    return {text: frozenset(codes) for text, codes in codes_of.items()}


@functools.cache
def _phrases() -> dict[str, frozenset[str]]:
    """Plain adjective or country name -> codes, for the words before "market"; bare codes are no names."""
    names = {text: frozenset({code}) for text, code in _spellings().items() if len(text) > 3}
    for shared in ("korea", "congo"):
        names[shared] = frozenset({"korea": ("KR", "KP"), "congo": ("CG", "CD")}[shared])
    return {**names, **_adjectives()}


def _defined_spellings() -> Mapping[str, str]:
    """Plain code or name of a market that was defined -> its code."""
    return _of_defined(defined())[0] if _defined else {}


def _defined_adjectives() -> Mapping[str, frozenset[str]]:
    return _of_defined(defined())[1] if _defined else {}


def _defined_phrases() -> Mapping[str, frozenset[str]]:
    """Plain adjective or name of a market that was defined -> its code."""
    return _of_defined(defined())[2] if _defined else {}


@functools.lru_cache(maxsize=16)
def _of_defined(
    known: tuple[Market, ...],
) -> tuple[dict[str, str], dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    spellings = {_plain(text): market.code for market in known for text in (market.name, market.code)}
    adjectives = {_plain(market.adjective): frozenset({market.code}) for market in known}
    return spellings, adjectives, {_plain(market.name): frozenset({market.code}) for market in known} | adjectives
