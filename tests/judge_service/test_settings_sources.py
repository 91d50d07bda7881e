"""Sources of settings: precedence, origins, and errors that name the place of a value."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from judge_service.errors import ServerStartError
from judge_service.settings import ServerSettings, SettingsError
from judge_service.settings_sources import (
    Configured,
    Given,
    Source,
    as_yaml,
    configure,
    from_environment,
    from_file,
    from_flags,
)

MODEL: Source = {"model": Given("m", "--model")}


def written(folder: Path, text: str) -> Path:
    path = folder / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_the_environment_the_file_and_the_defaults(tmp_path: Path) -> None:
    file = from_file(written(tmp_path, "model: a\nport: 1\nmax_candidates: 3\ngrace_seconds: 2\n"))
    environment = from_environment(
        {"RLAIF_SERVE_PORT": "2", "RLAIF_SERVE_MAX_CANDIDATES": "4", "RLAIF_STORE": "x"}
    )
    flags = from_flags({"port": ("--port", 3), "host": ("--host", None)})
    configured = configure([file, environment, flags])
    settings = configured.settings
    assert (settings.port, settings.max_candidates, settings.grace_seconds) == (3, 4, 2.0)
    assert (settings.model, settings.host) == ("a", "127.0.0.1")
    assert configured.origins["port"] == "--port"
    assert configured.origins["max_candidates"] == "environment RLAIF_SERVE_MAX_CANDIDATES"
    assert configured.origins["grace_seconds"] == f"{tmp_path}/serve.yaml:4"
    assert configured.origins["host"] == "default"


def test_a_list_replaces_the_one_before_it(tmp_path: Path) -> None:
    file = from_file(written(tmp_path, "constitutions: [hhh, overall]\n"))
    assert configure([MODEL, file]).settings.constitutions == ("hhh", "overall")
    environment = from_environment({"RLAIF_SERVE_CONSTITUTIONS": "harmless, a.yaml"})
    assert configure([MODEL, file, environment]).settings.constitutions == ("harmless", "a.yaml")


def test_null_resets_a_value_and_an_empty_variable_is_ignored() -> None:
    before: Source = {"store": Given("/reads.sqlite", "default")}
    for environment, store in (
        ({"RLAIF_SERVE_STORE": "null"}, None),
        ({"RLAIF_SERVE_STORE": ""}, 1),
    ):
        configured = configure([MODEL, before, from_environment(environment)])
        assert configured.settings.store == (Path("/reads.sqlite") if store else None)


def test_settings_made_in_python_do_not_read_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RLAIF_SERVE_PORT", "7")
    assert ServerSettings(model="m").port == 50051


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: a\nprot: 1\n", "serve.yaml:2: unknown setting 'prot'; did you mean 'port'"),
        ("model: a\n\nport: many\n", "serve.yaml:3: setting 'port': .*integer.*'many'"),
        ("constitutions: [hhh, 3]\n", r"serve.yaml:1: setting 'constitutions.1'"),
        ("model: a\nhost: 0.0.0.0\n", "serve.yaml:2: host 0.0.0.0 is not loopback"),
        ("tls_key: k\n", "serve.yaml:1: setting 'tls_key' .* set `tls_certificate`"),
        ("port: 1\nhost: x\nport: 2\n", "serve.yaml:3: 'port' is set again; .*serve.yaml:1"),
        ("port: [1\n", "serve.yaml:.*not valid YAML"),
        ("- port\n", "serve.yaml:1: settings are written as 'name: value'"),
        ("just text", "serve.yaml:1: settings are written as 'name: value'"),
        ("port: !!python/name:os.system\n", "serve.yaml:1: not valid YAML"),
        ("? [a, b]\n: 1\n", "serve.yaml:1: .*unknown setting"),
        ("port: *other\n", "serve.yaml:1: not valid YAML"),
    ],
)
def test_an_invalid_file_is_reported_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ServerStartError, match=problem):
        configure([MODEL, from_file(written(tmp_path, text))])


def test_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"none\.yaml.*No such file"):
        from_file(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ServerStartError, match=r"bytes\.yaml.*UTF-8"):
        from_file(tmp_path / "bytes.yaml")


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert from_file(written(tmp_path, "# all defaults\n")) == {}


def test_a_wrong_variable_and_a_wrong_flag_are_reported_by_name() -> None:
    environment = from_environment(
        {"RLAIF_SERVE_PROT": "1", "RLAIF_SERVE_PORT": "tcp://10.0.0.1:1"}
    )
    flags = from_flags({"max_principles": ("--max-principles", 0)})
    with pytest.raises(SettingsError) as error:
        configure([MODEL, environment, flags])
    message = str(error.value)
    assert "environment RLAIF_SERVE_PROT: unknown setting 'prot'; did you mean 'port'" in message
    assert "environment RLAIF_SERVE_PORT: setting 'port'" in message
    assert "--max-principles: setting 'max_principles'" in message


def test_a_missing_setting_is_reported_with_the_ways_to_set_it() -> None:
    with pytest.raises(SettingsError, match=r"'model' is missing; .* RLAIF_SERVE_MODEL"):
        configure([])


def test_the_printed_configuration_is_a_file_with_the_same_settings(tmp_path: Path) -> None:
    given: Source = {
        "constitutions": Given(("hhh", "Ünïcode: #.yaml"), "--constitution"),
        "reflection": Given(True, "--reflection"),
        "store": Given(Path("/a b/null"), "--store"),
    }
    first = configure([MODEL, given])
    text = as_yaml(first)
    again = configure([from_file(written(tmp_path, text))])
    assert again.settings == first.settings
    assert re.search(r"^model: \"m\"  # --model$", text, re.M)
    assert re.search(r"^port: 50051  # default$", text, re.M)
    assert len(text.splitlines()) == len(ServerSettings.model_fields)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"tls_certificate": "c"}, "'tls_certificate' needs its private key"),
        ({"tls_key": "k"}, "'tls_key' is of no use alone"),
        ({"tls_client_ca": "a"}, "'tls_client_ca' needs TLS"),
        ({"host": "0.0.0.0", "tokens": "t"}, "has no TLS"),
        ({"host": "0.0.0.0", "tls_certificate": "c", "tls_key": "k"}, "has no authentication"),
        ({"otlp_endpoint": "collector:4317"}, "'otlp_endpoint'"),
        ({"log_format": "yaml"}, "'text' or 'json'"),
        ({"metrics_port": 70_000}, "'metrics_port'"),
    ],
)
def test_conflicting_settings_are_rejected(values: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        ServerSettings(model="m", **values)


@pytest.mark.parametrize("callers", [{"tokens": "t"}, {"tls_client_ca": "a"}])
def test_tls_with_known_callers_may_listen_anywhere(callers: dict[str, str]) -> None:
    tls = {"tls_certificate": "c", "tls_key": "k"}
    assert ServerSettings(model="m", host="0.0.0.0", **tls, **callers).with_tls


def test_every_setting_has_an_origin() -> None:
    configured: Configured = configure([MODEL])
    assert set(configured.origins) == set(ServerSettings.model_fields)
