"""The manifests of word_count: a schema validator accepts them, and what they say fits together."""

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from falcon import testing

from examples.word_count.service import OBSERVED_TOPICS
from examples.word_count.topology import observer
from streams.application import StreamsApplication, StreamsSettings
from streams.http import serving
from streams.http.addresses import AddressRules
from streams.http.serving import serve_app
from streams.log.kafka import KafkaSettings
from streams.log.kafka.settings import admin_config, member_config, producer_config, reader_config

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


def environment_of(container: dict[str, Any], *files: str, pod: str) -> dict[str, str]:
    """Return the variables of *container*, as Kubernetes makes them for *pod*."""
    fields = {"metadata.name": pod, "status.podIP": "10.1.2.3"}
    found: dict[str, str] = {}
    for each in container["envFrom"]:
        if "configMapRef" in each:
            found |= find("ConfigMap", each["configMapRef"]["name"], "kafka.yaml")["data"]
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "fieldRef" in source:
            value = fields[source["fieldRef"]["fieldPath"]]
        elif "configMapKeyRef" in source:
            reference = source["configMapKeyRef"]
            value = find("ConfigMap", reference["name"], *files)["data"][reference["key"]]
        elif "secretKeyRef" in source:
            value = "sixteen bytes or more"
        else:
            value = variable["value"]
        for name, text in found.items():
            value = value.replace(f"$({name})", text)
        found[variable["name"]] = value
    return found


@pytest.mark.parametrize(
    ("file", "address"),
    [
        ("one-cluster.yaml", "http://word-count-2.word-count:9080"),
        ("north-south/west.yaml", "http://word-count-2.west.word-count.example.com:80"),
        ("east-west/west.yaml", "http://word-count-2.west.word-count.default.svc.clusterset.local:9080"),
    ],
)
def test_a_pod_advertises_its_own_name(file: str, address: str) -> None:
    """Which is an address that peers accept; and the variables are settings, or the program would refuse to start."""
    _, _, container = next(workloads())
    environment = environment_of(container, file, pod="word-count-2")
    settings = StreamsSettings.from_env({name: text for name, text in environment.items() if name != "POD_NAME"})
    assert settings.address == address
    assert AddressRules(own="http://10.0.0.1:9080", has_secret=True).parse(address).port in (80, 9080)
    assert settings.num_standby_replicas == 1
    cluster = environment["CLUSTER"]
    assert (settings.node_id, settings.rack) == (f"{cluster}-word-count-2", cluster)


def test_kafkas_security_is_handed_through() -> None:
    """Whatever the client of Kafka knows, from the ConfigMap or the Secret; a password of digits stays a text."""
    given = {
        "STREAMS_BOOTSTRAP_SERVERS": "kafka:9093",
        "STREAMS_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "STREAMS_KAFKA_SSL_CAFILE": "/etc/kafka/ca.pem",
        "STREAMS_KAFKA_SSL_CHECK_HOSTNAME": "false",
        "STREAMS_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "STREAMS_KAFKA_SASL_PLAIN_USERNAME": "words",
        "STREAMS_KAFKA_SASL_PLAIN_PASSWORD": "0123456",
        "STREAMS_KAFKA_REQUEST_TIMEOUT_MS": "4000",
    }
    settings = StreamsSettings.from_env(given)
    assert settings.kafka == {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "/etc/kafka/ca.pem",
        "ssl_check_hostname": False,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "words",
        "sasl_plain_password": "0123456",
        "request_timeout_ms": 4000,
    }
    client = KafkaSettings(
        bootstrap_servers="kafka:9093", application_id="words", node_id="a", client_overrides=settings.kafka
    )
    for config in (reader_config(client), member_config(client), producer_config(client), admin_config(client)):
        assert {name: config[name] for name in settings.kafka} == settings.kafka


def test_an_observer_is_configured_by_its_pod() -> None:
    """It needs no name that others could use."""
    _, (_, _, container) = workloads()
    settings = StreamsSettings.from_env(environment_of(container, pod="word-count-observer-5f7d9-x"))
    assert settings.address == "http://10.1.2.3:9080"
    assert settings.node_id == "word-count-observer-5f7d9-x"


def test_the_programs_and_their_probes_exist(tmp_path: Path) -> None:
    """What is started is a module that runs, and what is probed is a route."""
    for _, _, container in workloads():
        (module,) = container["args"]
        spec = importlib.util.find_spec(module)
        assert spec is not None
        path = Path(spec.origin or "")
        assert (path.parent / "__main__.py" if path.name == "__init__.py" else path).exists()
    paths = {
        container[probe]["httpGet"]["path"]
        for _, _, container in workloads()
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    settings = StreamsSettings(data_dir=tmp_path, create_topics=OBSERVED_TOPICS)
    app, _ = serve_app(StreamsApplication(observer(), settings), is_alone=True)

    async def probe() -> dict[str, int]:
        async with testing.ASGIConductor(app) as conductor:
            return {path: (await conductor.simulate_get(path)).status_code for path in paths}

    found = asyncio.run(probe())
    assert set(found) == {"/livez", "/readyz"}
    assert found["/livez"] == 200
    assert found["/readyz"] in (200, 503)  # it may still be getting ready


def test_the_grace_period_is_longer_than_a_stop() -> None:
    """The pause before the signal, and the time that the server has for everything, fit into it."""
    for _, pod, container in workloads():
        pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["spec"]["terminationGracePeriodSeconds"] > pause_s + serving._GRACEFUL_S


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
