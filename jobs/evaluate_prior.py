"""Report what retrieval alone is worth, against judges that ignore the country.

python jobs/evaluate_prior.py --split=validation
"""

from dataclasses import dataclass

from countryreward.command import run
from countryreward.data.artifacts import Artifact
from countryreward.evaluation.evaluation_config import ReportConfig


@dataclass(kw_only=True)
class Config(ReportConfig):
    """Write report.json and report.html."""


def main(config: Config) -> Artifact:
    from countryreward.evaluation.build_report import evaluated_records, open_inputs, publish_report

    inputs = open_inputs(config)
    return publish_report(config, inputs, evaluated_records(inputs, config.split))


if __name__ == "__main__":
    run(Config, main)
