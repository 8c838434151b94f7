"""The countries: ISO 3166-1 code, name, the adjective used in prompts, and which markets a prompt names.

A market is an alpha-2 code. Names come from pycountry, loaded when first asked for; adjectives are one table of ours.
"""

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping

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
_MARKET_WORD = re.compile(r"\bmarkets?\b", re.IGNORECASE)
_ABBREVIATION = re.compile(r"(?:[A-Za-z]\.){2,}|St\.", re.IGNORECASE)


def parse(text: str | None, aliases: Mapping[str, str] | None = None) -> str | None:
    """The alpha-2 code of a spelling, or None when it is unknown.

    text: alpha-2 or alpha-3 code, English name, common name or one of our spellings (UK, EIRE, Korea), any case.
    aliases: the user's own spellings -> alpha-2; they win. Raises `UserError` when an alias leads to no country.
    """
    if not text or not text.strip():
        return None
    for spelling, code in (aliases or {}).items():
        if _plain(spelling) == _plain(text):
            _check(code.upper(), f"market_aliases.{spelling}")
            return code.upper()
    upper = text.strip().upper()
    if upper in _table(_ADJECTIVES):
        return upper
    return _spellings().get(_plain(text))


def codes() -> tuple[str, ...]:
    """Every ISO 3166 alpha-2 code, sorted."""
    return tuple(sorted(_table(_ADJECTIVES)))


def name(code: str) -> str:
    """The common English name ("South Korea"). Raises `UserError` for an unknown code."""
    _check(code)
    import pycountry

    country = pycountry.countries.get(alpha_2=code)
    assert country is not None, f"pycountry does not know {code}"
    return _SHORT_NAMES.get(code) or getattr(country, "common_name", None) or country.name


def adjective(code: str) -> str:
    """The one canonical market string of every prompt ("Korean"). Raises `UserError` for an unknown code.

    Two pairs of countries share theirs: CD and CG (Congolese), DM and DO (Dominican).
    """
    _check(code)
    return _table(_ADJECTIVES)[code][0]


def named_in(text: str) -> set[str]:
    """The markets that a prompt names: every code its adjective or country name may mean; empty when it names none.

    A market is named by the words directly before "market" ("For American market, ...", "the French and Spanish
    markets"), or by a text that is nothing but one adjective (the country prompt "Korean"). A title such as "French
    press" names none.
    """
    bare = text.strip()
    alone = _adjectives().get(_plain(bare)) if len(bare) < 60 else None
    if alone and not (bare.islower() and bare in _ALSO_WORDS):
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
        codes = _phrases().get(plain)
        lower = length == 1 and phrase[0].islower() and "." not in phrase[0]
        if codes and not (lower and plain in _ALSO_WORDS):
            return length, set(codes)
    return 0, set()


def _check(code: str, field: str = "market") -> None:
    if code not in _table(_ADJECTIVES):
        raise UserError(
            f"{field}: {code!r} is not an ISO 3166-1 alpha-2 code; write one such as KR, or use markets.parse"
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
