"""What may stand in cluster/kuberay/*.yaml: a strict schema of the fields that we use, unknown keys refused.

KubeRay's fields are those of its API reference and of its types in Go as of v1.5.1 and later; only the parts that our
files need, and no more than names, types and choices.
"""

from typing import Any

import jsonschema

Spec = Any
"""A type (str, int, bool, float), a set of allowed strings, [Spec] for lists, {str: Spec} for any keys, or {name: Spec}; a
name that ends in ! is required."""

QUANTITY = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$"}]}
PORT = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 65535},
        {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,14}$"},
    ]
}
NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
_TYPES = {str: "string", int: "integer", bool: "boolean", float: "number"}


def json_schema(spec: Spec) -> dict[str, Any]:
    """JSON Schema of a spec. A dict that has `type` or `anyOf` as a key is JSON Schema already."""
    if isinstance(spec, type):
        return {"type": _TYPES[spec]}
    if isinstance(spec, set):
        return {"enum": sorted(spec)}
    if isinstance(spec, list):
        return {"type": "array", "items": json_schema(spec[0])}
    if spec.get("type") in _TYPES.values() or "anyOf" in spec:
        return spec
    if str in spec:
        return {"type": "object", "additionalProperties": json_schema(spec[str])}
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name.rstrip("!"): json_schema(inner) for name, inner in spec.items()},
        "required": [name[:-1] for name in spec if name.endswith("!")],
    }


MAP = {str: str}
METADATA = {"name!": NAME, "namespace": NAME, "labels": MAP, "annotations": MAP}
REQUIREMENT = {"key!": str, "operator!": {"In", "NotIn", "Exists", "DoesNotExist"}, "values": [str]}
SELECTOR = {"matchLabels": MAP, "matchExpressions": [REQUIREMENT]}
RESOURCES = {"requests!": {str: QUANTITY}, "limits!": {str: QUANTITY}}
FROM_SECRET = {"secretKeyRef!": {"name!": NAME, "key!": str}}
EXEC = {"exec!": {"command!": [str]}}
PROBE = EXEC | {"periodSeconds": int, "timeoutSeconds": int, "initialDelaySeconds": int, "failureThreshold": int}
SECCOMP = {"type!": {"RuntimeDefault", "Localhost"}}
SECURITY = {
    "allowPrivilegeEscalation!": bool,
    "readOnlyRootFilesystem": bool,
    "privileged": bool,
    "capabilities!": {"drop": [str], "add": [str]},
    "runAsNonRoot": bool,
    "runAsUser": int,
    "seccompProfile": SECCOMP,
}
POD_SECURITY = {
    "runAsNonRoot!": bool,
    "runAsUser!": int,
    "runAsGroup!": int,
    "fsGroup": int,
    "fsGroupChangePolicy": {"OnRootMismatch", "Always"},
    "seccompProfile!": SECCOMP,
}
CONTAINER = {
    "name!": NAME,
    "image!": str,
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value": str, "valueFrom": FROM_SECRET}],
    "ports": [{"name!": NAME, "containerPort!": int, "protocol": {"TCP", "UDP"}}],
    "resources!": RESOURCES,
    "lifecycle": {"preStop": EXEC, "postStart": EXEC},
    "readinessProbe": PROBE,
    "livenessProbe": PROBE,
    "securityContext!": SECURITY,
    "volumeMounts": [{"name!": NAME, "mountPath!": str, "readOnly": bool, "subPath": str}],
}
NODE_TERM = {"matchExpressions!": [REQUIREMENT]}
POD = {
    "metadata": {"labels": MAP, "annotations": MAP},
    "spec!": {
        "automountServiceAccountToken": bool,
        "hostNetwork": bool,
        "hostPID": bool,
        "hostIPC": bool,
        "terminationGracePeriodSeconds!": int,
        "securityContext!": POD_SECURITY,
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight!": int, "preference!": NODE_TERM}],
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms!": [NODE_TERM]},
            }
        },
        "tolerations": [
            {
                "key!": str,
                "operator": {"Exists", "Equal"},
                "value": str,
                "effect": {"NoSchedule", "NoExecute", "PreferNoSchedule"},
            }
        ],
        "topologySpreadConstraints": [
            {
                "maxSkew!": int,
                "topologyKey!": str,
                "whenUnsatisfiable!": {"DoNotSchedule", "ScheduleAnyway"},
                "labelSelector": SELECTOR,
            }
        ],
        "containers!": [CONTAINER],
        "volumes": [
            {
                "name!": NAME,
                "emptyDir": {"medium": {"Memory"}, "sizeLimit!": QUANTITY},
                "persistentVolumeClaim": {"claimName!": NAME},
                "secret": {"secretName!": NAME, "defaultMode": int},
            }
        ],
    },
}
CLAIM = {
    "accessModes!": [{"ReadWriteOnce", "ReadWriteMany"}],
    "storageClassName": str,
    "resources!": {"requests!": {str: QUANTITY}},
}
CLUSTER = {
    "rayVersion!": str,
    "authOptions!": {"mode!": {"token", "disabled"}, "secretName": NAME},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "version": {"v1", "v2"},
        "upscalingMode": {"Default", "Aggressive", "Conservative"},
        "idleTimeoutSeconds": int,
        "resources": RESOURCES,
        "securityContext": SECURITY,
    },
    "gcsFaultToleranceOptions": {
        "redisAddress!": str,
        "redisPassword!": {"valueFrom": FROM_SECRET, "value": str},
        "redisUsername": {"valueFrom": FROM_SECRET, "value": str},
        "externalStorageNamespace": str,
    },
    "headGroupSpec!": {
        "serviceType": {"ClusterIP", "NodePort", "LoadBalancer"},
        "rayStartParams!": MAP,
        "template!": POD,
    },
    "workerGroupSpecs!": [
        {
            "groupName!": NAME,
            "replicas": int,
            "minReplicas!": int,
            "maxReplicas!": int,
            "rayStartParams!": MAP,
            "template!": POD,
        }
    ],
}
PEER = {"podSelector": SELECTOR, "namespaceSelector": SELECTOR}
PORTS = [{"protocol": {"TCP", "UDP"}, "port!": PORT}]
BACKEND = {"service!": {"name!": NAME, "port!": {"number!": int}}}
SPECS: dict[str, Spec] = {
    "ray.io/v1 RayCluster": {"spec!": CLUSTER},
    "ray.io/v1 RayJob": {
        "spec!": {
            "entrypoint!": str,
            "entrypointNumCpus": float,
            "entrypointNumGpus": float,
            "submissionMode!": {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
            "backoffLimit": int,
            "activeDeadlineSeconds": int,
            "shutdownAfterJobFinishes": bool,
            "ttlSecondsAfterFinished": int,
            "runtimeEnvYAML": str,
            "rayClusterSpec!": CLUSTER,
        }
    },
    "ray.io/v1 RayService": {
        "spec!": {
            "upgradeStrategy": {"type": {"NewCluster", "None"}},
            "excludeHeadPodFromServeSvc": bool,
            "serveConfigV2!": str,
            "rayClusterConfig!": CLUSTER,
        }
    },
    "v1 Namespace": {},
    "v1 PersistentVolumeClaim": {"spec!": CLAIM},
    "v1 Secret": {"type": {"Opaque"}, "stringData": MAP},
    "v1 Service": {
        "spec!": {
            "type": {"ClusterIP"},
            "selector!": MAP,
            "ports!": [{"name!": NAME, "port!": int, "targetPort": PORT}],
        }
    },
    "apps/v1 StatefulSet": {
        "spec!": {
            "serviceName!": NAME,
            "replicas": int,
            "selector!": SELECTOR,
            "template!": POD,
            "volumeClaimTemplates": [{"metadata!": METADATA, "spec!": CLAIM}],
        }
    },
    "networking.k8s.io/v1 NetworkPolicy": {
        "spec!": {
            "podSelector!": SELECTOR,
            "policyTypes!": [{"Ingress", "Egress"}],
            "ingress": [{"from!": [PEER], "ports": PORTS}],
            "egress": [{"to!": [PEER], "ports": PORTS}],
        }
    },
    "networking.k8s.io/v1 Ingress": {
        "spec!": {
            "ingressClassName!": str,
            "tls!": [{"hosts!": [str], "secretName!": NAME}],
            "rules!": [
                {
                    "host!": str,
                    "http!": {"paths!": [{"path!": str, "pathType!": {"Prefix", "Exact"}, "backend!": BACKEND}]},
                }
            ],
        }
    },
}
"""apiVersion and kind -> the rest of the document."""


def wrong_fields(document: dict[str, Any]) -> list[str]:
    """`where: what` of everything that the schema does not know."""
    kind = f"{document.get('apiVersion')} {document.get('kind')}"
    if kind not in SPECS:
        return [f"{kind}: an unknown kind"]
    whole = json_schema({"apiVersion!": str, "kind!": str, "metadata!": METADATA} | SPECS[kind])
    found = jsonschema.Draft202012Validator(whole).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]
