"""Report what a trained model is worth, against retrieval alone and against everything that ignores the country.

python jobs/evaluate_reward.py --model=runs/demo/model --split=validation
"""

from dataclasses import dataclass

from countryreward.command import run
from countryreward.data.artifacts import Artifact
from countryreward.evaluation.evaluation_config import ModelReportConfig


@dataclass(kw_only=True)
class Config(ModelReportConfig):
    """Write report.json and report.html."""


def main(config: Config) -> Artifact:
    from countryreward.evaluation.build_report import evaluated_records, open_inputs, publish_report
    from countryreward.evaluation.reward_variants import judge_models

    inputs = open_inputs(config)
    judged = judge_models(config, inputs, evaluated_records(inputs, config.split))
    return publish_report(config, inputs, judged)


if __name__ == "__main__":
    run(Config, main)
