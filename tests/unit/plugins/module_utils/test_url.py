"""A link: whether it is one, what the file is called, and what the statuses mean."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.secondhand.diffusion.plugins.module_utils import _url
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import (
    DownloadError,
    HttpError,
    Location,
    disposition_name,
)

DIGEST = "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"
REQUEST = {"url": "https://example.org/a.safetensors?key=secret", "sha256": DIGEST, "dest": "/srv/models/"}


def location(url: str, disposition: str | None = None) -> Location:
    return Location(url=url, size=1, etag=None, ranges=True, file_name=disposition_name(disposition))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.safetensors",
        "http://192.168.1.10:8190/a?b=c",
        "HTTPS://example.org/",
        "file:///media/usb/a.safetensors",
        "file://localhost/media/usb/a b.safetensors",
        "https://huggingface.co/org/name/resolve/main/a.safetensors",
        "https://example.org/blob/main/a",
        "https://civitai.com/api/download/models/128713",
    ],
)
def test_addresses(url: str) -> None:
    assert _url.check(f" {url}\n") == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.org/a", "url is 'ftp://example.org/a', which is no address that begins with https://"),
        ("example.org/a", "url is 'example.org/a', which is no address that begins with"),
        ("/srv/a", "url is '/srv/a', which is no address that begins with"),
        ("https:///a", "url is 'https:///a', which is no address that begins with"),
        ("", "url is '', which is no address that begins with"),
        (
            "https://example.org:port/a?key=secret",
            "url is no address, because its host or port cannot be read: correct",
        ),
        ("https://[::1/a", "url is no address, because its host or port cannot be read"),
        ("file://server/share/a", "which names no file of the managed host: write it as file:///path/to/file."),
        ("file:///folder/", "which names no file of the managed host"),
        ("file:a", "which names no file of the managed host"),
        (
            "https://huggingface.co/org/name/blob/main/a.safetensors?x=1",
            "https://huggingface.co/org/name/blob/main/a.safetensors is the page about a file: "
            "the file itself is at https://huggingface.co/org/name/resolve/main/a.safetensors.",
        ),
        (
            "https://github.com/org/name/blob/v1/models/a.pth",
            "the file itself is at https://github.com/org/name/raw/v1/models/a.pth.",
        ),
        ("https://civitai.com/models/4384/dreamshaper", "use secondhand.diffusion.civitai_download with the model_id"),
        ("https://www.civitai.red/models/4384", "use secondhand.diffusion.civitai_download with the model_id"),
    ],
)
def test_what_is_none(url: str, reason: str) -> None:
    with pytest.raises(DownloadError) as caught:
        _url.check(url)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_files_of_the_host() -> None:
    assert _url.local_path("file:///media/my%20disk/a%23b.ckpt") == "/media/my disk/a#b.ckpt"
    assert _url.local_path("https://example.org/a") is None


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("attachment; filename=a.safetensors", "a.safetensors"),
        ('attachment; filename="a; b.safetensors"', "a; b.safetensors"),
        ('attachment; filename="a \\"b\\".ckpt"', 'a "b".ckpt'),
        ("attachment; filename=\"a.ckpt\"; filename*=UTF-8''n%C3%A4gel.ckpt", "nägel.ckpt"),
        ("attachment; filename*=iso-8859-1'en'n%E4gel.ckpt", "nägel.ckpt"),
        # A charset that nobody knows, and bytes that are none of the charset.
        ("attachment; filename=\"a.ckpt\"; filename*=klingon''%62.ckpt", "a.ckpt"),
        ("attachment; filename=\"a.ckpt\"; filename*=UTF-8''%E4.ckpt", "a.ckpt"),
        # UTF-8 as it comes out of an HTTP library.
        ('attachment; filename="' + "nägel.ckpt".encode().decode("latin-1") + '"', "nägel.ckpt"),
        ("attachment; filename=", "model.safetensors"),
        ("attachment", "model.safetensors"),
        ("", "model.safetensors"),
    ],
)
def test_the_server_names_the_file(disposition: str, name: str) -> None:
    url = "https://example.org/model.safetensors"
    assert _url.name_of(url, location(url, disposition)) == name


@pytest.mark.parametrize(
    ("url", "target", "name"),
    [
        ("https://example.org/models/a.ckpt?download=true#top", None, "a.ckpt"),
        ("https://example.org/models/my%20model.ckpt", None, "my model.ckpt"),
        ("https://example.org/latest", "https://cdn.example.org/x/model.safetensors?sig=1", "model.safetensors"),
        ("https://example.org/a.ckpt", "https://cdn.example.org/5f3c0a", "a.ckpt"),
        ("https://example.org/latest", "https://cdn.example.org/5f3c0a", "latest"),
        ("https://example.org/", "https://cdn.example.org/5f3c0a", "5f3c0a"),
        ("https://example.org", None, ""),
        ("file:///media/usb/a%20b.ckpt", None, "a b.ckpt"),
    ],
)
def test_the_link_names_the_file(url: str, target: str | None, name: str) -> None:
    assert _url.name_of(url, location(target) if target else None) == name


def test_what_tells_requests_apart() -> None:
    key = _url.request_key(REQUEST)
    assert key is not None
    assert _url.request_key({**REQUEST, "sha256": f" {DIGEST.upper()}"}) == key
    assert _url.request_key({**REQUEST, "pickle": "deny", "token": "secret", "retries": 3}) == key
    others = [{"url": "https://example.org/b"}, {"sha256": "0" * 64}, {"dest": "/srv/other/"}, {"pickle": "allow"}]
    assert key not in [_url.request_key({**REQUEST, **other}) for other in others]
    assert "secret" not in str(key)


@pytest.mark.parametrize("digest", ["none", "None ", "NONE", None, ""])
def test_without_a_hash_the_answer_may_change(digest: str | None) -> None:
    assert _url.has_no_hash({**REQUEST, "sha256": digest})
    assert _url.request_key({**REQUEST, "sha256": digest}) is None


@pytest.mark.parametrize(
    ("status", "token", "message"),
    [
        (401, False, "https://example.org/a asks for a login (status 401): set token."),
        (
            401,
            True,
            "https://example.org/a does not accept the token (status 401): get a new one, or correct url.",
        ),
        (403, False, "get a fresh link if this one is good for a while only, or set token."),
        (403, True, "or see whether the token is allowed to read the file."),
        (404, False, "https://example.org/a does not exist (status 404): correct url."),
        (410, True, "https://example.org/a does not exist (status 410): correct url."),
        (429, False, "has had too many requests (status 429): try again later, raise max_wait, or add a mirror."),
        (500, False, "https://example.org/a answered with status 500"),
    ],
)
def test_statuses(status: int, token: bool, message: str) -> None:
    headers: dict[str, Any] = {}
    error = HttpError("https://example.org/a?key=secret", status, headers, b"")
    told = str(_url.explain("https://example.org/a?key=secret", token)(error))
    assert message in told
    assert "secret" not in told
