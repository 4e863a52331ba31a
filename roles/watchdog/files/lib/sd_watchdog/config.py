# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role wrote for the watchdog, and what runs on this host according to role sd_webui."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_watchdog import paths


class ConfigError(Exception):
    """A file is missing or damaged; the message is one sentence with the next step."""


@dataclass(frozen=True)
class Config:
    """The watchdog's settings; times in seconds. The defaults are those of the role."""

    engine_file: str = "/etc/sd-webui/engine.json"
    host: str = ""
    # A health request each so many seconds; so many failures in a row, without any work, are a hang.
    health_interval: float = 5
    health_timeout: float = 5
    health_failures: int = 3
    # A stopped process (state T) is killed after this; a job without a step and without work after that.
    stopped_seconds: float = 10
    stall_seconds: float = 600
    # No answer, but the processor works: how long that may go on without any step.
    busy_seconds: float = 21600
    # A start is ended after this much time without any sign of work, and after that much in all.
    start_stall_seconds: float = 120
    start_limit_seconds: float = 3600
    # Share of the memory limit at which grown memory is given back by a planned restart.
    memory_percent: float = 85
    disk_low_mib: int = 1024
    restarts_per_rung: int = 3
    backoff_max: float = 300
    # So long without a fault the backoff begins anew; so long, and one rung of the ladder is taken back.
    healthy_seconds: float = 600
    step_up_seconds: float = 86400
    override_seconds: float = 604800
    failed_starts: int = 3
    gpu: bool = False
    nvidia_smi: str = "nvidia-smi"
    gpu_interval: float = 60
    gpu_deadline: float = 10
    kernel_log: str = "journal"
    driver_reload: bool = True
    reboot: bool = False
    reboot_interval: float = 21600
    reboot_most: int = 3
    reboot_command: tuple[str, ...] = ("systemctl", "reboot")
    alerts: bool = False
    # Below these an engine does nothing: in cores, and in per cent of the card.
    idle_cores: float = 0.2
    idle_gpu_percent: float = 5


@dataclass(frozen=True)
class Engine:
    """What runs here and how to ask it (engine.json, written by role sd_webui)."""

    engine: str
    version: str
    release: str
    unit: str
    address: str
    port: int
    health_path: str
    readiness_path: str
    progress_path: str | None
    activity_path: str | None
    profiles: tuple[str, ...]
    minimum_memory_mib: int
    models_dir: str
    outputs_dir: str
    data_dir: str
    user: str
    start_timeout: float
    state_dir: str
    profile_file: str
    release_link: str
    start_command: tuple[str, ...]
    drain_command: tuple[str, ...] = ()
    profile_command: tuple[str, ...] = ()
    roll_back_command: tuple[str, ...] = ()
    # What the service's sandbox lets the engine write to.
    write_dirs: tuple[str, ...] = ()
    auth_file: str | None = None
    checkpoint: str = ""


def load_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of root's; raises ConfigError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); run site.yml for this host again.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a JSON object; run site.yml for this host again.")
    return data


def _convert(name: str, kind: str, value: Any) -> Any:
    """A value as its field wants it; raises TypeError or ValueError."""
    if value is None and "None" in kind:
        return None
    if kind.startswith("tuple"):
        if not isinstance(value, list):
            raise TypeError(f"{name} is no list")
        return tuple(str(item) for item in value)
    if kind == "bool":
        if not isinstance(value, bool):
            raise TypeError(f"{name} is neither true nor false")
        return value
    if isinstance(value, (list, dict, bool)) or value is None:
        raise TypeError(f"{name} is no {kind}")
    return {"float": float, "int": int}.get(kind, str)(value)


def _fill(kind: Any, path: Path, data: dict[str, Any]) -> Any:
    """A dataclass from a JSON object; unknown keys are left alone, so that a newer role may add some."""
    try:
        values = {
            field.name: _convert(field.name, str(field.type), data[field.name])
            for field in dataclasses.fields(kind)
            if field.name in data
        }
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is not as the role writes it ({error}); run site.yml for this host again."
        ) from error


def load_config(path: Path = paths.CONFIG) -> Config:
    """The settings; raises ConfigError."""
    found: Config = _fill(Config, path, load_object(path))
    return found


def load_engine(config: Config) -> Engine:
    """What runs here, or what is to prove itself here in a switch of role sd_webui; raises ConfigError."""
    candidate = os.environ.get("SD_WEBUI_ENGINE_FILE")
    path = paths.BASE / config.engine_file.lstrip("/")
    # After the switch it is gone, and what stands in /etc is the same.
    if candidate and Path(candidate).exists():
        path = Path(candidate)
    found: Engine = _fill(Engine, path, load_object(path))
    return found
