"""Each service has a config of its own, and the YAML files of the release before, when one config served all, are still read."""

import importlib
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from countryreward.errors import UserError
from countryreward.on_ray.deployments.generator_deployment import GeneratorArgs
from countryreward.on_ray.deployments.reward_deployment import RewardArgs
from countryreward.on_ray.deployments.studio_deployment import StudioArgs
from countryreward.serving.service_config import (
    GeneratorServiceConfig,
    RewardServiceConfig,
    ServiceConfig,
    SharedServiceConfig,
    StudioServiceConfig,
    own_options,
    services_with,
)

ARGS = {"reward": RewardArgs, "generator": GeneratorArgs, "studio": StudioArgs}
RELEASE_BEFORE = Path(__file__).with_name("release_before")


def applications(text: str) -> dict[str, dict[str, Any]]:
    """Name of each application of a Serve config -> its `args:`."""
    return {one["name"]: one["args"] for one in yaml.safe_load(text)["applications"]}


@pytest.mark.parametrize(
    ("name", "services"),
    [
        ("serve_reward.yaml", ["reward"]),
        ("serve_generator.yaml", ["reward", "generator"]),
        ("serve_studio.yaml", ["reward", "generator", "studio"]),
    ],
)
def test_yaml_of_the_release_before_is_read(name, services):
    written = applications((RELEASE_BEFORE / name).read_text(encoding="utf-8"))
    assert list(written) == services
    for service, options in written.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            args = ARGS[service].model_validate(options)
        assert args.service.state == "runs/service"
    args = RewardArgs.model_validate(written["reward"])
    assert (args.model, args.device, args.service) == ("runs/demo/model", "auto", RewardServiceConfig())


def test_rayservice_of_the_release_before_is_read():
    document = next(yaml.safe_load_all((RELEASE_BEFORE / "kuberay_rayservice.yaml").read_text(encoding="utf-8")))
    args = RewardArgs.model_validate(applications(document["spec"]["serveConfigV2"])["reward"])
    assert (args.model, args.service.state) == ("/data/runs/demo/model", "/data/runs/service")


def test_autoscaling_policy_of_the_release_before_is_found():
    generator = yaml.safe_load((RELEASE_BEFORE / "serve_generator.yaml").read_text(encoding="utf-8"))["applications"][1]
    policy = generator["deployments"][0]["autoscaling_config"]["policy"]["policy_function"]
    module, _, function = policy.partition(":")
    with pytest.warns(FutureWarning, match=r"countryreward\.on_ray\.autoscaling now"):
        assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("service", list(ARGS))
def test_every_option_of_the_release_before_is_taken_and_what_a_service_does_not_read_is_named(service):
    options = {option.name: getattr(ServiceConfig(), option.name) for option in fields(ServiceConfig)}
    foreign = [name for name in options if service not in services_with(name)]
    with pytest.warns(FutureWarning) as told:
        args = ARGS[service].model_validate({"service": options})
    lines = [str(one.message) for one in told]
    assert [line.partition(":")[0] for line in lines] == [f"service.{name}" for name in foreign]
    assert all("; write it under service: of the " in line for line in lines)
    assert type(args.service) is {"reward": RewardServiceConfig, "generator": GeneratorServiceConfig}.get(
        service, StudioServiceConfig
    )


def test_the_line_says_where_an_option_belongs():
    with pytest.warns(FutureWarning) as told:
        assert own_options("generator", {"state": "s", "max_jobs": 2, "max_px": 512}) == {"state": "s", "max_px": 512}
    assert [str(one.message) for one in told] == [
        "service.max_jobs: the generator does not have it any more; write it under service: of the reward and the studio."
        " From the next release on it is refused here"
    ]


def test_an_option_that_no_service_has_is_refused():
    with pytest.raises(ValidationError, match="max_wait"):
        RewardArgs.model_validate({"service": {"max_wait": 3}})


def test_one_config_of_all_three_services_is_each_of_theirs():
    everything = ServiceConfig(state="s", max_px=64, cache_mib=0)
    reward = RewardArgs(model="m", knowledge_base="", device="cpu", service=everything)
    for args in (reward, GeneratorArgs(service=everything), StudioArgs(service=everything)):
        assert args.service is everything


def test_services_share_what_all_of_them_read():
    shared = {option.name for option in fields(SharedServiceConfig)}
    assert {"state", "rates", "poll_s", "max_image_bytes", "max_body_memory"} <= shared
    assert {name for name in shared if services_with(name) != ["reward", "generator", "studio"]} == set()
    assert services_with("batch_tokens") == ["reward"]
    assert services_with("designs_per_pass") == ["generator"]
    assert services_with("max_steps") == ["generator", "studio"]


@pytest.mark.parametrize(
    ("config", "option", "value"),
    [
        (RewardServiceConfig, "decoders", 0),
        (RewardServiceConfig, "abstain_below", 0.5),
        (GeneratorServiceConfig, "designs_per_pass", 0),
        (StudioServiceConfig, "poll_s", 0.0),
        (ServiceConfig, "max_px", 0),
        (ServiceConfig, "abstain_below", -0.1),
    ],
)
def test_an_impossible_value_is_refused_by_name(config, option, value):
    with pytest.raises(UserError, match=f"^{option}: {value}"):
        config(**{option: value})
