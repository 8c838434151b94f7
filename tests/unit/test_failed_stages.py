"""A stage that failed is not up to date: the same command fails again, with the same message."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import build_records
import import_data
from countryreward.data.data_config import ImagesConfig, ImportConfig, RecordsConfig, TableSource
from countryreward.errors import UserError


def export(folder: Path, creatives: str, observations: str) -> ImportConfig:
    """An export of products mug and cup. Rows as CSV: creative_id,product_id and creative_id,market,impressions,clicks."""
    (folder / "images").mkdir(parents=True)
    tables = {
        "products": "product_id,title\nmug,Alder mug\ncup,Birch cup\n",
        "creatives": "creative_id,product_id,image_uri\n",
        "observations": "creative_id,market,impressions,clicks\n" + observations,
    }
    for number, line in enumerate(creatives.splitlines()):
        Image.new("RGB", (16, 16), (40 * number, 90, 10)).save(folder / "images" / f"{number}.png")
        tables["creatives"] += f"{line},{number}.png\n"
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    sources: dict[str, Any] = {name: TableSource(path=str(folder / f"{name}.csv")) for name in tables}
    return ImportConfig(**sources, images=ImagesConfig(root=str(folder / "images")))


def test_an_import_that_kept_no_row_fails_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = export(tmp_path / "export", "a,mug\nb,mug\n", "a,korea-mall,5000,50\nb,korea-mall,5000,60\n")
    config = import_data.Config(out=str(tmp_path / "dataset"), source=source)
    for _ in range(2):
        with pytest.raises(UserError, match=r"observations: none of 2 rows was kept; see .*dataset/quarantine\.jsonl"):
            import_data.main(config)
        assert "up to date" not in capsys.readouterr().out
    assert (tmp_path / "dataset" / "quarantine.jsonl").read_text(encoding="utf-8").count("unknown_market") == 2
    source.market_aliases["korea-mall"] = "KR"
    assert import_data.main(config).manifest.counts["observations"]["kept"] == 2
    import_data.main(config)
    assert "is up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("creatives", "observations", "expected"),
    [
        (
            "a,mug\nb,cup\n",
            "a,KR,5000,50\nb,KR,5000,60\na,BR,5000,50\nb,BR,5000,60\n",
            "no product has two creatives in one market, so there is nothing to compare",
        ),
        ("a,mug\nb,mug\n", "a,KR,5000,50\nb,KR,5000,50\n", "all 1 pairs are ties, so there is no winner to learn from"),
    ],
)
def test_records_without_a_winner_end_there_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], creatives: str, observations: str, expected: str
) -> None:
    source = export(tmp_path / "export", creatives, observations)
    import_data.main(import_data.Config(out=str(tmp_path / "dataset"), source=source))
    config = build_records.Config(
        dataset=str(tmp_path / "dataset"), out=str(tmp_path / "records"), records=RecordsConfig()
    )
    capsys.readouterr()
    for _ in range(2):
        with pytest.raises(UserError, match=expected):
            build_records.main(config)
        assert f"nothing to learn  {expected}" in capsys.readouterr().out
    assert not (tmp_path / "records").exists()
