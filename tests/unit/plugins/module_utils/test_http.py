"""What is decided about addresses, headers and waiting, without a network."""

from __future__ import annotations

import email.utils
import time

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import (
    Client,
    DownloadError,
    HostPolicy,
    HttpError,
    asked_wait,
    disposition_name,
    is_private,
    origin,
    redact,
    strong,
    unreachable,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@hub.example/a/b?token=secret#secret", "https://hub.example/a/b"),
        ("https://hub.example:8443/x", "https://hub.example:8443/x"),
        ("file:///srv/model.safetensors", "file:///srv/model.safetensors"),
        ("nonsense?token=secret", "nonsense"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_origin_knows_default_ports() -> None:
    assert origin("https://Hub.Example/x") == origin("https://hub.example:443/y")
    assert origin("http://hub.example") != origin("https://hub.example")
    assert origin("https://hub.example") != origin("https://hub.example:444")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "169.254.169.254", "::1", "fe80::1%eth0", "fc00::1", "0.0.0.0"]
)
def test_private(address: str) -> None:
    assert is_private(address)
    assert not is_private("1.1.1.1")
    assert not is_private("2606:4700::1111")


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        # What the user wrote may be anything.
        ("http://192.168.1.5:8080/x", ""),
        ("http://192.168.1.5:8081/x", "not encrypted"),
        ("https://192.168.1.5:8080/x", "none of the hub's known hosts"),
        ("https://storage.hub.example/x", ""),
        ("https://hub.example/x", "none of the hub's known hosts"),
        ("https://storage.hub.example.evil.example/x", "none of the hub's known hosts"),
        ("https://storage.hub.example@evil.example/x", "none of the hub's known hosts"),
        ("http://storage.hub.example/x", "not encrypted"),
        ("http://peer.lan:8190/x", ""),
        ("ftp://storage.hub.example/x", "no http or https address"),
        ("https:///x", "no http or https address"),
    ],
)
def test_policy(url: str, refused: str) -> None:
    policy = HostPolicy(
        configured=("http://192.168.1.5:8080/models",), allowed=("*.hub.example", "http://peer.lan:8190")
    )
    if refused:
        with pytest.raises(DownloadError, match=refused):
            policy.check(url, proxied=True)
    else:
        policy.check(url, proxied=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "localhost"])
def test_policy_looks_at_addresses(host: str) -> None:
    with pytest.raises(DownloadError, match="private address"):
        HostPolicy().check(f"https://{host}/x")


def test_token_is_not_sent_in_the_clear() -> None:
    Client(HostPolicy(), "secret", ("http://127.0.0.1:8080",))
    with pytest.raises(DownloadError, match="unencrypted") as caught:
        Client(HostPolicy(), "secret", ("http://1.1.1.1",))
    assert "secret" not in str(caught.value)


def test_asked_wait() -> None:
    assert asked_wait({}) is None
    assert asked_wait({"Retry-After": "7"}) == 7
    assert asked_wait({"RateLimit": '"api";r=0;t=55'}) == 55
    assert asked_wait({"RateLimit": '"api";r=10;t=55'}) is None
    assert asked_wait({"Retry-After": "soon"}) is None
    then = asked_wait({"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)})
    assert then is not None
    assert 90 < then <= 100


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (None, None),
        ("inline", None),
        ('attachment; filename="model v1.safetensors"', "model v1.safetensors"),
        ("attachment; filename=model.safetensors; size=5", "model.safetensors"),
        ("attachment; filename=\"x.bin\"; filename*=UTF-8''m%C3%B6del.safetensors", "mödel.safetensors"),
        ('attachment; filename="a\\"b.bin"', 'a"b.bin'),
        ('attachment; filename="möd.bin"'.encode().decode("latin-1"), "möd.bin"),
        ('attachment; filename="../../etc/passwd"', "../../etc/passwd"),
    ],
)
def test_disposition_name(header: str | None, name: str | None) -> None:
    assert disposition_name(header) == name


def test_weak_etags_tell_nothing() -> None:
    assert strong('"abc"') == '"abc"'
    assert strong('W/"abc"') is None
    assert strong(None) is None


def test_sentences_hold_no_secret() -> None:
    url = "https://u:secret@storage.example/x?X-Amz-Signature=secret"
    for error in (HttpError(url, 403, {}, b'{"error": "no \x1b[31m entry"}'), unreachable(url, OSError(url))):
        assert "secret" not in str(error)
    assert "(no [31m entry)" in str(HttpError(url, 403, {}, b'{"error": "no \\u001b[31m entry"}'))
