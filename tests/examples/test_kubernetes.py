"""The manifests of word_count: a schema validator accepts them, and what they say fits together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

MANIFESTS = Path(__file__).parents[2] / "examples" / "word_count" / "kubernetes"
FILES = sorted(MANIFESTS.rglob("*.yaml"))
OLDEST, NEWEST = "1.32", "1.37"
#: Defined by KEP-1645 and not by Kubernetes, so no schema of Kubernetes knows it. It has no specification to get wrong.
NOT_OF_KUBERNETES = {"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport"}
CLUSTERS = ("east", "west")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def find(kind: str, name: str, *files: str) -> dict[str, Any]:
    found = [
        document
        for file in files or ("word-count.yaml",)
        for document in documents(MANIFESTS / file)
        if document["kind"] == kind and document["metadata"]["name"] == name
    ]
    assert len(found) == 1, (kind, name, files)
    return found[0]


def workloads() -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each workload with its pod and its only container."""
    for kind, name, file in (
        ("StatefulSet", "word-count", "word-count.yaml"),
        ("Deployment", "word-count-observer", "observer.yaml"),
    ):
        workload = find(kind, name, file)
        pod = workload["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        yield workload, pod, container


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_a_schema_validator_accepts_each_document(path: Path, version: str) -> None:
    """Strictly: a member that Kubernetes does not know is an error."""
    for document in documents(path):
        if {name: document[name] for name in NOT_OF_KUBERNETES} == NOT_OF_KUBERNETES:
            assert document == {**NOT_OF_KUBERNETES, "metadata": {"name": "word-count"}}
            continue
        assert kubernetes_validate.validate(document, version, strict=True) == version


def test_the_validator_refuses_what_is_wrong() -> None:
    """A mistyped member and a number for a text are found, so acceptance means something."""
    for wrong in ({"terminationGracePeriod": 3}, {"terminationGracePeriodSeconds": "3"}):
        document = find("StatefulSet", "word-count")
        document["spec"]["template"]["spec"].update(wrong)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document, NEWEST, strict=True)


def test_selectors_find_the_pods_and_ports_exist() -> None:
    """Services and budgets mean the pods of the workload in their file; named ports are ports of the container."""
    for workload, pod, container in workloads():
        labels = pod["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"] == labels
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        file = "word-count.yaml" if workload["kind"] == "StatefulSet" else "observer.yaml"
        for document in documents(MANIFESTS / file):
            if document["kind"] == "Service":
                assert document["spec"]["selector"] == labels
                assert {port["targetPort"] for port in document["spec"]["ports"]} <= set(ports)
            if document["kind"] == "PodDisruptionBudget":
                assert document["spec"]["selector"]["matchLabels"] == labels
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        values = {each["name"]: each.get("value") for each in container["env"]}
        assert int(values["PORT"]) == ports["http"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert values["STREAMS_DATA_DIR"] in mounts


def test_the_headless_service_names_pods_that_are_not_ready() -> None:
    """Instances that restore have to find each other."""
    headless = find("Service", "word-count")
    assert find("StatefulSet", "word-count")["spec"]["serviceName"] == headless["metadata"]["name"]
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_instance_has_a_way_in_through_the_ingress(cluster: str) -> None:
    """For each replica: a service of its own, and a rule for the host name that it advertises."""
    file = f"north-south/{cluster}.yaml"
    suffix, _, port = find("ConfigMap", "word-count", file)["data"]["address-suffix"].rpartition(":")
    rules = {rule["host"]: rule for rule in find("Ingress", "word-count", file)["spec"]["rules"]}
    for number in range(find("StatefulSet", "word-count")["spec"]["replicas"]):
        pod = f"word-count-{number}"
        service = find("Service", pod, file)
        assert service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"] == pod
        assert service["spec"]["publishNotReadyAddresses"] is True
        (path,) = rules.pop(pod + suffix)["http"]["paths"]
        assert path["path"] == "/"
        assert path["backend"]["service"]["name"] == pod
        assert port == "80"
    (for_clients,) = rules.values()
    used = {path["backend"]["service"]["name"] for path in for_clients["http"]["paths"]}
    assert used == {find("Service", "word-count-queries")["metadata"]["name"]}


@pytest.mark.parametrize("way", ["north-south", "east-west"])
def test_the_two_clusters_differ_in_nothing_but_their_names(way: str) -> None:
    """Who changes one of them changes the other."""
    east, west = ((MANIFESTS / way / f"{cluster}.yaml").read_text() for cluster in CLUSTERS)
    assert east != west
    assert east.replace("east", "west") == west


def test_pods_are_confined() -> None:
    """No root, no writable image, no privileges, no token, and an upper bound for memory."""
    for _, pod, container in workloads():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


def test_no_secret_is_written_down() -> None:
    """Secrets are named, never contained."""
    assert not [path for path in FILES for document in documents(path) if document["kind"] == "Secret"]
