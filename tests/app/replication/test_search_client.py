"""Addresses, credentials and TLS: what is refused before anything is sent, and what is sent."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from app.cli.main import main
from app.replication.ports import SinkUnavailable, SinkUnusable
from app.replication.search_client import SearchClient, SearchSettings
from streams.errors import ConfigError
from tests.support.fake_search import FakeSearch


def ask(settings: SearchSettings) -> int:
    """Return the status of a harmless question."""
    client = SearchClient(settings, connections=1)
    try:
        return client.request("HEAD", "nothing", expected=(200, 404)).status
    finally:
        client.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchSettings([]), "--url"),
        (lambda: SearchSettings(["127.0.0.1:9200"]), "http://host:9200"),
        (lambda: SearchSettings(["ftp://host"]), "http://host:9200"),
        (lambda: SearchSettings(["http://host:port"]), "cannot be read"),
        (lambda: SearchSettings(["http://host/?a=b"]), "http://host:9200"),
        (lambda: SearchSettings(["http://user:geheim@host"]), "list of processes"),
        (lambda: SearchSettings(["http://host"], username="u"), "belong together"),
        (lambda: SearchSettings(["http://host"], password="p"), "belong together"),
        (lambda: SearchSettings(["http://host"], username="u", password="p", api_key="k"), "choose one"),
        (lambda: SearchSettings(["http://host"], api_key="k"), "unencrypted"),
        (lambda: SearchSettings(["https://host"], ca_file=Path("/nowhere")), "/nowhere"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(make: Callable[[], object], message: str) -> None:
    """With what is allowed, and without any credential in the message."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_credentials_are_not_shown() -> None:
    """They would end up in a log."""
    settings = SearchSettings(["https://host"], username="u", password="geheim")
    assert "geheim" not in repr(settings)
    assert "geheim" not in repr(SearchSettings(["https://host"], api_key="geheim"))


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        ({"api_key": "a2V5"}, "ApiKey a2V5"),
        ({"username": "u", "password": "p"}, "Basic dTpw"),
    ],
)
def test_credentials_are_sent_with_each_request(settings: dict[str, str], header: str) -> None:
    """As each of the two kinds of authentication wants it."""
    with FakeSearch() as search:
        search.authorization = header
        assert ask(SearchSettings([search.url], **settings)) == 404
        with pytest.raises(SinkUnusable, match="not accepted"):
            ask(SearchSettings([search.url]))


def test_a_server_is_believed_for_its_certificate_alone(tmp_path: Path) -> None:
    """With the CA file; without it, the connection is refused, and nothing is sent."""
    authority, ca_file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with FakeSearch(tls=context) as search:
        assert ask(SearchSettings([search.url], ca_file=ca_file)) == 404
        with pytest.raises(SinkUnusable, match="PROFILES_SINK_CA_FILE"):
            ask(SearchSettings([search.url]))


def test_a_ca_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """At the start, not at the first request."""
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        SearchClient(SearchSettings(["https://host"], ca_file=file), connections=1)


def test_another_node_takes_over() -> None:
    """Of several addresses the next one is asked when one does not answer."""
    with FakeSearch() as gone, FakeSearch() as here:
        gone.down()
        client = SearchClient(SearchSettings([gone.url, here.url]), connections=1)
        with pytest.raises(SinkUnavailable):
            client.request("HEAD", "nothing", expected=(404,))
        assert client.request("HEAD", "nothing", expected=(404,)).status == 404
        client.close()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PROFILES_SINK_API_KEY": "k", "PROFILES_SINK_API_KEY_FILE": "/x"}, "both set"),
        ({"PROFILES_SINK_API_KEY_FILE": "/nowhere"}, "cannot be read"),
        ({"PROFILES_SINK_USERNAME": "u"}, "belong together"),
    ],
)
def test_the_command_refuses_credentials_that_cannot_be_right(
    environment: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2."""
    assert main(["replicate", "elasticsearch", "--url", "https://host"], environment) == 2
    assert message in capsys.readouterr().err


def test_a_password_can_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that it is in no environment either; the end of the line does not count."""
    file = tmp_path / "password"
    file.write_text("p\n")
    with FakeSearch() as search:
        search.authorization = "Basic dTpw"
        environment = {"PROFILES_SINK_USERNAME": "u", "PROFILES_SINK_PASSWORD_FILE": str(file)}
        assert main(["replicate", "elasticsearch", "--url", search.url, "--refused"], environment) == 2
        assert "nothing was copied there yet" in capsys.readouterr().err
