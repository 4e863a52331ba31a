"""Encrypted hubs, with a certificate authority of one's own, as a mirror in the LAN has it."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hubs import Hubs
from module_runs import Modules

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
SIZE = 20 * 1024 * 1024 + 1


def make_certificate(folder: Path) -> tuple[str, str]:
    """A certificate for all addresses of the hubs that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hubs")])
    now = datetime.datetime.now(datetime.timezone.utc)
    addresses = [x509.IPAddress(ipaddress.ip_address(f"127.0.0.{number}")) for number in range(1, 6)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hubs, str]]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate(folder)
    with Hubs(folder, tls=(certificate, key)) as hubs:
        yield hubs, certificate


def test_encrypted_hub(encrypted: tuple[Hubs, str], run_module: Modules, tmp_path: Path) -> None:
    hubs, certificate = encrypted
    stored = hubs.storage.add("tls.safetensors", SIZE)
    hubs.huggingface.add_repo("somebody/tls", files={"tls.safetensors": stored}, gated="auto")
    hubs.huggingface.token = TOKEN
    options: dict[str, Any] = {
        "repository": "somebody/tls",
        "file": "tls.safetensors",
        "endpoint": hubs.huggingface.url,
        "allowed_hosts": [hubs.storage.url, hubs.storage2.url],
        "dest": f"{tmp_path}/store/",
        "token": TOKEN,
    }
    refused = run_module("huggingface_download", **options)
    assert "its certificate is not valid here" in refused.message, refused.output
    assert len(hubs.asked("storage")) == 0

    run = run_module("huggingface_download", **options, ca_path=certificate)
    assert run.result["changed"], run.output
    assert run.result["sha256"] == stored.sha256
    assert hubs.told(TOKEN) == ["huggingface"]
    assert TOKEN not in run.output


def test_authority_of_the_environment(encrypted: tuple[Hubs, str], run_module: Modules, tmp_path: Path) -> None:
    hubs, certificate = encrypted
    stored = hubs.storage.add("environment.dat", SIZE)
    run = run_module(
        "url_download",
        environment={"REQUESTS_CA_BUNDLE": certificate},
        url=stored.url,
        sha256=stored.sha256,
        dest=str(tmp_path / "file.dat"),
    )
    assert run.result["changed"], run.output
