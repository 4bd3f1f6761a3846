"""The Helm chart: what it renders is valid, fits together and is accepted by the server; what can't work is refused."""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.programs import DEPLOY, ended, output
from tests.deploy.server_settings import FILES, accepted, seconds_to_stop
from tests.support.certificates import issue_certificates
from tests.support.palaver_server import palaver_server

CHART = DEPLOY / "helm" / "palaver"
VALUES = sorted(CHART.glob("ci/*-values.yaml"))
OFFLINE, SQLITE, TABLES, CLIENT_CERTIFICATES = (
    CHART / "ci" / f"{name}-values.yaml" for name in ("offline", "sqlite", "tables", "client-certificates")
)
KUBERNETES = ("1.27", "1.32", "1.37")
"""The oldest version that the chart allows, the newest that has schemas, and one between them."""

Object = dict[str, Any]

with_all_values = pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem.removesuffix("-values"))


@cache
def rendered(values: Path, *flags: str) -> dict[str, Object]:
    """Returns the objects of a release by their kinds. Two Secrets are told apart by their names."""
    text = output("helm", "template", "chat", CHART, "--namespace", "chat", "--values", values, *flags)
    objects = [item for item in yaml.safe_load_all(text) if item is not None]
    found = {item["kind"] if item["kind"] != "Secret" else item["metadata"]["name"]: item for item in objects}
    assert len(found) == len(objects)
    return found


def pod(values: Path, *flags: str) -> Object:
    return rendered(values, *flags)["Deployment"]["spec"]["template"]


def container(values: Path, *flags: str) -> Object:
    [found] = pod(values, *flags)["spec"]["containers"]
    return found


def refusal(*flags: str, values: Path = OFFLINE) -> str:
    process = ended("helm", "template", "chat", CHART, "--values", values, *flags)
    assert process.returncode != 0
    return process.stderr


@with_all_values
def test_the_chart_has_no_lint(values: Path):
    output("helm", "lint", "--strict", "--values", values, CHART)


@with_all_values
@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_satisfy_the_schemas_of_kubernetes(values: Path, version: str):
    objects = {
        kind: item for kind, item in rendered(values, "--kube-version", version).items() if kind != "ServiceMonitor"
    }
    assert {"ConfigMap", "Deployment", "Service"} <= set(objects)
    for item in objects.values():
        kubernetes_validate.validate(item, version, strict=True)


def test_the_schemas_find_a_misspelt_field():
    broken = yaml.safe_load(yaml.safe_dump(rendered(OFFLINE)["Deployment"]))
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


def test_the_service_monitor_has_the_fields_of_the_operator():
    monitor = rendered(TABLES)["ServiceMonitor"]
    output("servicemonitor", given=yaml.safe_dump(monitor))
    monitor = {**monitor, "spec": {**monitor["spec"], "endpoint": []}}
    assert ended("servicemonitor", given=yaml.safe_dump(monitor)).returncode != 0


@with_all_values
def test_selectors_and_names_fit_together(values: Path):
    objects = rendered(values)
    labels, spec = pod(values)["metadata"]["labels"], pod(values)["spec"]
    selectors = [objects["Deployment"]["spec"]["selector"]["matchLabels"], objects["Service"]["spec"]["selector"]]
    selectors += [
        selector.get("matchLabels", selector)
        for kind in ("NetworkPolicy", "PodDisruptionBudget")
        if kind in objects
        for selector in [objects[kind]["spec"].get("podSelector") or objects[kind]["spec"]["selector"]]
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    ports = {port["name"] for port in container(values)["ports"]}
    assert {port["targetPort"] for port in objects["Service"]["spec"]["ports"]} == ports
    assert {mount["name"] for mount in container(values)["volumeMounts"]} == {item["name"] for item in spec["volumes"]}
    if "ServiceAccount" in objects:
        assert spec["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]


@with_all_values
def test_the_server_accepts_its_variables(values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    environment = rendered(values)["ConfigMap"]["data"]
    settings = accepted(environment, tmp_path, monkeypatch)
    mounts = [mount["mountPath"] for mount in container(values)["volumeMounts"]]
    files = [value for name, value in environment.items() if name.startswith("PALAVER_") and value.startswith(FILES)]
    assert all(any(file.startswith(f"{mount}/") for mount in mounts) for file in files)
    assert settings.listen.endswith(f":{container(values)['ports'][0]['containerPort']}")


@with_all_values
def test_a_pod_may_take_as_long_to_stop_as_its_server(values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = accepted(rendered(values)["ConfigMap"]["data"], tmp_path, monkeypatch)
    sleep = container(values).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])[1]
    assert pod(values)["spec"]["terminationGracePeriodSeconds"] > int(sleep) + seconds_to_stop(settings)


@with_all_values
def test_a_pod_has_no_more_rights_than_it_needs(values: Path):
    spec = pod(values)["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["automountServiceAccountToken"] is False
    assert container(values)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_probes_ask_by_grpc_whether_a_turn_could_run():
    assert container(OFFLINE)["readinessProbe"]["grpc"] == {"port": 50051, "service": "palaver.v1.AssistantService"}
    # A store that is down is no reason to restart the pods.
    assert container(OFFLINE)["livenessProbe"]["grpc"] == {"port": 50051, "service": ""}


def test_with_tls_probes_ask_by_a_name_in_the_certificate():
    assert "palaver.example.org:50051" in container(TABLES)["readinessProbe"]["exec"]["command"]
    assert pod(TABLES)["spec"]["hostAliases"] == [{"ip": "127.0.0.1", "hostnames": ["palaver.example.org"]}]
    assert container(CLIENT_CERTIFICATES)["readinessProbe"]["tcpSocket"] == {"port": "grpc"}


async def test_the_command_of_the_probe_asks_a_server_with_tls(tmp_path: Path):
    certificates = issue_certificates(tmp_path)
    tls = {"tls_certificate": certificates.certificate, "tls_key": certificates.key}
    program, *arguments = container(TABLES)["readinessProbe"]["exec"]["command"]
    async with palaver_server(tmp_path, offline_model=True, **tls) as server:
        places = {
            "palaver.example.org:50051": f"localhost:{server.application.port}",
            "/etc/palaver/tls/ca.crt": str(certificates.authority),
        }
        command = [Path(sys.executable).with_name(program), *(places.get(text, text) for text in arguments)]
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == 0
        await server.application.listener.health.drain()
        process = await asyncio.create_subprocess_exec(*command)
        assert await process.wait() == 1


def test_a_database_belongs_to_one_pod_and_outlives_the_release():
    objects = rendered(OFFLINE)
    claim = objects["PersistentVolumeClaim"]
    assert objects["Deployment"]["spec"]["strategy"] == {"type": "Recreate"}
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["metadata"]["name"] in str(pod(OFFLINE)["spec"]["volumes"])
    assert "PodDisruptionBudget" not in objects
    assert "PersistentVolumeClaim" not in rendered(SQLITE)


def test_replicas_that_share_tables_are_replaced_one_by_one():
    objects = rendered(CLIENT_CERTIFICATES)
    assert objects["Deployment"]["spec"]["replicas"] == 2
    assert objects["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert objects["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert "data" not in str(pod(CLIENT_CERTIFICATES)["spec"]["volumes"])


def test_the_autoscaler_decides_on_the_number_of_replicas():
    assert "replicas" not in rendered(TABLES)["Deployment"]["spec"]
    assert rendered(TABLES)["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "chat-palaver"


def test_clients_balance_over_the_pods_unless_a_mesh_does():
    assert rendered(OFFLINE)["Service"]["spec"]["clusterIP"] == "None"
    assert "clusterIP" not in rendered(SQLITE)["Service"]["spec"]


def test_secrets_are_only_in_secrets():
    objects = rendered(TABLES)
    assert objects["chat-palaver-env"]["stringData"] == {"ORDERS_TOKEN": "a-token"}
    assert "[callers.checkout]" in objects["chat-palaver-callers"]["stringData"]["callers.toml"]
    others = [item for item in objects.values() if item["kind"] != "Secret"]
    assert not any(text in str(others) for text in ("a-token", "key_sha256"))


def test_a_changed_setting_restarts_the_pods_and_a_changed_caller_does_not():
    before = pod(TABLES)["metadata"]["annotations"]
    assert pod(TABLES, "--set", "settings.PALAVER_REFLECTION=true")["metadata"]["annotations"] != before
    assert pod(TABLES, "--set", "secretEnv.values.ORDERS_TOKEN=b")["metadata"]["annotations"] != before
    assert pod(TABLES, "--set", "callers.config=other")["metadata"]["annotations"] == before


def test_the_identity_of_the_workload_is_that_of_its_service_account():
    annotations = rendered(TABLES)["ServiceAccount"]["metadata"]["annotations"]
    assert annotations["azure.workload.identity/client-id"] == "00000000-0000-0000-0000-000000000000"
    assert pod(TABLES)["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert rendered(TABLES)["ConfigMap"]["data"]["AzureWebJobsStorage__tableServiceUri"].startswith("https://")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--set", "replicaCount=2"), "Several replicas can't share a SQLite database"),
        (("--set", "autoscaling.enabled=true"), "Several replicas can't share a SQLite database"),
        (("--set", "callers.allowUnauthenticated=false"), "Who may call?"),
        (("--set", "callers.existingSecret=keys"), "Callers send their keys"),
        (("--set", "tls.existingSecret=tls"), "Set tls.serverName"),
        (
            ("--set", "callers.existingSecret=keys,callers.config=text,tls.allowUnencrypted=true"),
            "Set callers.config or callers.existingSecret",
        ),
        (
            ("--set", "secretEnv.existingSecret=a,secretEnv.values.B=c"),
            "Set secretEnv.values or secretEnv.existingSecret",
        ),
        (("--set", "storage.kind=tables"), "Where are the tables?"),
        (("--set", "replicas=2"), "replicas"),
        (("--set", "storage.kind=mysql"), "storage/kind"),
        (("--set", "settings.PALAVER_LISTEN=[::]:1"), "PALAVER_LISTEN"),
        (("--set", "settings.PALAVER_GRACE_PERIOD=soon"), "PALAVER_GRACE_PERIOD"),
        (("--set", "service.port=0"), "service/port"),
    ],
)
def test_values_that_cannot_work_are_refused(flags: tuple[str, ...], words: str):
    assert words in refusal(*flags)
