# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What engine.json and the kernel say about this host. Private to this collection: not an interface for others."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from dataclasses import dataclass
from typing import Any

DEFAULT_ENGINE_FILE = "/etc/sd-webui/engine.json"
_SCHEMA = 1
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


class EngineFileError(Exception):
    """The engine file cannot be used; the message is one sentence with the next step."""


@dataclass(frozen=True)
class Engine:
    """The server to measure. Without an engine file only the address and the usual paths are known."""

    url: str
    txt2img_path: str = "/sdapi/v1/txt2img"
    options_path: str = "/sdapi/v1/options"
    progress_path: str | None = "/sdapi/v1/progress"
    name: str | None = None
    version: str | None = None
    release: str | None = None
    unit: str | None = None
    profile: str | None = None
    checkpoint_file: str | None = None
    auth_file: str | None = None


def read_engine(path: str, url: str | None) -> Engine:
    """Reads engine.json; url, when given, replaces the address that it names."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
    except FileNotFoundError as exc:
        raise EngineFileError(
            f"There is no engine file {path}: install a server with the role sd_webui, or give its address in url."
        ) from exc
    except PermissionError as exc:
        raise EngineFileError(f"The engine file {path} may not be read by this user: run with become.") from exc
    except (OSError, ValueError) as exc:
        raise EngineFileError(
            f"The engine file {path} cannot be read as JSON ({exc}): run the role sd_webui again to rewrite it."
        ) from exc
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        raise EngineFileError(
            f"The engine file {path} is not of schema {_SCHEMA}: "
            "use the collection version that installed the server, or run the role sd_webui again."
        )
    try:
        return _as_engine(content, url, path)
    except (KeyError, TypeError, ValueError) as exc:
        raise EngineFileError(
            f"The engine file {path} lacks a usable {exc}: run the role sd_webui again to rewrite it."
        ) from exc


def _as_engine(content: dict[str, Any], url: str | None, path: str) -> Engine:
    if url is None:
        address = _EVERYWHERE.get(str(content["address"]), str(content["address"]))
        host = f"[{address}]" if ":" in address else address
        url = f"http://{host}:{int(content['port'])}"
    return Engine(
        url=url,
        txt2img_path=str(content["txt2img_path"]),
        options_path="/sdapi/v1/options",
        progress_path=content.get("progress_path"),
        name=str(content["engine"]),
        version=content.get("version"),
        release=content.get("release"),
        unit=content.get("unit"),
        profile=content.get("profile") or _active_profile(path, content.get("profiles") or []),
        checkpoint_file=content.get("checkpoint"),
        auth_file=content.get("auth_file"),
    )


def _active_profile(path: str, profiles: list[str]) -> str | None:
    """As the server's own start decides: the override of sd-profile while it lasts, else what the playbook wrote."""
    if len(profiles) == 1:
        return profiles[0]
    root = os.path.abspath(path)
    # Elsewhere lies a copy, which says nothing about a host.
    if not root.endswith(DEFAULT_ENGINE_FILE):
        return None
    root = root[: -len(DEFAULT_ENGINE_FILE)]
    for read in (_override, _desired):
        try:
            profile = read(root)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if profile in profiles:
            return profile
    return None


def _override(root: str) -> str | None:
    with open(f"{root}/var/lib/sd-webui/profile-override.json", encoding="utf-8") as stream:
        content = json.load(stream)
    expires = content.get("expires") if isinstance(content, dict) else 0
    if expires is not None and float(expires) <= time.time():
        return None
    return str(content["profile"])


def _desired(root: str) -> str:
    with open(f"{root}/etc/sd-webui/profile", encoding="utf-8") as stream:
        return stream.read().strip()


def read_auth_file(path: str) -> tuple[str, str]:
    """Reads the first `user:password` line."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = [line.strip() for line in stream]
    except OSError as exc:
        raise EngineFileError(
            f"The login file {path} cannot be read ({exc.strerror}): "
            "run with become, set login_file, or give username and password."
        ) from exc
    except UnicodeDecodeError as exc:
        raise EngineFileError(f"The login file {path} is not UTF-8: write it again as user:password.") from exc
    for line in lines:
        user, colon, password = line.partition(":")
        if colon and user and password and not user.startswith("#"):
            return user, password
    raise EngineFileError(f"The login file {path} has no line user:password: write one, or give username and password.")


def file_sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1024 * 1024), b""):
            digest.update(block)
    return digest.hexdigest()


def cpu_name() -> str | None:
    """The processor's name and its number of threads, as the kernel tells them."""
    name: str | None = None
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                key, colon, value = line.partition(":")
                if colon and key.strip() == "model name":
                    name = " ".join(value.split())
                    break
    except OSError:
        return None
    return f"{name}, {os.cpu_count()} threads" if name else None


def gpu_name() -> str | None:
    """The name of the first card that the NVIDIA driver has taken; no tool of the driver is needed."""
    for path in sorted(glob.glob("/proc/driver/nvidia/gpus/*/information")):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    key, colon, value = line.partition(":")
                    if colon and key.strip() == "Model":
                        return value.strip()
        except OSError:
            continue
    return None
