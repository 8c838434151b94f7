"""Statistics, judges to compare with, and the reports.

- Numbers: `statistics` (intervals and tests by bootstrap), `judge_metrics` (any number of judges on the same records).
- The reward report: `judge_rows` (its rows; a new judge is one entry there), `simple_judges` (judges without a model),
  `reward_variants` (a trained model's), `build_report` (from artifacts to report.json), `report_page`, `plots`, `flip_cards`,
  `report_text` (numbers in plain words).
- The writer's report: `writer_cases` (what is measured), `alignment` (the table), `stop_rule` (go on or stop),
  `alignment_report`, `alignment_plots`, `ad_gallery`.
- A sweep's report: `sweep_report`.
- Every page: `page`, `templates/`.
"""
