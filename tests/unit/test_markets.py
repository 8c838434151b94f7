"""Markets: spellings in, codes out; which markets a prompt names."""

import subprocess
import sys

import pycountry
import pytest

from countryreward import markets
from countryreward.errors import UserError

CODES = sorted(country.alpha_2 for country in pycountry.countries)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("KR", "KR"), (" kr ", "KR"), ("kor", "KR"), ("Korea", "KR"), ("South Korea", "KR"),
        ("Korea, Republic of", "KR"),
        ("Republic of Korea", "KR"), ("north korea", "KP"), ("UK", "GB"), ("United Kingdom", "GB"), ("EIRE", "IE"),
        ("USA", "US"), ("U.S.A.", "US"), ("united states", "US"), ("Russia", "RU"), ("Türkiye", "TR"), ("Turkey", "TR"),
        ("Trinidad & Tobago", "TT"), ("Ivory Coast", "CI"), ("ALAND ISLANDS", "AX"), ("Czech Republic", "CZ"),
        ("NA", "NA"), ("Namibia", "NA"), ("St. Lucia", "LC"), ("Viet Nam", "VN"), ("Vietnam", "VN"),
        ("Channel Islands", None), ("European Community", None), ("Unspecified", None), ("nan", None), ("XX", None),
        ("", None), ("  ", None), (None, None),
    ],
)  # fmt: skip
def test_parse(text: str | None, code: str | None) -> None:
    assert markets.parse(text) == code


def test_aliases_win_and_must_lead_to_a_country() -> None:
    assert markets.parse("channel islands", {"Channel Islands": "JE"}) == "JE"
    assert markets.parse("UK", {"uk": "UA"}) == "UA"
    with pytest.raises(UserError, match=r"market_aliases\.mars: 'ZZ'"):
        markets.parse("mars", {"mars": "ZZ"})


def test_every_country_has_name_and_adjective_that_lead_back_to_it() -> None:
    assert len(CODES) == 249
    for code in CODES:
        country = pycountry.countries.get(alpha_2=code)
        assert country is not None
        for spelling in (code.lower(), country.alpha_3, country.name, country.name.upper(), markets.name(code)):
            assert markets.parse(spelling) == code
        assert code in markets.named_in(markets.adjective(code))
        assert code in markets.named_in(f"For {markets.adjective(code)} market, based on the <Product Title>")
        assert markets.named_in(f"Sold for the {markets.name(code)} market.") == {code}


def test_adjectives() -> None:
    assert [markets.adjective(code) for code in markets.DEFAULT_MARKETS] == [
        "Brazilian", "Chilean", "Spanish", "French", "Korean", "Japanese", "American", "Mexican", "Australian", "Saudi",
    ]  # fmt: skip
    assert markets.adjective("GB") == "British"
    shared = {markets.adjective(code) for code in CODES if len(markets.named_in(markets.adjective(code))) > 1}
    assert shared == {"Congolese", "Dominican", "Guinean", "Korean"}
    for wrong in ("ZZ", "kr", ""):
        with pytest.raises(UserError, match="alpha-2"):
            markets.adjective(wrong)
        with pytest.raises(UserError, match="alpha-2"):
            markets.name(wrong)


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("For American market, based on the French press compare the two images", {"US"}),
        ("A background for the Brazilian market", {"BR"}),
        ("Korean", {"KR", "KP"}),
        ("Korean.", {"KR", "KP"}),
        ("South Korean market", {"KR"}),
        ("North Korean market", {"KP"}),
        ("the Congolese market", {"CD", "CG"}),
        ("Dominican market", {"DM", "DO"}),
        ("the South African market", {"ZA"}),
        ("Papua New Guinean market", {"PG"}),
        ("for the U.S. market", {"US"}),
        ("for american market", {"US"}),
        ("the American and Brazilian markets", {"US", "BR"}),
        ("French, Spanish or German market", {"FR", "ES", "DE"}),
        ("Japanese/French market", {"JP", "FR"}),
        ("Polish market", {"PL"}),
        ("nail polish market", set()),
        ("tell us market prices", set()),
        ("French press", set()),
        ("Swiss army knife, Italian leather", set()),
        ("Swiss army knife market", set()),
        ("Made in France. Market leader", set()),
        ("Turkey", set()),
        ("market", set()),
        ("", set()),
    ],
)
def test_named_in(text: str, codes: set[str]) -> None:
    assert markets.named_in(text) == codes


def test_importing_does_not_load_pycountry() -> None:
    code = "import sys, countryreward.markets as m; m.adjective('KR'); print('pycountry' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
