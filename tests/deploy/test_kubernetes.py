"""deploy/kubernetes against the published schemas, against itself, and against the service."""

from __future__ import annotations

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from service.settings import MIB
from tests.deploy.files import KUBERNETES, PROJECT, read, settings_of, variables

KUSTOMIZATION = read(KUBERNETES / "kustomization.yaml")
SECRET = read(KUBERNETES / "secret.example.yaml")
MANIFESTS: dict[str, dict[str, Any]] = {path.stem: read(path) for path in sorted(KUBERNETES.glob("*.yaml"))}
VARIABLES = variables(KUBERNETES / "settings.env")
SETTINGS = settings_of(VARIABLES)

DEPLOYMENT = MANIFESTS["deployment"]["spec"]
POD = DEPLOYMENT["template"]["spec"]
(CONTAINER,) = POD["containers"]
LABELS = DEPLOYMENT["template"]["metadata"]["labels"]
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
AUTOSCALER = MANIFESTS["horizontalpodautoscaler"]["spec"]

_BESIDE_SLOTS = 2
"""Connections of a worker that are no flush slots: for the catalog, and now and then for housekeeping."""

_WORKER_BYTES = 100 * MIB
"""What a worker needs beside requests."""

_OTHERS = 3
"""Connections for people and migrations."""


def _mebibytes(quantity: str) -> int:
    assert quantity.endswith("Mi")
    return int(quantity.removesuffix("Mi"))


# -------------------------------------------------------------------- the manifests


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
@pytest.mark.parametrize("name", sorted(MANIFESTS.keys() - {"kustomization"}))
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    """The oldest version that has all of them, and the newest whose schema is at hand."""
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


def test_the_schemas_do_not_allow_everything() -> None:
    """Otherwise the test above says nothing."""
    misspelt = {**MANIFESTS["service"], "spec": {**MANIFESTS["service"]["spec"], "selektor": LABELS}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, "1.37", strict=True)


def test_the_kustomization_has_every_manifest_but_the_example() -> None:
    """An example that is applied would replace the real password."""
    listed = KUSTOMIZATION["resources"]
    assert sorted(listed) == sorted(f"{name}.yaml" for name in MANIFESTS.keys() - {"kustomization", "secret.example"})
    assert KUSTOMIZATION["namespace"] == MANIFESTS["namespace"]["metadata"]["name"]
    assert SECRET["metadata"]["namespace"] == KUSTOMIZATION["namespace"]


def test_everything_is_about_the_same_pods() -> None:
    """What selects other pods, or none, does nothing, and nothing complains."""
    assert DEPLOYMENT["selector"]["matchLabels"] == LABELS
    assert MANIFESTS["service"]["spec"]["selector"] == LABELS
    assert MANIFESTS["poddisruptionbudget"]["spec"]["selector"]["matchLabels"] == LABELS
    assert MANIFESTS["networkpolicy"]["spec"]["podSelector"]["matchLabels"] == LABELS
    assert all(spread["labelSelector"]["matchLabels"] == LABELS for spread in POD["topologySpreadConstraints"])
    deployment = MANIFESTS["deployment"]
    assert AUTOSCALER["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }


def test_the_pods_run_this_version() -> None:
    """An image of another version may have other settings."""
    (image,) = KUSTOMIZATION["images"]
    assert (image["name"], image["newTag"]) == (CONTAINER["image"], PROJECT["project"]["version"])


# -------------------------------------------------------------------- settings


def test_the_pods_have_the_settings_and_the_database() -> None:
    """A pod without its settings would listen on the loopback address, and one without the secret does not start."""
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    assert generated == {"name": "headrace-settings", "envs": ["settings.env"]}
    assert CONTAINER["envFrom"] == [{"configMapRef": {"name": generated["name"]}}]
    (volume,) = (volume for volume in POD["volumes"] if "secret" in volume)
    assert volume["secret"]["secretName"] == SECRET["metadata"]["name"]
    (mount,) = (mount for mount in CONTAINER["volumeMounts"] if mount["name"] == volume["name"])
    (key,) = SECRET["stringData"]
    assert VARIABLES["HEADRACE_DSN_FILE"] == f"{mount['mountPath']}/{key}"


def test_kubernetes_sets_no_variables_of_its_own_that_are_settings_of_ours() -> None:
    """For a Service called headrace it would set HEADRACE_PORT to an address."""
    assert f"{MANIFESTS['service']['metadata']['name'].upper()}_PORT" in VARIABLES
    assert POD["enableServiceLinks"] is False


def test_there_are_connections_for_as_many_pods_as_there_may_be() -> None:
    """The budget is reckoned with HEADRACE_PODS; what is replaced needs connections beside it."""
    assert int(VARIABLES["HEADRACE_PODS"]) == AUTOSCALER["maxReplicas"]
    assert "replicas" not in DEPLOYMENT, "each `kubectl apply` would undo what the autoscaler has done"
    of_a_pod = int(VARIABLES["HEADRACE_WORKERS"]) * (SETTINGS.flush_slots + _BESIDE_SLOTS)
    more = (int(VARIABLES["HEADRACE_CONNECTIONS_RESERVE"]) - _OTHERS) // of_a_pod
    assert more >= DEPLOYMENT["strategy"]["rollingUpdate"]["maxSurge"] + 2, "and those that are still stopping"


def test_a_pod_may_use_the_memory_that_it_may_need() -> None:
    """Otherwise it is killed under overload, with all that waits in it."""
    limit = _mebibytes(CONTAINER["resources"]["limits"]["memory"])
    temporary = sum(_mebibytes(volume["emptyDir"]["sizeLimit"]) for volume in POD["volumes"] if "emptyDir" in volume)
    worker = 2 * SETTINGS.pending_bytes_max + _WORKER_BYTES
    assert limit - temporary >= int(VARIABLES["HEADRACE_WORKERS"]) * worker / MIB
    assert "cpu" not in CONTAINER["resources"]["limits"], "an event loop that may not run lets everybody wait"


# -------------------------------------------------------------------- starting and stopping


def test_a_pod_has_time_to_stop() -> None:
    """After that it is killed, with the requests that it has accepted."""
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause > 0, "new connections come until everybody knows that the pod is going"
    assert POD["terminationGracePeriodSeconds"] >= pause + SETTINGS.drain_seconds_max + 10


def test_a_new_version_takes_over_before_the_old_one_goes() -> None:
    """Clients need not notice an upgrade."""
    assert DEPLOYMENT["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert MANIFESTS["poddisruptionbudget"]["spec"]["maxUnavailable"] < AUTOSCALER["minReplicas"]


def test_probes_are_answered_however_many_clients_there_are() -> None:
    """A busy pod that is killed leaves the others with its clients."""
    assert {"http": int(VARIABLES["HEADRACE_PORT"]), "admin": int(VARIABLES["HEADRACE_ADMIN_PORT"])} == PORTS
    paths = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert paths == {
        "startup": {"path": "/livez", "port": "admin"},
        "liveness": {"path": "/livez", "port": "admin"},
        "readiness": {"path": "/readyz", "port": "admin"},
    }


# -------------------------------------------------------------------- who may what


def test_the_pods_keep_to_the_restricted_profile() -> None:
    """The namespace admits no others."""
    labels = MANIFESTS["namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False
    assert all(volume.keys() & {"secret", "emptyDir"} for volume in POD["volumes"])


def test_numbers_are_for_the_monitoring_and_rows_for_everybody() -> None:
    """/metrics and the dashboard tell what is written where."""
    (everybody, monitoring) = MANIFESTS["networkpolicy"]["spec"]["ingress"]
    assert everybody == {"ports": [{"port": "http"}]}
    assert monitoring["ports"] == [{"port": "admin"}]
    assert monitoring["from"]
    assert [port["targetPort"] for port in MANIFESTS["service"]["spec"]["ports"]] == ["http"]


def test_the_pods_reach_nothing_but_names_and_the_database() -> None:
    """Whoever gets into one gets no further."""
    policy = MANIFESTS["networkpolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ports == {53, 5432}
