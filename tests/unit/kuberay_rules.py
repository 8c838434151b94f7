"""What every file in cluster/ must keep to, beyond its schema: the token, the dashboard, no root, no plain secrets, limits."""

import re
from collections.abc import Iterator
from typing import Any

TOKEN_PATH = "/home/countryreward/ray-auth/token"
LOOPBACK = "127.0.0.1"
ASKED_BY_THE_OPERATOR = ("RayJob", "RayService")
"""The operator submits to these dashboards by the pod's address; network.yaml keeps others off."""
_SECRET_NAME = re.compile("password|token|secret|credential|api_?key", re.IGNORECASE)


def cluster_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """The RayClusterSpec in a document of KubeRay's."""
    spec = document.get("spec", {})
    where = {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec"), "RayService": spec.get("rayClusterConfig")}
    return where.get(document["kind"])


def pods_of(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and PodTemplateSpec of everything that a document starts."""
    cluster = cluster_of(document)
    if cluster:
        yield "head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield group["groupName"], group["template"]
    elif document["kind"] == "StatefulSet":
        yield document["metadata"]["name"], document["spec"]["template"]


def wrong_image(image: str) -> str | None:
    """Why an image is no fixed version."""
    tag = image.rpartition("/")[2].partition(":")[2]
    return None if tag and tag != "latest" else f"{image}: needs a tag, and not latest"


def pod_problems(pod: dict[str, Any]) -> list[str]:
    """What is unsafe in a PodTemplateSpec, or does not fit together."""
    spec, found = pod["spec"], []
    found += [f"{name} is on" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    user = spec["securityContext"]
    if user["runAsNonRoot"] is not True or user["runAsUser"] == 0:
        found.append("runs as root")
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounted = [mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])]
    claimed = {"data"} if "volumeClaimTemplates" in pod.get("beside", {}) else set()
    if set(mounted) - claimed != set(volumes) - claimed:
        found.append(f"mounts {sorted(set(mounted))} but has the volumes {sorted(volumes)}")
    for container in spec["containers"]:
        found += [f"{container['name']}: {problem}" for problem in _container_problems(container, volumes)]
    return found


def _container_problems(container: dict[str, Any], volumes: dict[str, Any]) -> Iterator[str]:
    limits = container["securityContext"]
    if limits.get("privileged") or limits["allowPrivilegeEscalation"] or limits["capabilities"] != {"drop": ["ALL"]}:
        yield "may become more than its user"
    if limits.get("readOnlyRootFilesystem") is not True:
        yield "writes to its image"
    if container["resources"]["requests"] != container["resources"]["limits"]:
        yield "requests are not limits"
    if wrong := wrong_image(container["image"]):
        yield wrong
    for variable in container.get("env", []):
        if _SECRET_NAME.search(variable["name"]) and "value" in variable:
            yield f"{variable['name']}: a plain secret"
    if container["name"].startswith("ray-"):
        if {"name": "RAY_AUTH_MODE", "value": "token"} not in container.get("env", []):
            yield "RAY_AUTH_MODE is not token"
        shared = next((m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm"), "")
        if volumes.get(shared, {}).get("emptyDir", {}).get("medium") != "Memory":
            yield "/dev/shm is no memory"
        elif _gib(volumes[shared]["emptyDir"]["sizeLimit"]) < (needs := store_gib(container)):
            yield f"/dev/shm is smaller than the object store, {needs:.1f} GiB, which Ray would then put on a disk"
        if "preStop" not in container.get("lifecycle", {}):
            yield "has no preStop"


def store_gib(container: dict[str, Any]) -> float:
    """What Ray 2.60 takes for its object store where nothing is said: 30 % of the memory, at most 10^10 bytes."""
    return min(0.3 * _gib(container["resources"]["limits"]["memory"]), 1e10 / 2**30)


def _gib(quantity: str) -> float:
    assert quantity.endswith("Gi"), quantity
    return float(quantity[:-2])


def problems(document: dict[str, Any]) -> list[str]:
    """What is unsafe in one document of cluster/kuberay/."""
    found = []
    if document["kind"] == "Secret":
        found += [f"{name}: a real secret" for name, value in document["stringData"].items() if value != "REPLACE_ME"]
    cluster = cluster_of(document)
    if cluster:
        if cluster.get("authOptions") != {"mode": "token"}:
            found.append("authOptions: no token")
        host = cluster["headGroupSpec"]["rayStartParams"].get("dashboard-host")
        if host != LOOPBACK and document["kind"] not in ASKED_BY_THE_OPERATOR:
            found.append(f"dashboard-host: {host} is not loopback")
        password = cluster.get("gcsFaultToleranceOptions", {}).get("redisPassword", {})
        if "value" in password:
            found.append("redisPassword: a plain secret")
        for group in cluster["workerGroupSpecs"]:
            if group["template"]["spec"].get("automountServiceAccountToken") is not False:
                found.append(f"{group['groupName']}: holds a key to Kubernetes")
            if not group["minReplicas"] <= group.get("replicas", 0) <= group["maxReplicas"]:
                found.append(f"{group['groupName']}: replicas are not between minReplicas and maxReplicas")
    beside = document.get("spec", {})
    for name, pod in pods_of(document):
        found += [f"{name}: {problem}" for problem in pod_problems(pod | {"beside": beside})]
    return found


def ray_up_problems(config: dict[str, Any]) -> list[str]:
    """What is unsafe in a file of `ray up`, or does not fit together."""
    docker, found = config["docker"], []
    images = [docker[name] for name in ("image", "head_image", "worker_image") if name in docker]
    found += [wrong for image in images if (wrong := wrong_image(image))]
    # Ray's own ssh key is a file like any other: excluded, it would not reach the head, and `ray up` would end there
    found += [
        f"rsync_exclude: {one}" for one in config["rsync_exclude"] if one.endswith((".pem", ".key", "/*", "/**/*"))
    ]
    options = docker["run_options"]
    for needed in ("RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={TOKEN_PATH}", "RAY_USAGE_STATS_ENABLED=0"):
        if f"--env {needed}" not in options:
            found.append(f"docker.run_options: no {needed}")
    found += [f"docker.run_options: {option}" for option in options if "privileged" in option or "cap-add" in option]
    if TOKEN_PATH.rpartition("/")[0] not in config["file_mounts"]:
        found.append("file_mounts: no folder of the token")
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (command for command in config[name] if "ray start" in command)
        needed = ["RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={TOKEN_PATH}", "--disable-usage-stats"]
        needed += (
            [f"--dashboard-host={LOOPBACK}", "--autoscaling-config="]
            if name.startswith("head")
            else ["--address=$RAY_HEAD_IP:6379"]
        )
        found += [f"{name}: no {part}" for part in needed if part not in start.split() and part not in start]
    return found
