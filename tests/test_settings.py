"""Settings and connections: their sources, and the errors of invalid ones."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from palaver_server.connections import (
    OPENAI_URL,
    AIConnection,
    Database,
    Identity,
    TableAccount,
    ai_connections,
    fallback_connection,
    storage_connections,
)
from palaver_server.domain.generation import GenerationDefaults
from palaver_server.engine.options import EngineOptions
from palaver_server.logs import LogFormat, LogLevel
from palaver_server.settings import Settings, SettingsError, load, unknown_variables

# For every setting, a value other than its default, as it is written and as it is read.
EXAMPLES = {
    "listen": ("[::1]:0", "[::1]:0"),
    "data_dir": ("some/where", Path("some/where")),
    "offline_model": ("true", True),
    "reflection": ("1", True),
    "health_requires_model": ("1", True),
    "workers": ("3", 3),
    "tls_certificate": (__file__, Path(__file__)),
    "tls_key": (__file__, Path(__file__)),
    "tls_client_ca": (__file__, Path(__file__)),
    "callers": (__file__, Path(__file__)),
    "allow_unauthenticated": ("true", True),
    "allow_unencrypted": ("1", True),
    "storage_connections": ("AzureWebJobsStorage, Other,,", ("AzureWebJobsStorage", "Other")),
    "ai_connections": (" One ,Two", ("One", "Two")),
    "store_timeout": ("2", 2.0),
    "commit_timeout": ("20", 20.0),
    "skill_hosts": ("dns:///skills:50061, grpcs://other:443", ("dns:///skills:50061", "grpcs://other:443")),
    "skill_timeout": ("2.5", 2.5),
    "max_skill_rounds": ("3", 3),
    "default_chat_model": ("gpt-4o-mini", "gpt-4o-mini"),
    "default_temperature": ("0", 0.0),
    "default_max_tokens": ("2000", 2000),
    "max_tokens_cap": ("4000", 4000),
    "history_messages": ("0", 0),
    "history_messages_cap": ("500", 500),
    "history_bytes": ("1000", 1000),
    "first_token_timeout": ("1.5", 1.5),
    "token_timeout": ("2.5", 2.5),
    "turn_timeout": ("3.5", 3.5),
    "max_turns": ("7", 7),
    "max_address_turns": ("8", 8),
    "queue_limit": ("0", 0),
    "lease_duration": ("1", 1.0),
    "progress_interval": ("2.5", 2.5),
    "log_level": ("debug", LogLevel.DEBUG),
    "log_format": ("json", LogFormat.JSON),
    "metrics_listen": ("127.0.0.1:9464", "127.0.0.1:9464"),
    "grace_period": ("0", 0.0),
}
TOGETHER = {
    "tls_certificate": ("tls_key",),
    "tls_key": ("tls_certificate",),
    "tls_client_ca": ("tls_certificate", "tls_key"),
}
"""The settings that must be set with another one."""
OTHERS = {
    **dict.fromkeys(("tls_certificate", "tls_key", "tls_client_ca", "callers"), __file__),
    **dict.fromkeys(("listen", "metrics_listen"), "127.0.0.1:9"),
    "log_level": "error",
    "log_format": "text",
}
"""Another value of the settings that can't be 9."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Removes the settings of the machine that runs the tests."""
    for name in list(os.environ):
        if name.upper().startswith("PALAVER_"):
            monkeypatch.delenv(name)
    return monkeypatch


def variable(name: str) -> str:
    return f"PALAVER_{name.upper()}"


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def line_for(*arguments: str) -> str:
    """Returns the error message of the settings, which must be one line."""
    with pytest.raises(SettingsError) as caught:
        load(arguments)
    line = str(caught.value)
    assert "\n" not in line
    return line


class TestSettings:
    def test_there_is_an_example_of_every_setting(self):
        assert EXAMPLES.keys() == Settings.model_fields.keys()

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_a_setting_is_an_environment_variable(self, environment: pytest.MonkeyPatch, name: str):
        for each in {name, *TOGETHER.get(name, ())}:
            environment.setenv(variable(each), EXAMPLES[each][0])
        assert getattr(load([]), name) == EXAMPLES[name][1]
        assert unknown_variables(os.environ) == []

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_a_flag_overrides_the_environment_variable(self, environment: pytest.MonkeyPatch, name: str):
        written, read = EXAMPLES[name]
        arguments = []
        for each in {name, *TOGETHER.get(name, ())}:
            is_switch = isinstance(read, bool)
            arguments += [flag(each)] if is_switch else [flag(each), EXAMPLES[each][0]]
        other = {"true": "false", "1": "0"}.get(written, OTHERS.get(name, "9"))
        environment.setenv(variable(name), other)
        assert getattr(load(arguments), name) == read

    def test_without_settings_the_defaults_apply(self):
        settings = load([])
        assert (settings.listen, settings.data_dir, settings.workers) == ("127.0.0.1:50051", Path("palaver-data"), 1)
        assert (settings.offline_model, settings.reflection) == (False, False)
        assert (settings.storage_connections, settings.ai_connections) == (("AzureWebJobsStorage",), ())
        assert settings.engine_options() == EngineOptions()

    @pytest.mark.parametrize("name", [field.name for field in fields(EngineOptions) if field.name != "generation"])
    def test_a_setting_reaches_the_engine(self, environment: pytest.MonkeyPatch, name: str):
        environment.setenv(variable(name), EXAMPLES[name][0])
        assert getattr(load([]).engine_options(), name) == EXAMPLES[name][1]

    @pytest.mark.parametrize("field", [field.name for field in fields(GenerationDefaults)])
    def test_a_default_of_generation_reaches_the_engine(self, environment: pytest.MonkeyPatch, field: str):
        name = field if field in EXAMPLES else f"default_{field}"
        environment.setenv(variable(name), EXAMPLES[name][0])
        assert getattr(load([]).engine_options().generation, field) == EXAMPLES[name][1]

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("listen", ["", "localhost", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:http", ":50051"]),
            ("offline_model", ["", "maybe"]),
            ("reflection", ["2"]),
            ("workers", ["", "0", "-1", "1.5", "many"]),
            ("tls_certificate", ["missing.pem", "."]),
            ("tls_key", ["missing.pem", "."]),
            ("default_chat_model", [""]),
            ("default_temperature", ["-0.1", "2.1", "nan", "hot"]),
            ("default_max_tokens", ["0", "-1"]),
            ("max_tokens_cap", ["0", "x"]),
            ("history_messages", ["-1", "65536"]),
            ("history_messages_cap", ["-1", "65536"]),
            ("history_bytes", ["0", "1.5"]),
            ("first_token_timeout", ["0", "-1", "nan", "1 s"]),
            ("token_timeout", ["0"]),
            ("turn_timeout", ["0"]),
            ("max_turns", ["0"]),
            ("queue_limit", ["-1"]),
            ("progress_interval", ["0", "-1", "nan"]),
            ("grace_period", ["-1"]),
        ],
    )
    def test_an_invalid_value_is_named_in_one_line(self, environment: pytest.MonkeyPatch, name: str, values: list[str]):
        for value in values:
            with environment.context() as patch:
                patch.setenv(variable(name), value)
                assert re.fullmatch(f"{variable(name)}: .+, not {re.escape(repr(value))}", line_for())
            if value and not name.startswith(("offline", "reflection")):
                assert line_for(f"{flag(name)}={value}").startswith(f"{variable(name)}: ")

    def test_all_invalid_values_are_named_at_once(self, environment: pytest.MonkeyPatch):
        environment.setenv("PALAVER_WORKERS", "many")
        environment.setenv("PALAVER_TURN_TIMEOUT", "long")
        line = line_for("--queue-limit", "x")
        for name in ("PALAVER_WORKERS", "PALAVER_TURN_TIMEOUT", "PALAVER_QUEUE_LIMIT"):
            assert f"{name}: " in line

    def test_client_authorities_need_a_certificate(self, environment: pytest.MonkeyPatch):
        environment.setenv("PALAVER_TLS_CLIENT_CA", __file__)
        assert line_for() == "PALAVER_TLS_CLIENT_CA: set PALAVER_TLS_CERTIFICATE and PALAVER_TLS_KEY too"

    @pytest.mark.parametrize("name", ["tls_certificate", "tls_key"])
    def test_a_certificate_needs_its_key_and_a_key_its_certificate(self, environment: pytest.MonkeyPatch, name: str):
        environment.setenv(variable(name), __file__)
        assert line_for() == "PALAVER_TLS_CERTIFICATE and PALAVER_TLS_KEY: set both or neither"

    def test_the_default_number_of_messages_is_within_its_upper_limit(self):
        assert line_for("--history-messages", "1001") == (
            "PALAVER_HISTORY_MESSAGES: must be at most PALAVER_HISTORY_MESSAGES_CAP (1000), not 1001"
        )
        assert load(["--history-messages", "1001", "--history-messages-cap", "1001"]).history_messages == 1001

    def test_unknown_palaver_variables_are_found(self):
        names = ["PALAVER_LISTENS", "PALAVER_", "PALAVER_WORKERS", "palaver_workers", "PALAVER_SERVER", "PALAVER_TOKEN",
                 "PALAVERS", "PATH", "PALAVER_DATADIR"]  # fmt: skip
        found = unknown_variables(dict.fromkeys(names, "x"))
        assert found == ["PALAVER_", "PALAVER_DATADIR", "PALAVER_LISTENS"]


class TestStorageConnections:
    def test_the_default_store_is_a_database_in_the_data_folder(self):
        assert storage_connections(Settings(data_dir=Path("data")), {}) == {
            "AzureWebJobsStorage": Database(Path("data/palaver.db"))
        }

    @pytest.mark.parametrize("path", ["one.db", "/some/where/one.db", "with space:and colon.db"])
    def test_a_connection_can_be_the_path_of_a_database(self, path: str):
        settings = Settings(storage_connections="AzureWebJobsStorage,Other")
        environment = {"AzureWebJobsStorage": f"sqlite:{path}", "Other": "sqlite:other.db"}
        assert storage_connections(settings, environment) == {
            "AzureWebJobsStorage": Database(Path(path)),
            "Other": Database(Path("other.db")),
        }

    def test_a_connection_that_is_not_listed_is_not_offered(self):
        settings = Settings(storage_connections="Other")
        environment = {"AzureWebJobsStorage": "sqlite:one.db", "Other": "sqlite:two.db", "Third": "sqlite:three.db"}
        assert storage_connections(settings, environment) == {"Other": Database(Path("two.db"))}

    @pytest.mark.parametrize("value", ["UseDevelopmentStorage=true", "AccountName=a;AccountKey=c2VjcmV0"])
    def test_a_connection_can_be_an_azure_connection_string(self, value: str):
        connections = storage_connections(Settings(), {"AzureWebJobsStorage": value})
        assert connections == {"AzureWebJobsStorage": TableAccount(connection_string=value)}
        assert "c2VjcmV0" not in repr(connections)

    @pytest.mark.parametrize(
        ("variables", "identity"),
        [
            ({}, Identity()),
            ({"credential": "managedidentity"}, Identity(is_managed=True)),
            ({"credential": "ManagedIdentity", "clientId": "c"}, Identity(is_managed=True, client_id="c")),
            ({"clientId": "c"}, Identity(client_id="c")),
            ({"managedIdentityResourceId": "/r"}, Identity(is_managed=True, resource_id="/r")),
            ({"CREDENTIAL": "managedidentity", "CLIENTID": " c\n"}, Identity(is_managed=True, client_id="c")),
            ({"credential": "", "clientId": "", "tenantId": ""}, Identity()),
            # The host of an app that has an identity for its storage needs these for itself.
            ({"blobServiceUri": "https://a.blob.core.windows.net", "queueServiceUri": "https://q"}, Identity()),
            ({"accountName": "a1b"}, Identity()),
        ],
    )
    def test_a_connection_can_be_the_uri_of_an_account_with_an_identity(
        self, variables: dict[str, str], identity: Identity
    ):
        uri = "https://a1b.table.core.windows.net"
        environment = {"One__tableServiceUri": uri, **{f"One__{name}": value for name, value in variables.items()}}
        found = storage_connections(Settings(storage_connections="One"), environment)
        assert found == {"One": TableAccount(uri=uri, identity=identity)}

    def test_a_connection_is_the_name_of_an_account_and_an_identity(self, caplog: pytest.LogCaptureFixture):
        environment = {"AzureWebJobsStorage__accountName": "mystorage", "AzureWebJobsStorage__clientId": "c"}
        assert storage_connections(Settings(), environment) == {
            "AzureWebJobsStorage": TableAccount(
                uri="https://mystorage.table.core.windows.net", identity=Identity(client_id="c")
            )
        }
        # The operator sees which store is meant.
        [line] = caplog.messages
        assert "AzureWebJobsStorage__accountName" in line
        assert "https://mystorage.table.core.windows.net" in line

    @pytest.mark.parametrize(
        "variable",
        ["Other__tableServiceUri", "Other__TableServiceURI", "OTHER__TABLESERVICEURI", "other__tableserviceuri"],
    )
    def test_the_letter_case_of_variables_does_not_matter(self, variable: str):
        uri = "https://a.table.core.windows.net"
        found = storage_connections(Settings(storage_connections="Other"), {variable: uri})
        assert found == {"Other": TableAccount(uri=uri, identity=Identity())}

    @pytest.mark.parametrize("variable", ["AzureWebJobsStorage", "AZUREWEBJOBSSTORAGE", "azurewebjobsstorage"])
    def test_the_letter_case_of_a_connection_string_does_not_matter(self, variable: str):
        found = storage_connections(Settings(), {variable: "UseDevelopmentStorage=true"})
        assert found == {"AzureWebJobsStorage": TableAccount(connection_string="UseDevelopmentStorage=true")}

    def test_two_spellings_may_agree(self):
        environment = dict.fromkeys(["One__tableServiceUri", "ONE__TABLESERVICEURI"], "https://a")
        found = storage_connections(Settings(storage_connections="One"), environment | {"one__tableserviceuri": ""})
        assert found == {"One": TableAccount(uri="https://a", identity=Identity())}

    def test_a_name_may_be_that_of_a_store_and_of_a_model(self):
        settings = Settings(storage_connections="One", ai_connections="ONE")
        environment = {"One": "sqlite:one.db", "One__Endpoint": "https://one", "One__clientId": "c"}
        assert storage_connections(settings, environment) == {"One": Database(Path("one.db"))}
        assert ai_connections(settings, environment) == [
            AIConnection("ONE", "https://one/openai/v1/", identity=Identity(client_id="c"))
        ]

    @pytest.mark.parametrize(
        ("name", "environment", "line"),
        [
            (
                "Other",
                {},
                "Other: PALAVER_STORAGE_CONNECTIONS lists it, but it has no value: set it to a connection str",
            ),
            ("Other", {"Other": ""}, "Other: PALAVER_STORAGE_CONNECTIONS lists it, but it has no value"),
            ("Other", {"Other": "sqlite:"}, 'Other: write "sqlite:PATH"'),
            ("AzureWebJobsStorage", {"AzureWebJobsStorage": "sqlite:"}, 'AzureWebJobsStorage: write "sqlite:PATH"'),
            (
                "Other",
                {"Other": "AccountKey=c2VjcmV0", "Other__tableServiceUri": "https://a.table.core.windows.net"},
                "Other, Other__tableServiceUri: set one of them",
            ),
            (
                "Other",
                {"Other__tableServiceUri": "http://a.table.core.windows.net"},
                "Other__tableServiceUri: must begin with https://, not 'http://a.table.core.windows.net'",
            ),
            (
                "Other",
                {"Other__tableServiceUri": "https://a.table.core.windows.net", "Other__credential": "clientsecret"},
                """Other__credential: must be "managedidentity" or unset""",
            ),
            *[
                ("Other", {"Other__tableServiceUri": uri}, f"Other__tableServiceUri: {problem}")
                for uri, problem in [
                    ("http://a.table.core.windows.net/?sig=c2VjcmV0", "must begin with https://, not 'http://a.table"),
                    ("https://a.table.core.windows.net/?sig=c2VjcmV0", "must have no user name, query string or fra"),
                    ("https://a.table.core.windows.net/#c2VjcmV0", "must have no user name, query string or fragment"),
                    ("https://u:c2VjcmV0@a.table.core.windows.net", "must have no user name, query string or fragment"),
                    ("DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0", "must be an https:// URL"),
                    ("a.table.core.windows.net?sig=c2VjcmV0", "must be an https:// URL"),
                    ("https://", "must be an https:// URL"),
                    ("https://<account>.table.core.windows.net", "must be an https:// URL"),
                ]
            ],
            *[
                ("Other", {"Other__accountName": account}, "Other__accountName: must be the name of a storage account")
                for account in ("https://a.table.core.windows.net", "mystorage.table", "My-Storage", "a", "x/?sig=c2Vj")
            ],
            (
                "Other",
                {"Other__accountName": "mine", "Other__tableServiceUri": "https://other.table.core.windows.net"},
                "Other__tableServiceUri, Other__accountName: set one of them",
            ),
            (
                "Other",
                {"Other": "AccountKey=c2VjcmV0", "Other__accountName": "mine"},
                "Other, Other__accountName: set one of them",
            ),
            (
                "Other",
                {"Other": "AccountKey=c2VjcmV0", "other__CREDENTIAL": "managedidentity"},
                "Other, other__CREDENTIAL: set one of them",
            ),
            (
                "Other",
                {
                    "Other__accountName": "mine",
                    "Other__clientId": "c",
                    "Other__managedIdentityResourceId": "/r",
                },
                "Other__clientId, Other__managedIdentityResourceId: set one of them",
            ),
            (
                "Other",
                {
                    "Other__accountName": "mine",
                    "Other__managedIdentityResourceId": "/r",
                    "AZURE_FEDERATED_TOKEN_FILE": "/var/run/token",
                },
                "Other__managedIdentityResourceId: ",
            ),
            *[
                (name, {f"{name}__{key}": "x"}, f"{name}__{key}: the storage connection {name} has no address: set ")
                for name in ("AzureWebJobsStorage", "Other")
                for key in ("blobServiceUri", "QueueServiceUri", "credential", "clientId", "managedIdentityResourceId")
            ],
            (
                "AzureWebJobsStorage",
                {"AzureWebJobsStorage__blobServiceUri": "b", "AzureWebJobsStorage__queueServiceUri": "q"},
                "AzureWebJobsStorage__blobServiceUri, AzureWebJobsStorage__queueServiceUri: the storage connection",
            ),
            *[
                (
                    "AzureWebJobsStorage",
                    {"AzureWebJobsStorage": "sqlite:a.db", f"AzureWebJobsStorage__{key}": "c2VjcmV0"},
                    (
                        f"AzureWebJobsStorage__{key}: no such setting of a connection; AzureWebJobsStorage has "
                        "tableServiceUri, accountName, blobServiceUri, queueServiceUri, credential, clientId, managedId"
                    ),
                )
                for key in ("tenantId", "clientSecret", "certificate", "tableServiceUrl", "Endpoint", "a__b", "")
            ],
            (
                "Other",
                {"Other": "AccountKey=c2VjcmV0", "OTHER": "AccountKey=c2VjcmV0;AccountName=x"},
                "OTHER, Other: two spellings of one variable with different values",
            ),
        ],
    )
    def test_an_unusable_connection_is_named_without_its_value(self, name: str, environment: dict[str, str], line: str):
        with pytest.raises(SettingsError) as caught:
            storage_connections(Settings(storage_connections=name), environment)
        assert str(caught.value).startswith(line)
        assert "c2VjcmV0" not in str(caught.value)


class TestAIConnections:
    def test_no_ai_connection_is_offered_by_default(self):
        assert ai_connections(Settings(), {"Mine__Endpoint": "https://mine.example", "Mine__Key": "k"}) == []

    @pytest.mark.parametrize(
        "path", ["", "/", "//", "/openai", "/openai/", "/openai/v1", "/openai/v1/", "/OpenAI/V1/", "/openai/v1//"]
    )
    def test_a_listed_connection_has_an_endpoint_and_a_key(self, path: str):
        endpoint = f"https://mine.example{path}"
        environment = {"Mine__Endpoint": endpoint, "Mine__Key": "k1", "Other__Endpoint": "http://o", "Other__Key": "k2"}
        assert ai_connections(Settings(ai_connections="Other,Mine"), environment) == [
            AIConnection("Other", "http://o/openai/v1/", "k2"),
            AIConnection("Mine", "https://mine.example/openai/v1/", "k1"),
        ]

    @pytest.mark.parametrize("path", ["/gateway", "/openai/v2", "/myopenai", "/v1"])
    def test_any_other_path_belongs_to_the_address(self, path: str):
        environment = {"Mine__Endpoint": f"https://mine.example{path}", "Mine__Key": "k"}
        [connection] = ai_connections(Settings(ai_connections="Mine"), environment)
        assert connection.base_url == f"https://mine.example{path}/openai/v1/"

    @pytest.mark.parametrize(
        ("endpoint", "key"),
        [("Mine__endpoint", "Mine__key"), ("MINE__ENDPOINT", "MINE__KEY"), ("mine__Endpoint", "Mine__KEY")],
    )
    def test_the_letter_case_of_variables_does_not_matter(self, endpoint: str, key: str):
        environment = {endpoint: "https://mine.example", key: "k", "mine": "another thing"}
        assert ai_connections(Settings(ai_connections="Mine"), environment) == [
            AIConnection("Mine", "https://mine.example/openai/v1/", "k")
        ]

    def test_a_connection_without_a_key_uses_an_identity(self):
        environment = {"One__Endpoint": "https://one", "Two__Endpoint": "https://two", "Two__Key": ""}
        environment |= {"Two__credential": "managedidentity", "Two__clientId": "c"}
        assert ai_connections(Settings(ai_connections="One,Two"), environment) == [
            AIConnection("One", "https://one/openai/v1/", identity=Identity()),
            AIConnection("Two", "https://two/openai/v1/", identity=Identity(is_managed=True, client_id="c")),
        ]

    @pytest.mark.parametrize("path", ["/", "/openai", "/openai/v1/"])
    def test_a_dated_api_version_leaves_the_paths_to_the_sdk(self, path: str):
        environment = {"Mine__Endpoint": f"https://mine{path}", "Mine__Key": "k", "Mine__ApiVersion": "2024-10-21"}
        [connection] = ai_connections(Settings(ai_connections="Mine"), environment)
        assert connection == AIConnection("Mine", "https://mine", "k", api_version="2024-10-21")

    def test_a_key_is_not_printed(self):
        [connection] = ai_connections(Settings(ai_connections="A"), {"A__Endpoint": "https://a", "A__Key": "secret"})
        assert "secret" not in repr(connection)

    @pytest.mark.parametrize("name", ["OPENAI", "AZURE_OPENAI", "OFFLINE", "OpenAI", "azure_openai"])
    def test_the_names_of_the_fallbacks_are_reserved(self, name: str):
        environment = {f"{name}__Endpoint": "https://mine", f"{name}__Key": "k"}
        with pytest.raises(SettingsError, match=f"^PALAVER_AI_CONNECTIONS: {name} is the name of a fallback"):
            ai_connections(Settings(ai_connections=name), environment)

    @pytest.mark.parametrize(
        ("environment", "line"),
        [
            ({}, "Mine__Endpoint: the AI connection Mine needs the URL of its endpoint here"),
            ({"Mine__Key": "secret"}, "Mine__Endpoint: the AI connection Mine needs the URL of its endpoint here"),
            ({"Mine__Endpoint": "mine.example", "Mine__Key": "secret"}, "Mine__Endpoint: the AI connection Mine needs"),
            ({"Mine__Endpoint": "https://mine.example", "Mine__credential": "x"}, "Mine__credential: must be"),
            ({"MINE__ENDPOINT": "mine.example"}, "MINE__ENDPOINT: the AI connection Mine needs the URL of its endp"),
            *[
                ({"Mine__Endpoint": f"https://{host}", "Mine__Key": "k"}, "Mine__Endpoint: the AI connection Mine ")
                for host in ("", "/path", ":443", "a:b", "[::1", "<NAME>.openai.azure.com", "my host", "$(HOST)", "{n}")
            ],
            *[
                ({"Mine__Endpoint": f"https://{rest}"}, "Mine__Endpoint: must have no user name, query string or frag")
                for rest in ("mine/?api-key=secret", "mine/openai/v1?key=secret", "mine#secret", "u:secret@mine")
            ],
            (
                {"Mine__Endpoint": "https://mine/openai/v1/chat/completions/"},
                "Mine__Endpoint: must end before /chat/completions",
            ),
            (
                {"Mine__Endpoint": "https://mine/OpenAI/deployments/gpt-4o"},
                "Mine__Endpoint: must end before /openai/deployments",
            ),
            *[
                ({"Mine__Endpoint": "https://mine", "Mine__Key": key}, "Mine__Key: must be the key alone, in ASCII ch")
                for key in ("'secret'", '"secret"', "Bearer secret", "secret\u200b", "sécret", "secret\nsecret")
            ],
            (
                {"Mine__Endpoint": "https://mine", "MINE__endpoint": "https://yours"},
                "MINE__endpoint, Mine__Endpoint: two spellings of one variable with different values",
            ),
            (
                {"Mine__Endpoint": "https://mine", "Mine__Key": "secret", "Mine__clientId": "c"},
                "Mine__Key, Mine__clientId: set one of them",
            ),
            *[
                (
                    {"Mine__Endpoint": "https://mine", f"Mine__{key}": "secret"},
                    (
                        f"Mine__{key}: no such setting of a connection; Mine has "
                        "Endpoint, Key, ApiVersion, credential, clientId, managedIdentityResourceId"
                    ),
                )
                for key in ("ApiKey", "tenantId", "clientSecret", "certificate", "Endpoint__x", "tableServiceUri")
            ],
        ],
    )
    def test_an_unusable_ai_connection_is_named(self, environment: dict[str, str], line: str):
        with pytest.raises(SettingsError) as caught:
            ai_connections(Settings(ai_connections="Mine"), environment)
        assert str(caught.value).startswith(line)
        assert "secret" not in str(caught.value)

    def test_the_fallback_is_openai_then_azure_then_nothing(self):
        azure = {"AZURE_OPENAI_ENDPOINT": "https://mine.example/", "AZURE_OPENAI_KEY": "azure"}
        openai = {"OPENAI_API_KEY": "open"}
        assert fallback_connection({}) is None
        assert fallback_connection(openai) == AIConnection("OPENAI", OPENAI_URL, "open")
        assert fallback_connection(azure) == AIConnection("AZURE_OPENAI", "https://mine.example/openai/v1/", "azure")
        assert fallback_connection({**azure, **openai}) == AIConnection("OPENAI", OPENAI_URL, "open")
        assert fallback_connection({**azure, "OPENAI_API_KEY": ""}) == fallback_connection(azure)

    @pytest.mark.parametrize(
        ("value", "base_url"),
        [
            ("http://localhost:1/v1", "http://localhost:1/v1"),
            (" https://[::1]:8000/any/path/ ", "https://[::1]:8000/any/path/"),
            ("http://host_1", "http://host_1"),
            # The SDK would take the empty variable for the address.
            ("", OPENAI_URL),
        ],
    )
    def test_openai_may_be_any_compatible_server(self, value: str, base_url: str):
        environment = {"OPENAI_API_KEY": "open\n", "OPENAI_BASE_URL": value}
        assert fallback_connection(environment) == AIConnection("OPENAI", base_url, "open")

    def test_the_letter_case_of_a_fallback_variable_does_not_matter(self):
        environment = {"openai_api_key": "open", "OpenAI_Base_Url": "http://localhost:1/v1"}
        assert fallback_connection(environment) == AIConnection("OPENAI", "http://localhost:1/v1", "open")
        environment = {"azure_openai_endpoint": "https://mine.example", "Azure_OpenAI_Key": "azure"}
        assert fallback_connection(environment) == AIConnection(
            "AZURE_OPENAI", "https://mine.example/openai/v1/", "azure"
        )

    def test_the_azure_fallback_without_a_key_uses_an_identity(self):
        environment = {"AZURE_OPENAI_ENDPOINT": "https://mine.example/OPENAI/v1", "AZURE_OPENAI__clientId": "c"}
        assert fallback_connection(environment) == AIConnection(
            "AZURE_OPENAI", "https://mine.example/openai/v1/", identity=Identity(client_id="c")
        )

    @pytest.mark.parametrize(
        ("environment", "line"),
        [
            ({"OPENAI_BASE_URL": "http://a/v1"}, "OPENAI_BASE_URL: needs OPENAI_API_KEY; set it to any value, such as"),
            (
                {"OPENAI_BASE_URL": "http://a/v1", "AZURE_OPENAI_ENDPOINT": "https://mine", "AZURE_OPENAI_KEY": "k"},
                "OPENAI_BASE_URL: needs OPENAI_API_KEY",
            ),
            *[
                (
                    {"OPENAI_API_KEY": "secret", "OPENAI_BASE_URL": url},
                    "OPENAI_BASE_URL: must be an http:// or https://",
                )
                for url in (
                    "localhost:80/v1",
                    "http://",
                    "ftp://a/v1",
                    "/v1",
                    "a",
                    "http:///v1",
                    '"http://a/v1"',
                    "x y",
                )
            ],
            *[
                ({"OPENAI_API_KEY": "secret", "OPENAI_BASE_URL": url}, "OPENAI_BASE_URL: must have no user name, query")
                for url in ("http://a/v1?key=secret", "http://a/v1#secret", "http://:secret@a/v1")
            ],
            (
                {"OPENAI_API_KEY": "secret", "OPENAI_BASE_URL": "http://a/v1/chat/completions"},
                "OPENAI_BASE_URL: must end before /chat/completions",
            ),
            (
                {"OPENAI_API_KEY": "secret", "OPENAI_API_BASE": "http://a/v1"},
                "OPENAI_API_BASE: the name of this setting is OPENAI_BASE_URL",
            ),
            ({"OPENAI_API_KEY": "Bearer secret"}, "OPENAI_API_KEY: must be the key alone"),
            ({"AZURE_OPENAI_KEY": "secret"}, "AZURE_OPENAI_KEY: needs AZURE_OPENAI_ENDPOINT"),
            ({"AZURE_OPENAI__CLIENTID": "c"}, "AZURE_OPENAI__CLIENTID: needs AZURE_OPENAI_ENDPOINT"),
            ({"AZURE_OPENAI_ENDPOINT": "mine"}, "AZURE_OPENAI_ENDPOINT: the AI connection AZURE_OPENAI needs the URL"),
            ({"AZURE_OPENAI_ENDPOINT": "https://m/?k=secret"}, "AZURE_OPENAI_ENDPOINT: must have no user name, query"),
            (
                {"AZURE_OPENAI_ENDPOINT": "https://m", "AZURE_OPENAI_API_KEY": "secret"},
                "AZURE_OPENAI_API_KEY: the name of this setting is AZURE_OPENAI_KEY",
            ),
            (
                {"AZURE_OPENAI_ENDPOINT": "https://m", "AZURE_OPENAI_KEY": "secret", "AZURE_OPENAI__credential": "x"},
                "AZURE_OPENAI_KEY, AZURE_OPENAI__credential: set one of them",
            ),
            (
                {"AZURE_OPENAI_ENDPOINT": "https://m", "AZURE_OPENAI__clientSecret": "secret"},
                "AZURE_OPENAI__clientSecret: no such setting of a connection; AZURE_OPENAI has credential, clientId",
            ),
        ],
    )
    def test_a_fallback_that_can_not_be_used_is_named(self, environment: dict[str, str], line: str):
        with pytest.raises(SettingsError) as caught:
            fallback_connection(environment)
        assert str(caught.value).startswith(line)
        assert "secret" not in str(caught.value).replace("clientSecret", "")
