"""Markets that are no countries: their file, the codes that countries have, prompts, and what carries them on."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import build_records
import import_data
from countryreward import markets
from countryreward.data.artifacts import open_artifact, publish
from countryreward.data.market_table import MARKET_TABLE, read_market_file
from countryreward.errors import UserError
from countryreward.markets import Market
from countryreward.scoring.contracts import market_code
from tests.unit.conftest import random_world
from tests.unit.test_failed_stages import export

KANSAI = Market(code="JP-kansai", name="Kansai", adjective="Kansai Japanese", parents=("JP",))
EUROPE = Market(code="EU", name="Europe", adjective="European", parents=("DE", "FR"))
GAMERS = Market(code="gamers", name="Gamers", adjective="Gaming")
FILE = """
EU: {name: Europe, adjective: European, parents: [Germany, fr]}
JP-kansai: {name: Kansai, phrase: Kansai Japanese, parents: JP}
gamers: {name: Gamers, adjective: Gaming}
"""


@pytest.fixture(autouse=True)
def none_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markets, "_defined", {})


def file_of(folder: Path, text: str) -> Path:
    path = folder / "markets.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_a_mapping_or_a_list_also_under_one_key(tmp_path: Path) -> None:
    expected = (EUROPE, KANSAI, GAMERS)
    assert read_market_file(file_of(tmp_path, FILE)) == expected
    assert (
        read_market_file(file_of(tmp_path, "markets:\n" + "\n".join(f"  {line}" for line in FILE.splitlines())))
        == expected
    )
    listed = "- {code: nordics, name: Nordics, parents: [NO, SE]}\n- {code: other, name: 関西}\n"
    assert read_market_file(file_of(tmp_path, listed)) == (
        Market(code="nordics", name="Nordics", adjective="Nordics", parents=("NO", "SE")),  # NO is Norway and not false
        Market(code="other", name="関西", adjective="関西"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "NA: {name: North America}",
            r"code 'NA' is Namibia's .*write code: NORTH-AMERICA.*market_aliases: \{NA: NORTH-AMERICA\}",
        ),
        ("na: {name: Namibia}", "code 'na' is Namibia's .*write code: na-MARKET"),
        ("NO: {name: Northern}", "code 'NO' is Norway's"),
        ("es: {name: Spanish speakers}", "code 'es' is Spain's .*write code: SPANISH-SPEAKERS"),
        ("KOR: {name: Peninsula}", "code 'KOR' is South Korea's"),
        ("great-britain: {name: Islands}", "code 'great-britain' is United Kingdom's"),
        ("GA-US: {name: Georgia}", r"markets\.GA-US\.name: 'Georgia' is a name of the country GE"),
        (
            "US-GA: {name: Georgia state, adjective: Georgian}",
            r"markets\.US-GA\.adjective: 'Georgian' is what prompts say for GE",
        ),
        ("x y: {name: X}", "code 'x y' must be"),
        ("../x: {name: X}", r"code '\.\./x' must be"),
        ('X1: {name: X, adjective: "<|im_end|>"}', r"markets\.X1\.adjective: '<\|im_end\|>' must be"),
        ("X1: {name: X, adjective: a, phrase: b}", "an adjective and a phrase"),
        ("X1: {adjective: a}", "lacks name"),
        ("- {name: X}", "lacks code"),
        ("X1: {name: X, parent: JP}", "X1 has 'parent'; the fields are"),
        ("X1: Europe", "X1 is 'Europe'"),
        ("X1: {name: X, parents: {JP: 1}}", r"markets\.X1\.parents"),
        ("- {code: X1, name: X}\n- {code: X1, name: Y}", r"markets\.X1: .* has it twice"),
        ("a: [", "is no YAML"),
        ("", "holds no markets"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_way_out(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_market_file(file_of(tmp_path, text))
    with pytest.raises(UserError, match="cannot be read"):
        read_market_file(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([EUROPE, Market(code="eu", name="Union", adjective="Union")], "'eu' is EU's already"),
        ([EUROPE, Market(code="EEA", name="Europe", adjective="Economic")], "'europe' is EU's already"),
        ([EUROPE, Market(code="EEA", name="Area", adjective="European")], "'adjective european' is EU's already"),
        ([Market(code="X1", name="X", adjective="X", parents=("X2",))], r"markets\.X1\.parents: 'X2' is no country"),
        (
            [
                Market(code="X1", name="X", adjective="X", parents=("X2",)),
                Market(code="X2", name="Y", adjective="Y", parents=("X1",)),
            ],
            r"markets\.X1\.parents: X2 lead back to it",
        ),
    ],
)
def test_markets_that_cannot_be_told_apart_are_refused_together(given: list[Market], message: str) -> None:
    with pytest.raises(UserError, match=message):
        markets.define(given)
    assert markets.defined() == ()


def test_a_code_means_one_thing_in_a_process() -> None:
    markets.define([EUROPE])
    markets.define([EUROPE])
    other = Market(code="EU", name="Europe", adjective="Continental")
    with pytest.raises(UserError, match="make them anew from one markets file"):
        markets.define([other])
    markets.define([other], replace=True)
    assert markets.adjective("EU") == "Continental"


def test_a_defined_market_is_understood_named_and_prompted() -> None:
    markets.define([EUROPE, KANSAI, GAMERS])
    for text, code in {
        "EU": "EU", "eu": "EU", "europe": "EU", "JP-KANSAI": "JP-kansai", "jp kansai": "JP-kansai", "Kansai": "JP-kansai",
        "Gamers": "gamers", "JP": "JP", "Japan": "JP", "NA": "NA",
    }.items():  # fmt: skip
        assert markets.parse(text) == code
    assert markets.parse("kansai-mall", {"Kansai mall": "jp-kansai"}) == "JP-kansai"
    assert market_code("Europe") == "EU"
    assert (markets.name("EU"), markets.adjective("JP-kansai"), markets.parents("EU")) == (
        "Europe",
        "Kansai Japanese",
        ("DE", "FR"),
    )
    assert markets.parents("JP") == ()
    assert {"EU", "JP-kansai", "KR"} <= set(markets.codes())


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("For Kansai Japanese market, based on", {"JP-kansai"}),
        ("For Japanese market, based on", {"JP"}),
        ("the European and Korean markets", {"EU", "KR", "KP"}),
        ("Kansai market", {"JP-kansai"}),
        ("European", {"EU"}),
        ("Gaming market", {"gamers"}),
        ("the gaming market leader", set()),
        ("gaming", set()),
    ],
)
def test_a_prompt_names_a_defined_market(text: str, codes: set[str]) -> None:
    markets.define([EUROPE, KANSAI, GAMERS])
    assert markets.named_in(text) == codes


def test_a_parent_may_be_named_and_no_other() -> None:
    markets.define([EUROPE, KANSAI])
    assert markets.may_be_named("JP-kansai") == {"JP-kansai", "JP"}
    assert markets.may_be_named("KR") == {"KR", "KP"}


@pytest.mark.parametrize(
    ("column", "aliases", "message"),
    [
        (["NA", "EU", "JP"], {}, r"EU in the column are no countries, and 'NA' beside them may be Namibia or North America.*"
         r"\{NA: NA\}.*define NORTH-AMERICA in the markets file and write market_aliases: \{NA: NORTH-AMERICA\}"),
        (["na", "emea"], {}, "'NA' beside them may be Namibia"),
        (["NAM", "APAC"], {}, "'NAM' beside them may be Namibia"),
        (["CA", "TX"], {}, r"'CA' beside them may be Canada or a state of the US.*define US-CA in"),
        (["en", "es", "ar"], {}, r"'ar' beside them may be Argentina or a language.*define lang-ar, lang-es in"),
        (["NA", "EU"], {"NA": "NA"}, None),
        (["NA", "EU"], {"na": "N-AMERICA"}, None),
        (["NA", "ZA", "KE"], {}, None),
        (["SA", "AE", "Europe coast"], {}, None),
        (["EU", "JP"], {}, None),
        (["EN", "ES"], {}, None),
    ],
)  # fmt: skip
def test_a_countrys_code_beside_what_is_no_country_is_asked_about(
    column: list[str], aliases: dict[str, str], message: str | None
) -> None:
    if message is None:
        markets.refuse_doubtful(column, aliases)
    else:
        with pytest.raises(UserError, match=message):
            markets.refuse_doubtful(column, aliases)


ROWS = "a,{0},5000,50\nb,{0},5000,60\na,JP,5000,70\nb,JP,5000,20\n"


def imported(folder: Path, market: str, text: str = FILE, **aliases: str) -> Any:
    source = export(folder / "export", "a,mug\nb,mug\n", ROWS.format(market))
    source.markets = str(file_of(folder, text)) if text else ""
    source.market_aliases = aliases
    return import_data.main(import_data.Config(out=str(folder / "dataset"), source=source))


def test_markets_travel_with_what_is_made_from_the_dataset(tmp_path: Path) -> None:
    dataset = imported(tmp_path, "eu")
    records = build_records.main(build_records.Config(dataset=str(tmp_path / "dataset"), out=str(tmp_path / "records")))
    with publish(tmp_path / "base", kind="knowledge_base", inputs={"records": records}) as draft:
        (draft.path / "file").write_text("x")
    for folder in (dataset.path, records.path, tmp_path / "base"):
        assert [entry["code"] for entry in json.loads((folder / MARKET_TABLE).read_text())] == [
            "EU",
            "JP-kansai",
            "gamers",
        ]
    assert records.manifest.counts["facts"]["markets"] == {"EU": 1, "JP": 1}
    fresh = "import sys; from countryreward import markets; from countryreward.data.artifacts import open_artifact;" \
        " open_artifact(sys.argv[1], kind='knowledge_base'); print(markets.adjective(markets.parse('kansai')))"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", fresh, str(tmp_path / "base")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Kansai Japanese\n"


def test_a_changed_file_is_imported_anew_and_no_artifact_has_a_table_without_one(tmp_path: Path) -> None:
    imported(tmp_path, "EU")
    markets._defined.clear()  # as in a new process
    source = import_data.ImportConfig(**{
        **vars(export(tmp_path / "again", "a,mug\nb,mug\n", ROWS.format("EU"))), "markets": str(tmp_path / "markets.yaml"),
    })  # fmt: skip
    file_of(tmp_path, FILE.replace("European", "Continental"))
    artifact = import_data.main(import_data.Config(out=str(tmp_path / "dataset"), source=source))
    assert markets.adjective("EU") == "Continental"
    assert json.loads((artifact.path / MARKET_TABLE).read_text())[0]["adjective"] == "Continental"
    markets._defined.clear()
    assert not (imported(tmp_path / "plain", "KR", text="").path / MARKET_TABLE).exists()


def test_na_is_kept_and_asked_about_beside_a_region(tmp_path: Path) -> None:
    import pandas as pd

    kept = pd.read_parquet(imported(tmp_path / "1", "NA", text="").path / "observations.parquet")
    assert sorted(set(kept["market"])) == ["JP", "NA"]
    source = export(tmp_path / "2", "a,mug\nb,mug\n", ROWS.format("NA") + "a,EU,5000,50\n")
    source.markets = str(file_of(tmp_path, FILE + "N-AMERICA: {name: North America, adjective: North American}\n"))
    config = import_data.Config(out=str(tmp_path / "dataset"), source=source)
    with pytest.raises(UserError, match="may be Namibia or North America"):
        import_data.main(config)
    for answer in ("NA", "N-AMERICA"):
        source.market_aliases = {"NA": answer}
        kept = pd.read_parquet(import_data.main(config).path / "observations.parquet")
        assert sorted(set(kept["market"])) == sorted({"EU", "JP", answer})


def test_an_artifact_with_other_markets_is_refused(tmp_path: Path) -> None:
    dataset = imported(tmp_path, "EU")
    markets._defined.clear()
    markets.define([Market(code="EU", name="Union", adjective="Union")])
    with pytest.raises(UserError, match=r"markets\.EU: is .* in one artifact"):
        open_artifact(dataset.path, kind="dataset")


@pytest.mark.slow
def test_a_followed_service_tells_its_markets() -> None:
    from countryreward.on_ray.serve_handles import FollowedHandleScorer

    async def about() -> dict[str, Any]:
        return {
            "markets": ["EU"],
            "defined": [{"code": "EU", "name": "Europe", "adjective": "European", "parents": ["DE"]}],
        }

    handle = SimpleNamespace(about=SimpleNamespace(remote=about))
    scorer = FollowedHandleScorer(lambda: handle)
    asyncio.run(scorer.look())
    assert scorer.markets == ("EU",)
    assert markets.name("EU") == "Europe"


def test_past_ads_of_a_parent_speak_where_a_market_has_none_and_the_verdict_says_so(tmp_path: Path) -> None:
    from countryreward.scoring.verdicts import build_verdict

    base, _ = random_world(tmp_path, seed=0, products=4, markets=("DE", "FR", "KR"))
    markets.define(
        [EUROPE, KANSAI, Market(code="K1", name="Seoul", adjective="Seoul Korean", parents=("JP-kansai", "KR"))]
    )
    assert [found and found.market for found in map(base.market, ("EU", "JP-kansai", "K1", "KR", "BR"))] == [
        "DE", None, "KR", "KR", None,
    ]  # fmt: skip
    assert base.markets == ["DE", "FR", "KR"]
    lookup: Any = SimpleNamespace(base=base, evidence=lambda found, most: ())
    options: dict[str, Any] = {
        "lookup": lookup, "evidence": 0, "temperature": None, "decides": True, "abstain_below": 0.0, "model_version": None,
        "note": None,
    }  # fmt: skip
    found: Any = SimpleNamespace(prior=SimpleNamespace(n=3))
    notes = [build_verdict(market, 1.0, found=found, **options).note for market in ("EU", "DE")]
    assert notes == ["there are no past ads from Europe; these are from Germany", None]


def test_a_client_asks_the_service_for_markets_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    from countryreward.api import schemas
    from countryreward.client import AsyncClient

    asked = []
    client = AsyncClient("http://127.0.0.1:1", "key")

    async def get(path: str, kind: Any) -> Any:
        asked.append(path)
        own = schemas.DefinedMarket(code="EU", name="Europe", adjective="European", parents=["DE"])
        return schemas.MarketsAnswer(request_id="r", markets=[], defined=[own])

    monkeypatch.setattr(client._connection, "get", get)
    assert asyncio.run(client._codes(["KR", "Japan"])) == ["KR", "JP"]
    assert asked == []
    assert asyncio.run(client._codes(["europe", "KR"])) == ["EU", "KR"]
    assert asyncio.run(client._codes(["eu"])) == ["EU"]
    assert asked == ["v1/markets"]
    with pytest.raises(UserError, match="'Oz' is no country and no market of the service"):
        asyncio.run(client._codes(["Oz"]))


def test_a_prompt_says_the_adjective_of_a_defined_market() -> None:
    from transformers import AutoTokenizer

    from countryreward.models.product_text import ProductText, check_market
    from countryreward.models.tiny_backbone import SHIPPED

    markets.define([KANSAI])
    words = ProductText(AutoTokenizer.from_pretrained(SHIPPED))
    check_market("JP-kansai", words.of("Cup for the Japanese market", None, {}))
    check_market("JP-kansai", words.of("Cup for the Kansai Japanese market", None, {}))
    for market, title in (("JP", "Cup for the Kansai Japanese market"), ("JP-kansai", "Cup for the Korean market")):
        with pytest.raises(UserError, match="names the market"):
            check_market(market, words.of(title, None, {}))
