"""The files in deploy/, checked against the server that they start.

`systemd-analyze verify` runs if it is installed. Not run here: building the image
(it needs a container engine and the network) and the manifest against a real cluster.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from judge_service.engines.vllm import _SHUTDOWN_SECONDS
from judge_service.server.app import MORE_STREAMS
from judge_service.settings import ServerSettings
from judge_service.settings_sources import configure, from_environment, from_file

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "rlaif-judge.service"


def settings_of(path: Path) -> ServerSettings:
    return configure([from_file(path)]).settings


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|min|h)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


# systemd


def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)  # Environment may appear twice
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def test_the_example_settings_are_valid_and_secure() -> None:
    settings = settings_of(DEPLOY / "serve.yaml")
    assert settings.with_tls
    assert settings.authenticates
    assert not settings.insecure


def test_the_unit_waits_longer_than_the_server_takes_to_drain() -> None:
    service = unit()["Service"]
    grace = settings_of(DEPLOY / "serve.yaml").grace_seconds
    assert seconds(service["TimeoutStopSec"]) > grace + _SHUTDOWN_SECONDS
    assert service["KillMode"] == "mixed"  # or systemd would end the engine before the drain


def test_the_unit_starts_reloads_and_is_hardened() -> None:
    assert unit().sections() == ["Unit", "Service", "Install"]
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"].endswith("kill -HUP $MAINPID")
    assert "serve --config /etc/rlaif/serve.yaml" in service["ExecStart"]
    assert service["User"] == "rlaif"
    for hardening in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictNamespaces"):
        assert service[hardening] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert "MemoryDenyWriteExecute" not in service


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/rlaif/bin/rlaif", "/bin/true"))
    result = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


# Kubernetes


def manifest() -> dict[str, dict[str, Any]]:
    parts = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    assert len({part["kind"] for part in parts}) == len(parts)
    return {part["kind"]: part for part in parts}


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest()["Deployment"]["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (only,) = pod()["containers"]
    assert isinstance(only, dict)
    return only


@pytest.fixture
def mapped(tmp_path: Path) -> ServerSettings:
    """The settings in the ConfigMap."""
    (text,) = manifest()["ConfigMap"]["data"].values()
    (tmp_path / "serve.yaml").write_text(text)
    return settings_of(tmp_path / "serve.yaml")


def test_the_settings_of_the_manifest_require_tls_and_tokens(mapped: ServerSettings) -> None:
    assert mapped.with_tls
    assert mapped.authenticates
    assert not mapped.on_loopback


def test_a_pod_lives_longer_than_its_server_takes_to_drain(mapped: ServerSettings) -> None:
    wait = int(container()["lifecycle"]["preStop"]["exec"]["command"][-1])
    needed = wait + mapped.grace_seconds + _SHUTDOWN_SECONDS
    assert pod()["terminationGracePeriodSeconds"] > needed


def test_the_url_of_the_store_comes_from_an_optional_secret() -> None:
    (variable,) = container()["env"]
    values = from_environment({variable["name"]: "postgresql+psycopg://judge@db/reads\n"})
    store = ServerSettings(model="m", **{name: given.value for name, given in values.items()}).store
    assert store == "postgresql+psycopg://judge@db/reads"
    assert variable["valueFrom"]["secretKeyRef"]["optional"] is True


def test_every_file_named_in_the_settings_is_mounted(mapped: ServerSettings) -> None:
    mounts = {mount["mountPath"]: mount for mount in container()["volumeMounts"]}
    volumes = {volume["name"] for volume in pod()["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == volumes
    files = [mapped.model, mapped.tls_certificate, mapped.tls_key, mapped.tokens, mapped.store]
    for file in files:
        assert any(str(file).startswith(f"{mount}/") for mount in mounts), file
    assert not mounts["/var/lib/rlaif"].get("readOnly")
    (folder,) = {str(Path(p["exec"]["command"][3]).parent) for p in probes()}
    assert folder in mounts


def probes() -> list[dict[str, Any]]:
    return [container()[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]


def test_the_probes_query_the_server_that_the_settings_start(mapped: ServerSettings) -> None:
    for probe in probes():
        command = probe["exec"]["command"]
        assert command == ["rlaif", "serve", "--config", "/etc/rlaif/serve.yaml", "--probe"]
    startup = probes()[0]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert ports == {"grpc": mapped.port, "metrics": mapped.metrics_port}
    for port in manifest()["Service"]["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]


def test_a_rolling_update_never_has_fewer_replicas_than_before() -> None:
    spec = manifest()["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert manifest()["PodDisruptionBudget"]["spec"]["minAvailable"] < spec["replicas"]
    label = {"app": "rlaif-judge"}
    assert spec["selector"]["matchLabels"] == label == spec["template"]["metadata"]["labels"]
    assert manifest()["Service"]["spec"]["selector"] == label
    assert manifest()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == label


def test_a_pod_has_few_privileges() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["automountServiceAccountToken"] is False
    # service links would set variables such as RLAIF_…_PORT=tcp://…
    assert pod()["enableServiceLinks"] is False
    allowed = container()["securityContext"]
    assert allowed["allowPrivilegeEscalation"] is False
    assert allowed["readOnlyRootFilesystem"] is True
    assert allowed["capabilities"] == {"drop": ["ALL"]}


# The image


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines()]


def test_the_image_uses_known_instructions_and_does_not_run_as_root() -> None:
    known = {
        "FROM", "RUN", "COPY", "ENV", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL",
        "HEALTHCHECK", "ENTRYPOINT",
    }  # fmt: skip
    lines = instructions()
    assert {name for name, _ in lines} <= known
    last_stage = lines[max(i for i, (name, _) in enumerate(lines) if name == "FROM") :]
    names = [name for name, _ in last_stage]
    assert dict(last_stage)["USER"] == f"{pod()['securityContext']['runAsUser']}:10001"
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "RUN" not in names[names.index("USER") :]
    assert "--probe" in dict(last_stage)["HEALTHCHECK"]
    assert yaml.safe_load(dict(last_stage)["ENTRYPOINT"])[:2] == ["rlaif", "serve"]


def test_files_copied_into_the_image_exist_and_are_not_ignored() -> None:
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text()
    assert ignored == (DEPLOY / "Containerfile.containerignore").read_text()
    allowed = {line[1:] for line in ignored.splitlines() if line.startswith("!")}
    copied = {
        word.rstrip("/")
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied


def test_the_image_installs_as_the_makefile_does() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    torch = re.search(r'"torch==([\d.]+)"', text)
    assert torch is not None
    assert f'"torch=={torch[1]}"' in (ROOT / "Makefile").read_text()
    assert "--override install-overrides.txt" in text
    extras = re.search(r'"\.\[([\w,-]+)\]"', text)
    assert extras is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])


# Envoy


def test_the_proxy_limits_what_the_server_limits_and_what_it_cannot() -> None:
    envoy = yaml.safe_load((DEPLOY / "envoy.yaml").read_text(encoding="utf-8"))
    settings = ServerSettings(model="any")
    [listener] = envoy["static_resources"]["listeners"]
    [chain] = listener["filter_chains"]
    rate, http = (each["typed_config"] for each in chain["filters"])
    streams = settings.max_concurrent_rpcs + MORE_STREAMS
    assert http["http2_protocol_options"]["max_concurrent_streams"] == streams
    assert seconds(http["stream_idle_timeout"]) == settings.stream_idle_seconds
    idle = http["common_http_protocol_options"]["idle_timeout"]
    assert seconds(idle) == settings.connection_idle_seconds
    assert rate["token_bucket"]["max_tokens"] > 0
    assert listener["per_connection_buffer_limit_bytes"] <= settings.max_message_bytes
    [cluster] = envoy["static_resources"]["clusters"]
    [route] = http["route_config"]["virtual_hosts"][0]["routes"]
    assert route["route"]["cluster"] == cluster["name"]
    [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert (address["address"], address["port_value"]) == (settings.host, settings.port)
    kinds = re.findall(r"type.googleapis.com/envoy\.[\w.]+\.v3\.\w+", str(envoy))
    assert len(kinds) == 6, "each extension names its type"
