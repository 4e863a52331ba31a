#!/usr/bin/env python3
"""The half of cpu_profile that runs on the host, as root."""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

CURRENT = Path("/opt/sd-webui/current").resolve()
COPY = CURRENT.parent / "bench-cpu-profile"
DROPIN = Path("/run/systemd/system/sd-webui.service.d/60-bench.conf")
# The guide's, without --listen and --enable-insecure-extension-access, which cost no time; webui.sh preloads tcmalloc
# only where it is installed, and the guide does not install it.
GUIDE = ["--use-cpu", "all", "--no-half", "--no-half-vae", "--opt-split-attention"]


def variants(profile: dict[str, Any]) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Flags and environment by name; an empty LD_PRELOAD takes tcmalloc away."""
    own = [str(argument) for argument in profile["arguments"]]
    cores = os.cpu_count() or 1
    return {
        "guide": (GUIDE, {"LD_PRELOAD": ""}),
        "profile": (own, {}),
        "profile, no tcmalloc": (own, {"LD_PRELOAD": ""}),
        "profile, one thread less": (own, {"OMP_NUM_THREADS": str(max(cores - 1, 1))}),
        "profile, channels last": ([*own, "--opt-channelslast"], {}),
    }


def systemctl(*arguments: str) -> None:
    subprocess.run(["systemctl", *arguments], check=True)


def start(arguments: list[str], environment: dict[str, str]) -> float:
    """Seconds until the server is ready with these flags."""
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir()
    for part in CURRENT.iterdir():
        if part.name != "release.json":
            (COPY / part.name).symlink_to(part)
    recipe = json.loads((CURRENT / "release.json").read_text())
    for profile in recipe["profiles"].values():
        profile.update(arguments=arguments, environment={**profile["environment"], **environment})
    (COPY / "release.json").write_text(json.dumps(recipe))
    DROPIN.parent.mkdir(parents=True, exist_ok=True)
    DROPIN.write_text(f"[Service]\nEnvironment=SD_WEBUI_RELEASE={COPY}\n")
    systemctl("daemon-reload")
    started = time.monotonic()
    systemctl("restart", "sd-webui.service")
    return time.monotonic() - started


def picture(size: int, steps: int) -> float:
    """Seconds that a picture takes."""
    engine = json.loads(Path("/etc/sd-webui/engine.json").read_text())
    body = {
        "prompt": "a lighthouse",
        "width": size,
        "height": size,
        "steps": steps,
        "sampler_name": "Euler",
        "cfg_scale": 12,
        "seed": 1,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{engine['port']}{engine['txt2img_path']}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    started = time.monotonic()
    with urllib.request.urlopen(request, timeout=3600) as answer:
        answer.read()
    return time.monotonic() - started


def peak_mib() -> float:
    """The most memory that the server's process has held."""
    shown = subprocess.run(
        ["systemctl", "show", "--property=MainPID", "--value", "sd-webui.service"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    status = Path(f"/proc/{shown.stdout.strip()}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--only", action="append", default=[])
    options = parser.parse_args()
    rows = []
    recipe = json.loads((CURRENT / "release.json").read_text())
    try:
        for name, (arguments, environment) in variants(recipe["profiles"]["cpu"]).items():
            if name not in (options.only or ["guide", "profile"]):
                continue
            ready = start(arguments, environment)
            # Loads the model and sets everything up: not what is compared.
            picture(64, 1)
            seconds = picture(options.size, options.steps)
            rows.append(
                {
                    "name": name,
                    "seconds": seconds,
                    "step": seconds / options.steps,
                    "peak_mib": peak_mib(),
                    "start": ready,
                }
            )
    finally:
        DROPIN.unlink(missing_ok=True)
        systemctl("daemon-reload")
        systemctl("restart", "sd-webui.service")
        shutil.rmtree(COPY, ignore_errors=True)
    # In one word: whatever shows it may break lines and escape quotes.
    print("RESULT " + base64.b64encode(json.dumps(rows).encode()).decode())


if __name__ == "__main__":
    main()
