"""The files of cluster/: known keys, paths and options that exist, the token on, nobody root. No cluster is started here."""

import copy
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from countryreward.on_ray.serve_environment import SERVE_ENVIRONMENT
from tests.unit.kuberay_rules import cluster_of, pods_of, problems, ray_up_problems
from tests.unit.kuberay_schema import wrong_fields
from tests.unit.test_jobs import run_calls

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAY_UP = ["aws.yaml", "on_premises.yaml"]
RAY_JOBS = ["rayjob-train.yaml", "rayjob-tune.yaml", "rayjob-knowledge-base.yaml"]
KUBERAY = sorted(path.name for path in (CLUSTER / "kuberay").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
IMAGE = f"registry.example.com/countryreward:{PROJECT['version']}"
OURS = {"COUNTRYREWARD_HOME": "platform/countryreward/command.py"}
"""Our variables that these files may set -> where they are read."""
OTHER_IN_THE_CLUSTER = {
    "http_options.host": ("127.0.0.1", "0.0.0.0"),
    "applications.0.args.model": ("runs/demo/model", "/data/runs/demo/model"),
    "applications.0.args.service.state": ("runs/service", "/data/runs/service"),
}
"""Where the Serve config in rayservice.yaml may differ from serve_apps/reward.yaml: there, here."""

RAY_UP_CHECK = """
import json, shlex, sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.scripts.scripts import start, stop

def told(path):
    with open(path) as file:
        config = prepare_config(yaml.safe_load(file))
    validate_config(config)
    hosts = []
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        for words in map(shlex.split, command.split(";")):
            if words[:2] == ["ray", "stop"]:
                stop.make_context("stop", words[2:])
            elif words[:2] == ["ray", "start"]:  # parsed, not run
                hosts.append(start.make_context("start", words[2:]).params["dashboard_host"])
    types = {name: kind["max_workers"] for name, kind in config["available_node_types"].items()}
    read = AutoscalingConfig(config, skip_content_hash=True)  # as the head reads it to install a node
    images = {name: read.get_docker_config(name)["image"].rpartition("-")[2] for name in types}
    needs = {name: kind["min_workers"] for name, kind in config["available_node_types"].items()}
    return {"hosts": hosts, "types": types, "images": images, "needs": needs}

for path in sys.argv[1:]:
    try:
        print(json.dumps(told(path)))
    except Exception as error:
        print(json.dumps({"error": str(error)}))
"""


@cache
def ray_up(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


@cache
def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kuberay" / name).read_text(encoding="utf-8")))


def document(name: str) -> dict[str, Any]:
    """The first one, which for Ray's kinds is the cluster."""
    return documents(name)[0]


def containers() -> list[dict[str, Any]]:
    pods = [pod for name in KUBERAY for one in documents(name) for _, pod in pods_of(one)]
    return [container for pod in pods for container in pod["spec"]["containers"]]


def changed(whole: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a place (`a/0/b`); None takes the key away."""
    whole = copy.deepcopy(whole)
    inner: Any = whole
    *path, last = [int(part) if part.isdigit() else part for part in where.split("/")]
    for part in path:
        inner = inner[part]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return whole


def leaves(value: Any, where: str = "") -> dict[str, Any]:
    """Dotted place -> value of everything that is neither a mapping nor a list."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        return {where[1:]: value}
    return {place: leaf for key, one in inner for place, leaf in leaves(one, f"{where}.{key}").items()}


def ray_schema_errors(config: dict[str, Any]) -> list[str]:
    """By the schema that Ray carries, read without importing Ray."""
    ray = find_spec("ray")
    assert ray is not None
    assert ray.submodule_search_locations
    schema = Path(ray.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json"
    return [error.message for error in jsonschema.Draft7Validator(json.loads(schema.read_text())).iter_errors(config)]


# --- ray up


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_fit_rays_schema(name: str):
    config = ray_up(name)
    assert ray_schema_errors(config) == []


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("idle_timeout_minuts", 5, "'idle_timeout_minuts' was unexpected"),
        ("available_node_types/gpu_spot/spot", True, "'spot' was unexpected"),
        ("docker/gpus", "all", "'gpus' was unexpected"),
        ("provider", None, "'provider' is a required property"),
        ("max_workers", "8", "'8' is not of type 'integer'"),
    ],
)
def test_rays_schema_finds_a_wrong_key(where: str, value: Any, said: str):
    assert any(said in error for error in ray_schema_errors(changed(ray_up("aws.yaml"), where, value)))


@pytest.mark.slow  # Ray is imported, in a process of its own
def test_ray_prepares_both_files_and_knows_every_option_of_ray_start(tmp_path: Path):
    text = (CLUSTER / "aws.yaml").read_text(encoding="utf-8")
    for name, right, wrong in (
        ("option", "--disable-usage-stats", "--disable-usage-stat"),
        ("key", "docker:", "dockr:"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text.replace(right, wrong), encoding="utf-8")
    paths = [*(CLUSTER / name for name in RAY_UP), tmp_path / "option.yaml", tmp_path / "key.yaml"]
    command = [sys.executable, "-c", RAY_UP_CHECK, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    aws, on_premises, wrong_option, wrong_key = told
    assert aws == {
        "hosts": ["127.0.0.1"] * 2,
        "types": {"head": 0, "gpu_spot": 8, "gpu_on_demand": 8},
        "images": {"head": "cpu", "gpu_spot": "gpu", "gpu_on_demand": "gpu"},
        "needs": {"head": 0, "gpu_spot": 0, "gpu_on_demand": 0},
    }
    assert on_premises == {
        "hosts": ["127.0.0.1"] * 2,
        "types": {"local.cluster.node": 2},
        "images": {"local.cluster.node": "gpu"},
        "needs": {
            "local.cluster.node": 2
        },  # of a node that is not there Ray does not know what it holds, and starts none
    }
    assert "--disable-usage-stat" in wrong_option["error"]
    assert "'dockr' was unexpected" in wrong_key["error"]


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_are_behind_a_token(name: str):
    assert ray_up_problems(ray_up(name)) == []


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("docker/run_options/0", "--env RAY_AUTH_MODE=disabled", "docker.run_options: no RAY_AUTH_MODE=token"),
        ("docker/run_options/5", "--privileged", "docker.run_options: --privileged"),
        ("docker/image", "registry.example.com/countryreward:latest", "needs a tag, and not latest"),
        ("rsync_exclude/0", "**/*.pem", "rsync_exclude: **/*.pem"),
        ("docker/head_image", "registry.example.com:5000/countryreward", "needs a tag, and not latest"),
        ("file_mounts", {}, "file_mounts: no folder of the token"),
        ("worker_start_ray_commands/1", "ray start --address=$RAY_HEAD_IP:6379", "no RAY_AUTH_MODE=token"),
        ("head_start_ray_commands/1", "ray start --head --dashboard-host=0.0.0.0", "no --dashboard-host=127.0.0.1"),
    ],
)
def test_an_unsafe_ray_up_file_is_found(where: str, value: Any, said: str):
    assert any(said in problem for problem in ray_up_problems(changed(ray_up("aws.yaml"), where, value)))


def test_spot_comes_first_and_on_demand_can_take_all_of_it():
    config = ray_up("aws.yaml")
    types = config["available_node_types"]
    spot, on_demand = types["gpu_spot"], types["gpu_on_demand"]
    assert spot["priority"] > on_demand["priority"]
    assert (spot["min_workers"], on_demand["min_workers"]) == (0, 0)
    assert spot["max_workers"] == on_demand["max_workers"] == config["max_workers"] == 8
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in on_demand["node_config"]
    assert spot["node_config"]["InstanceType"] == on_demand["node_config"]["InstanceType"]
    for kind in types.values():  # none of them takes the group that Ray would make, open to the world
        assert kind["node_config"]["SecurityGroupIds"] == ["sg-REPLACE_ME"]
        assert kind["node_config"]["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True


# --- KubeRay


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_files_have_known_fields_alone(name: str):
    assert [wrong for one in documents(name) for wrong in wrong_fields(one)] == []


CONTAINER = "spec/headGroupSpec/template/spec/containers/0"


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("spec/authOption", {"mode": "token"}, "'authOption' was unexpected"),
        ("spec/authOptions/mode", "tokens", "'tokens' is not one of ['disabled', 'token']"),
        ("spec/authOptions", None, "'authOptions' is a required property"),
        ("spec/autoscalerOptions/version", "v3", "'v3' is not one of ['v1', 'v2']"),
        ("spec/autoscalerOptions/idleTimeoutSecond", 60, "'idleTimeoutSecond' was unexpected"),
        ("spec/workerGroupSpecs/0/maxReplica", 4, "'maxReplica' was unexpected"),
        ("spec/workerGroupSpecs/0/maxReplicas", "4", "'4' is not of type 'integer'"),
        ("spec/headGroupSpec/rayStartParams/num-cpus", 0, "0 is not of type 'string'"),
        (f"{CONTAINER}/volumeMount", [], "'volumeMount' was unexpected"),
        (f"{CONTAINER}/resources/limits/memory", "16GB", "is not valid under any of the given schemas"),
        (f"{CONTAINER}/securityContext/runAsNonroot", True, "'runAsNonroot' was unexpected"),
        ("kind", "RayClustr", "an unknown kind"),
    ],
)
def test_a_wrong_field_is_found(where: str, value: Any, said: str):
    assert any(said in wrong for wrong in wrong_fields(changed(document("raycluster.yaml"), where, value)))


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_files_are_safe(name: str):
    assert [problem for one in documents(name) for problem in problems(one)] == []


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("spec/authOptions/mode", "disabled", "authOptions: no token"),
        (f"{CONTAINER}/env/0/value", "disabled", "RAY_AUTH_MODE is not token"),
        (f"{CONTAINER}/env/0", {"name": "WANDB_API_KEY", "value": "x"}, "WANDB_API_KEY: a plain secret"),
        ("spec/gcsFaultToleranceOptions/redisPassword", {"value": "x"}, "redisPassword: a plain secret"),
        ("spec/headGroupSpec/rayStartParams/dashboard-host", "0.0.0.0", "0.0.0.0 is not loopback"),
        ("spec/headGroupSpec/rayStartParams/dashboard-host", None, "None is not loopback"),
        ("spec/headGroupSpec/template/spec/hostNetwork", True, "hostNetwork is on"),
        ("spec/headGroupSpec/template/spec/securityContext/runAsUser", 0, "runs as root"),
        ("spec/headGroupSpec/template/spec/securityContext/runAsNonRoot", False, "runs as root"),
        ("spec/headGroupSpec/template/spec/volumes/3/emptyDir/medium", None, "/dev/shm is no memory"),
        (
            "spec/headGroupSpec/template/spec/volumes/3/emptyDir/sizeLimit",
            "4Gi",
            "is smaller than the object store, 4.8 GiB",
        ),
        ("spec/headGroupSpec/template/spec/volumes/0", None, "but has the volumes ['home', 'shm', 'tmp']"),
        (f"{CONTAINER}/securityContext/privileged", True, "may become more than its user"),
        (f"{CONTAINER}/securityContext/capabilities", {"add": ["SYS_PTRACE"]}, "may become more than its user"),
        (f"{CONTAINER}/securityContext/readOnlyRootFilesystem", False, "writes to its image"),
        (f"{CONTAINER}/resources/requests/cpu", 1, "requests are not limits"),
        (f"{CONTAINER}/image", "registry.example.com/countryreward:latest", "needs a tag, and not latest"),
        (f"{CONTAINER}/lifecycle", None, "has no preStop"),
        ("spec/workerGroupSpecs/0/template/spec/automountServiceAccountToken", True, "holds a key to Kubernetes"),
        ("spec/workerGroupSpecs/0/minReplicas", 9, "not between minReplicas and maxReplicas"),
    ],
)
def test_an_unsafe_file_is_found(where: str, value: Any, said: str):
    assert any(said in problem for problem in problems(changed(document("raycluster.yaml"), where, value)))


def test_a_real_secret_is_found():
    secret = document("secret.example.yaml")
    assert problems(secret) == []
    assert problems(changed(secret, "stringData/password", "hunter2hunter2")) == ["password: a real secret"]
    assert len("REPLACE_ME") < 32  # which Redis refuses
    assert '[ "${#REDIS_PASSWORD}" -ge 32 ]' in yaml.safe_dump(documents("redis.yaml"), width=1000)


def test_every_kind_that_was_promised_is_there():
    found = {name: [one["kind"] for one in documents(name)] for name in KUBERAY}
    assert found == {
        "namespace.yaml": ["Namespace", "PersistentVolumeClaim"],
        "network.yaml": ["NetworkPolicy"] * 5,
        "raycluster.yaml": ["RayCluster"],
        "rayjob-knowledge-base.yaml": ["RayJob"],
        "rayjob-train.yaml": ["RayJob"],
        "rayjob-tune.yaml": ["RayJob"],
        "rayservice.yaml": ["RayService", "Ingress", "Ingress"],
        "redis.yaml": ["Service", "StatefulSet"],
        "secret.example.yaml": ["Secret"],
    }


def test_names_that_one_file_gives_are_used_by_the_others():
    namespace, disk = (one["metadata"]["name"] for one in documents("namespace.yaml"))
    everything = [one for name in KUBERAY for one in documents(name) if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in everything} == {namespace}
    pods = [pod["spec"] for one in everything for _, pod in pods_of(one)]
    claims = [volume.get("persistentVolumeClaim") for pod in pods for volume in pod.get("volumes", [])]
    assert {claim["claimName"] for claim in claims if claim} == {disk}
    secret = document("secret.example.yaml")
    named = re.findall(r"secretKeyRef: \{name: ([\w-]+), key: (\w+)\}", "".join(map(text_of, KUBERAY)))
    assert set(named) == {(secret["metadata"]["name"], *secret["stringData"])}
    redis = documents("redis.yaml")[0]
    address = f"{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}"
    tolerant = [
        cluster["gcsFaultToleranceOptions"]
        for one in everything
        if (cluster := cluster_of(one) or {}).get("gcsFaultToleranceOptions")
    ]
    assert [options["redisAddress"] for options in tolerant] == [address, address]


def text_of(name: str) -> str:
    return (CLUSTER / "kuberay" / name).read_text(encoding="utf-8")


def test_the_network_lets_in_the_cluster_the_operator_and_the_ingress_alone():
    policies = {one["metadata"]["name"]: one["spec"] for one in documents("network.yaml")}
    rays = {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    inside, operator = policies["ray"]["ingress"]
    assert inside == {"from": [{"podSelector": rays}]}
    assert operator["ports"] == [{"protocol": "TCP", "port": 8265}]
    (metrics,) = policies["metrics"]["ingress"]
    assert metrics["ports"] == [{"protocol": "TCP", "port": 8080}]
    (serve,) = policies["serve"]["ingress"]
    assert serve["ports"] == [{"protocol": "TCP", "port": 8000}]
    assert policies["redis"]["ingress"] == [
        {"from": [{"podSelector": rays}], "ports": [{"protocol": "TCP", "port": 6379}]}
    ]
    assert policies["redis"]["egress"] == []
    for spec in policies.values():  # a peer without a selector, or with an empty one, is everybody
        peers = [peer for rule in spec.get("ingress", []) for peer in rule["from"]]
        assert all(peer and all(peer.values()) for peer in peers)
    serving = [pod["metadata"]["labels"] for _, pod in pods_of(document("rayservice.yaml"))]
    assert serving == [policies["serve"]["podSelector"]["matchLabels"]] * 3
    (redis,) = (pod for one in documents("redis.yaml") for _, pod in pods_of(one))
    assert redis["metadata"]["labels"] == policies["redis"]["podSelector"]["matchLabels"]


@pytest.mark.parametrize("name", ["raycluster.yaml", *RAY_JOBS, "rayservice.yaml"])
def test_gpu_pods_have_an_image_and_a_place_with_gpus(name: str):
    for group, pod in pods_of(document(name)):
        (container,) = pod["spec"]["containers"]
        wants = "nvidia.com/gpu" in container["resources"]["limits"]
        assert wants == group.startswith("gpu")
        assert container["image"] == f"{IMAGE}-{'gpu' if wants else 'cpu'}"
        tolerated = [one["key"] for one in pod["spec"].get("tolerations", [])]
        assert ("nvidia.com/gpu" in tolerated) == wants


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob-train.yaml", "rayjob-tune.yaml"])
def test_spot_groups_take_other_nodes_and_the_others_never_spot(name: str):
    pods = dict(pods_of(document(name)))
    spot, on_demand = (pods[group]["spec"] for group in ("gpu-spot", "gpu-on-demand"))
    assert list(spot["affinity"]["nodeAffinity"]) == ["preferredDuringSchedulingIgnoredDuringExecution"]
    assert list(on_demand["affinity"]["nodeAffinity"]) == ["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = on_demand["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    refused = {one["key"]: one["values"] for one in term["matchExpressions"] if one["operator"] == "NotIn"}
    wanted = [
        one
        for choice in spot["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        for one in choice["preference"]["matchExpressions"]
    ]
    assert refused == {one["key"]: one["values"] for one in wanted}
    assert [one["key"] for one in on_demand["tolerations"]] == ["nvidia.com/gpu"]


def test_there_are_workers_for_what_the_training_asks():
    spec = document("rayjob-train.yaml")["spec"]
    workers = int(re.findall(r"--workers\.workers=(\d+)", spec["entrypoint"])[0])
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:  # either group is enough
        assert group["maxReplicas"] >= workers + spec["entrypointNumGpus"] == 9


# --- what the files name


def serve_configs() -> tuple[dict[str, Any], dict[str, Any]]:
    ours = yaml.safe_load((ROOT / "serve_apps" / "reward.yaml").read_text(encoding="utf-8"))
    return ours, yaml.safe_load(document("rayservice.yaml")["spec"]["serveConfigV2"])


def test_the_serve_config_is_that_of_serve_apps():
    ours, embedded = (leaves(config) for config in serve_configs())
    assert list(ours) == list(embedded)
    assert {place: (ours[place], embedded[place]) for place in ours if ours[place] != embedded[place]} == (
        OTHER_IN_THE_CLUSTER
    )


def test_what_the_serve_config_imports_and_where_it_listens():
    _, embedded = serve_configs()
    (application,) = embedded["applications"]
    module, name = application["import_path"].split(":")
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert re.search(rf"^from countryreward\S+ import .*\b{name}\b", source, re.MULTILINE)
    port = embedded["http_options"]["port"]
    service, *ingresses = documents("rayservice.yaml")
    serving = dict(pods_of(service))["replicas"]["spec"]["containers"][0]["ports"]
    assert serving == [{"name": "serve", "containerPort": port}]
    published = []
    for ingress in ingresses:
        (rule,) = ingress["spec"]["rules"]
        for path in rule["http"]["paths"]:
            published.append((path["path"], path["pathType"]))
            wanted = {"name": f"{service['metadata']['name']}-serve-svc", "port": {"number": port}}
            assert path["backend"]["service"] == wanted
        assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    outside = ("/v1", "Prefix"), *((path, "Exact") for path in ("/openapi.json", "/healthz", "/readyz", "/v1/batch"))
    assert published == list(outside)  # neither metrics nor what is Serve's own


def test_serve_pods_run_as_serve_environment_says():
    for _, pod in pods_of(document("rayservice.yaml")):
        (container,) = pod["spec"]["containers"]
        set_here = {one["name"]: one["value"] for one in container["env"] if one["name"].startswith("RAY_SERVE_")}
        assert set_here == SERVE_ENVIRONMENT | {"RAY_SERVE_ENABLE_HA_PROXY": "0"}


def test_serve_pods_end_later_than_their_replicas():
    """preStop: Serve is told and moves the replicas, then its own 30 s; all of it inside the grace period."""
    for group, pod in pods_of(document("rayservice.yaml")):
        command = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
        if group != "head":
            assert command == (
                "python -m countryreward.on_ray.preemption --address $FQ_RAY_IP:6379 --now 25; ray stop --grace-period 35"
            )
            assert pod["spec"]["terminationGracePeriodSeconds"] > 25 + 35


@pytest.mark.parametrize("name", RAY_JOBS)
def test_jobs_exist(name: str):
    spec = document(name)["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[0] == "python"
    assert words[1].startswith("/app/jobs/")
    assert (ROOT / words[1].removeprefix("/app/")).is_file()
    given = yaml.safe_load((CLUSTER / "runtime_env.yaml").read_text(encoding="utf-8"))["env_vars"]
    here = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert here == {"RAY_JOB_STOP_WAIT_TIME_S": given["RAY_JOB_STOP_WAIT_TIME_S"]}


@pytest.mark.slow  # a process each
@pytest.mark.parametrize("name", RAY_JOBS)
def test_options_of_the_jobs_exist(name: str, tmp_path: Path):
    _, path, *options = shlex.split(document(name)["spec"]["entrypoint"])
    misspelt = [*options, "--outt=x"]
    calls = {"right": [*options, "--print_config"], "misspelt": [*misspelt, "--print_config"]}
    done = run_calls(Path(path).name, calls, tmp_path)
    assert done["right"]["code"] in (0, None), done["right"]["err"]
    printed = yaml.safe_load(done["right"]["out"])
    assert "out" in printed
    assert done["misspelt"]["code"] == 2
    assert "outt" in done["misspelt"]["err"]


def test_our_variables_are_read_somewhere():
    named = {one["name"] for container in containers() for one in container.get("env", [])}
    texts = [(CLUSTER / name).read_text(encoding="utf-8") for name in [*RAY_UP, "Dockerfile"]]
    named |= {found for text in texts for found in re.findall(r"\bCOUNTRYREWARD_[A-Z_]+", text)}
    assert {name for name in named if name.startswith("COUNTRYREWARD_")} == set(OURS)
    for name, where in OURS.items():
        assert name in (ROOT / where).read_text(encoding="utf-8")


def test_the_home_of_relative_paths_is_mounted_everywhere():
    for container in containers():
        if container["name"].startswith("ray-"):
            mounts = {one["mountPath"] for one in container["volumeMounts"]}
            assert {"name": "COUNTRYREWARD_HOME", "value": "/data"} in container["env"]
            assert {"/data", "/tmp", "/dev/shm", "/home/countryreward"} == mounts
    for name in RAY_UP:
        assert "--volume /mnt/countryreward:/data" in ray_up(name)["docker"]["run_options"]


def test_versions_are_those_of_the_project():
    ray = next(one for one in PROJECT["optional-dependencies"]["platform"] if one.startswith("ray["))
    pinned = re.findall(r">=(\d+\.\d+)", ray)[0]
    texts = {name: text_of(name) for name in KUBERAY}
    versions = {version for text in texts.values() for version in re.findall(r'rayVersion: "([\d.]+)"', text)}
    assert versions == {f"{pinned}.0"}
    everywhere = "".join([*texts.values(), DOCKERFILE, *((CLUSTER / name).read_text() for name in RAY_UP)])
    images = set(re.findall(r"registry\.example\.com/\S+", everywhere)) - {"registry.example.com."}
    assert {image.rstrip(".") for image in images} == {f"{IMAGE}-cpu", f"{IMAGE}-gpu"}


# --- the image


def test_the_image_takes_extras_that_exist():
    choices = re.findall(r'case "\$\{EXTRA\}" in (\S+)\)', DOCKERFILE)[0].split("|")
    assert choices == ["cpu", "gpu"]
    assert set(choices) <= set(PROJECT["optional-dependencies"])
    assert 'pip install ".[${EXTRA}]"' in DOCKERFILE
    assert "flash" not in re.sub(r"^#.*$", "", DOCKERFILE, flags=re.MULTILINE)
    python = re.findall(r"^ARG PYTHON=([\d.]+)$", DOCKERFILE, re.MULTILINE)[0]
    assert f">={python}" in PROJECT["requires-python"]


def test_the_image_is_nobodys_root_and_holds_no_secret():
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["1000:1000"]
    after = DOCKERFILE.partition("USER 1000:1000")[2]
    assert [line for line in after.splitlines() if line.startswith(("RUN", "COPY", "ADD"))] == []
    for container in containers():
        if container["name"].startswith("ray-"):
            assert container["image"].startswith(IMAGE)
    names = re.findall(r"^(?:ARG|ENV|    )\s*([A-Z_]+)=", DOCKERFILE, re.MULTILINE)
    assert {"RAY_AUTH_MODE", "HOME"} <= set(names)
    assert [name for name in names if re.search("TOKEN|PASSWORD|SECRET|KEY", name)] == []


def test_only_what_is_named_goes_into_the_image():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert kept == ["LICENSE", "README.md", "pyproject.toml", "jobs", "platform", "serve_apps", "tune_spaces"]
    assert {"**/*.key", "**/*.token", "**/*.pem", "**/.env*"} <= set(lines)
    for copied in re.findall(r"^COPY (.+) /app/?$", DOCKERFILE, re.MULTILINE):
        assert set(copied.split()) <= {*kept, "."}


TEXTS = [*RAY_UP, "Dockerfile", *(f"kuberay/{name}" for name in KUBERAY)]
ELSEWHERE: dict[str, Callable[[str], Any]] = {
    "a path of somebody's machine": re.compile(r"/(?:work|root|Users)/|/home/(?!countryreward)").search,
    "a registry or an index": re.compile(r"https?://(?!127\.0\.0\.1)").search,
    "a private address": re.compile(r"\b(?:10|172\.(?:1[6-9]|2\d|3[01])|192\.168)(?:\.\d+){2,3}\b").search,
    "a key": re.compile(r"AKIA[A-Z0-9]{12}|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{40,}\b").search,
}


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_of_one_machine_stands_in_the_files(name: str):
    text = (CLUSTER / name).read_text(encoding="utf-8")
    assert [what for what, search in ELSEWHERE.items() if search(text)] == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of somebody's machine", "model: /home/anna/runs"),
        ("a registry or an index", "--index-url https://pip.corp.example/simple"),
        ("a private address", "head_ip: 192.168.1.7"),
        ("a key", "password: 0123456789abcdef0123456789abcdef01234567"),
    ],
)
def test_what_belongs_to_one_machine_is_found(what: str, text: str):
    assert ELSEWHERE[what](text)


def test_the_page_names_every_file_and_is_linked():
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    for name in [*RAY_UP, "Dockerfile", *KUBERAY]:
        assert f"`{name}`" in page
    assert "(clusters.md)" in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert "clusters.md" in (ROOT / "README.md").read_text(encoding="utf-8")
