"""The module as Ansible runs it: a process with JSON on its standard input, against a real server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from webui import CHECKPOINT, CHECKPOINT_SHA256, WebUi, serve

ROOT = Path(__file__).resolve().parents[4]
COLLECTIONS = ROOT / "playbooks" / "collections"
MODULE = "ansible_collections.secondhand.diffusion.plugins.modules.sd_benchmark"

SMALL = {"width": 64, "height": 32, "steps": 2}


def run(check: bool = False, environment: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    arguments = {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": check, "_ansible_remote_tmp": "/tmp"}}
    done = subprocess.run(
        [sys.executable, "-m", MODULE],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(COLLECTIONS), *sys.path]), **(environment or {})},
    )
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if answer.get("failed") else 0), done.stderr
    return answer


def message(**options: Any) -> str:
    answer = run(**options)
    assert answer.get("failed") is True, answer
    text: str = answer["msg"]
    # One sentence: what is wrong, where, and the next step.
    assert text.endswith(".") and ": " in text and "\n" not in text and "Traceback" not in text
    return text


@pytest.fixture
def server() -> Iterator[WebUi]:
    with serve() as web_ui:
        yield web_ui


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / f"{CHECKPOINT}.safetensors"
    path.write_bytes(b"not really weights")
    return path


@pytest.fixture
def engine_file(tmp_path: Path, server: WebUi, checkpoint: Path) -> Path:
    return write_engine_file(tmp_path / "engine.json", server, checkpoint=str(checkpoint))


def write_engine_file(path: Path, server: WebUi, **changes: Any) -> Path:
    content = {
        "schema": 1,
        "engine": "stable_diffusion_cpp",
        "version": "0.4.7",
        "release": "0.4.7-1a2b3c4d",
        "unit": "sd-webui.service",
        "address": "127.0.0.1",
        "port": server.server_address[1],
        "health_path": "/sdapi/v1/options",
        "readiness_path": "/sdapi/v1/options",
        "progress_path": None,
        "txt2img_path": "/sdapi/v1/txt2img",
        "profiles": ["cpu"],
        "minimum_memory_mib": 4096,
        "auth_file": None,
        "models_dir": "/srv/sd/models",
        "outputs_dir": "/srv/sd/outputs",
        "checkpoint": None,
        **changes,
    }
    path.write_text(json.dumps(content))
    return path


# What it measures


def test_asuka_is_the_guides(server: WebUi, engine_file: Path, checkpoint: Path) -> None:
    answer = run(engine_file=str(engine_file))
    assert answer["changed"] is False
    assert answer["standard"] is True
    guide = (
        "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, "
        "worst quality, low quality, normal quality, jpeg artifacts,signature, watermark, username, blurry, artist name"
    )
    assert answer["settings"] == {
        "prompt": "masterpiece, best quality, masterpiece, asuka langley sitting cross legged on a chair",
        "negative_prompt": guide,
        "sampler_name": "Euler",
        "steps": 20,
        "cfg_scale": 12.0,
        "width": 512,
        "height": 512,
        "seed": 2870305590,
        "batch_size": 1,
        "n_iter": 1,
    }
    asked = [json.loads(request["body"]) for request in server.requests if request["method"] == "POST"]
    assert [(request["steps"], request["width"]) for request in asked] == [(1, 64), (20, 512)]
    assert asked[1] == answer["settings"]
    assert (answer["image_width"], answer["image_height"], answer["blank"]) == (512, 512, False)
    assert answer["engine"] == "stable_diffusion_cpp"
    assert answer["engine_version"] == "0.4.7"
    assert answer["release"] == "0.4.7-1a2b3c4d"
    assert (answer["profile"], answer["device"]) == ("cpu", "cpu")
    assert answer["device_name"].endswith("threads")
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert answer["checkpoint"] == CHECKPOINT
    assert (answer["checkpoint_sha256"], answer["checkpoint_hash"]) == (digest, digest[:10])
    assert answer["checkpoint_hash_source"] == "file"
    assert "8888888888" not in json.dumps(answer)


def test_times_are_those_a_client_waits() -> None:
    with serve(seconds_per_step=0.1, seconds_to_load=0.5) as server:
        started = time.monotonic()
        answer = run(url=server.url, overrides={**SMALL, "steps": 5}, runs=3)
        elapsed = time.monotonic() - started
    assert len(answer["runs_seconds"]) == 3
    assert sorted(answer["runs_seconds"])[1] == answer["seconds"]
    # What else the machine does is in all of these.
    assert min(answer["runs_seconds"]) >= 0.5
    assert sum(answer["runs_seconds"]) + answer["warmup_seconds"] <= elapsed
    assert answer["seconds_per_iteration"] == pytest.approx(answer["seconds"] / 5, abs=0.001)
    # The loading of the model is in the warm-up, and nowhere else.
    assert answer["warmup_seconds"] >= 0.6
    assert answer["standard"] is False


def test_no_warm_up(server: WebUi) -> None:
    answer = run(url=server.url, preset="smoke", warmup=False)
    assert answer["warmup_seconds"] is None
    assert [request["method"] for request in server.requests].count("POST") == 1
    assert answer["standard"] is True
    assert (answer["engine"], answer["checkpoint_hash"]) == (None, None)
    assert "engine file" in answer["checkpoint_hash_reason"]


def test_steampunk_is_the_median_of_three(server: WebUi) -> None:
    answer = run(url=server.url, preset="steampunk", overrides=SMALL)
    assert len(answer["runs_seconds"]) == 3
    assert answer["settings"]["sampler_name"] == "Euler a"
    assert answer["settings"]["cfg_scale"] == 7.0


def test_an_override_of_the_same_value_is_still_standard(server: WebUi) -> None:
    assert run(url=server.url, preset="smoke", overrides={"steps": 1, "cfg_scale": 7})["standard"] is True
    assert run(url=server.url, preset="smoke", overrides={"seed": 1})["standard"] is False


def test_automatic1111_tells_its_hash_and_memory() -> None:
    with serve(kind="automatic1111") as server:
        answer = run(url=server.url, preset="smoke")
        assert server.requests[1]["path"] == "/sdapi/v1/memory"
    assert answer["checkpoint"] == CHECKPOINT
    assert answer["checkpoint_hash"] == CHECKPOINT_SHA256[:10]
    assert answer["checkpoint_sha256"] == CHECKPOINT_SHA256
    assert (answer["checkpoint_hash_source"], answer["checkpoint_hash_reason"]) == ("server", None)
    assert answer["device"] == "gpu"
    assert answer["gpu_memory_peak"] == 1536 * 1024**2
    assert answer["gpu_out_of_memory_events"] == 0


def test_the_hash_is_of_the_checkpoint_in_use(tmp_path: Path, server: WebUi, checkpoint: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"x")
    path = write_engine_file(tmp_path / "e.json", server, checkpoint=str(other))
    answer = run(engine_file=str(path), preset="smoke")
    assert answer["checkpoint_hash"] is None
    assert "the server uses random-sd15" in answer["checkpoint_hash_reason"]
    path = write_engine_file(tmp_path / "e.json", server, checkpoint=str(checkpoint))
    answer = run(engine_file=str(path), preset="smoke", checkpoint_hash=False)
    assert answer["checkpoint_hash"] is None
    assert "not read" in answer["checkpoint_hash_reason"]


def test_an_unknown_choice_of_profile_is_not_guessed(tmp_path: Path, server: WebUi) -> None:
    path = write_engine_file(tmp_path / "e.json", server, profiles=["cpu", "gpu_lowvram"])
    answer = run(engine_file=str(path), preset="smoke")
    assert (answer["profile"], answer["device"]) == (None, None)


@pytest.mark.parametrize(
    ("override", "profile", "device"),
    [
        (None, "gpu_lowvram", "gpu"),
        ({"profile": "cpu", "expires": None}, "cpu", "cpu"),
        ({"profile": "cpu", "expires": time.time() + 86400}, "cpu", "cpu"),
        ({"profile": "cpu", "expires": time.time() - 1}, "gpu_lowvram", "gpu"),
        ({"profile": "gone", "expires": None}, "gpu_lowvram", "gpu"),
        ({"expires": None}, "gpu_lowvram", "gpu"),
        ({"profile": "cpu", "expires": "soon"}, "gpu_lowvram", "gpu"),
        ([], "gpu_lowvram", "gpu"),
    ],
)
def test_the_active_profile_is_the_hosts(
    tmp_path: Path, server: WebUi, override: Any, profile: str, device: str
) -> None:
    config, state = tmp_path / "etc/sd-webui", tmp_path / "var/lib/sd-webui"
    config.mkdir(parents=True)
    state.mkdir(parents=True)
    path = write_engine_file(config / "engine.json", server, profiles=["cpu", "gpu_lowvram"])
    assert run(engine_file=str(path), preset="smoke", check=True)["profile"] is None
    (config / "profile").write_text("gpu_lowvram\n")
    (state / "profile-override.json").write_text("{" if override is None else json.dumps(override))
    answer = run(engine_file=str(path), preset="smoke", check=True)
    assert (answer["profile"], answer["device"]) == (profile, device)


def test_a_proxy_is_not_asked_for_loopback(server: WebUi) -> None:
    proxy = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": ""}
    assert run(url=server.url, preset="smoke", environment=proxy)["image_size"] > 0


def test_an_address_for_everyone_is_reached_on_loopback(tmp_path: Path, server: WebUi) -> None:
    path = write_engine_file(tmp_path / "e.json", server, address="0.0.0.0")
    assert run(engine_file=str(path), preset="smoke")["url"] == server.url


# Where the picture goes


def test_the_picture_is_stored_once(tmp_path: Path, server: WebUi) -> None:
    path = tmp_path / "a" / "picture.png"
    path.parent.mkdir()
    options: dict[str, Any] = {"url": server.url, "preset": "smoke", "image_path": str(path), "mode": "0640"}
    predicted = run(check=True, **options)
    assert (predicted["changed"], path.exists()) == (True, False)
    first = run(**options)
    assert (first["changed"], first["image_path"]) == (True, str(path))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == first["image_sha256"]
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (first["image_size"], 0o640)
    again = run(**options)
    assert (again["changed"], again["image_sha256"]) == (False, first["image_sha256"])
    assert run(check=True, **options)["changed"] is False
    other = run(**{**options, "overrides": {"seed": 5}})
    assert (other["changed"], other["image_sha256"] != first["image_sha256"]) == (True, True)
    assert sorted(os.listdir(path.parent)) == ["picture.png"]


def test_a_directory_names_the_picture_after_the_preset(tmp_path: Path, server: WebUi) -> None:
    answer = run(url=server.url, preset="smoke", image_path=str(tmp_path))
    assert answer["image_path"] == str(tmp_path / "smoke.png")


def test_check_mode_generates_nothing(server: WebUi, engine_file: Path) -> None:
    answer = run(check=True, engine_file=str(engine_file))
    assert not [request for request in server.requests if request["method"] == "POST"]
    assert answer["changed"] is False
    assert answer["seconds"] is None
    assert answer["runs_seconds"] == []
    assert set(answer) == set(run(engine_file=str(engine_file), preset="smoke"))


# Passwords


def test_password(tmp_path: Path) -> None:
    with serve(auth="api:open sesame") as server:
        assert "give username and password" in message(url=server.url, preset="smoke")
        refused = message(url=server.url, preset="smoke", username="api", password="wrong-word")
        assert "HTTP 401" in refused and "wrong-word" not in refused
        right = run(url=server.url, preset="smoke", username="api", password="open sesame")
        assert right["image_size"] > 0
        assert "open sesame" not in json.dumps(right)
        secret = tmp_path / "auth"
        secret.write_text("# one user a line\napi:open sesame\n")
        path = write_engine_file(tmp_path / "e.json", server, auth_file=str(secret))
        from_file = run(engine_file=str(path), preset="smoke")
        assert from_file["image_size"] > 0
        assert "open sesame" not in json.dumps(from_file)
        path = write_engine_file(tmp_path / "e.json", server, auth_file=str(tmp_path / "none"))
        assert "give username and password" in message(engine_file=str(path), preset="smoke")


def test_login_file(tmp_path: Path) -> None:
    secret = tmp_path / "login"
    secret.write_text("me:open sesame: now\n")
    with serve(kind="automatic1111", auth="me:open sesame: now") as server:
        options: dict[str, Any] = {"url": server.url, "preset": "smoke"}
        assert "asks for a login, so set login_file, or give username" in message(**options)
        answer = run(**options, login_file=str(secret))
        assert answer["image_size"] > 0
        assert "sesame" not in json.dumps(answer)
        secret.write_text("me:wrong-word\n")
        refused = message(**options, login_file=str(secret))
        assert f"HTTP 401): the login in {secret} is not the server's" in refused and "wrong-word" not in refused
    for content, said in ((b"word-only\n", "has no line user:password"), (b"me:\xff\n", "is not UTF-8")):
        secret.write_bytes(content)
        assert said in message(url="http://127.0.0.1:9", login_file=str(secret))
    both = run(url="http://127.0.0.1:9", login_file=str(secret), username="me", password="words")
    assert "mutually exclusive" in both["msg"]


def test_the_login_goes_to_its_own_server_only(tmp_path: Path) -> None:
    secret = tmp_path / "login"
    secret.write_text("me:open sesame\n")
    with (
        serve(auth="me:open sesame") as right,
        serve(kind="automatic1111", misbehave="redirect") as other,
        serve() as proxy,
    ):
        # The login that the engine file names is not for another host; all that is asked for there passes the proxy.
        path = write_engine_file(tmp_path / "e.json", right, auth_file=str(secret))
        away: dict[str, Any] = {"url": "http://192.0.2.1:7860", "preset": "smoke"}
        away["environment"] = {"http_proxy": proxy.url, "no_proxy": ""}
        run(engine_file=str(path), **away)
        assert proxy.requests and all(request.get("login") is None for request in proxy.requests)
        run(login_file=str(secret), **away)
        assert any((request.get("login") or "").startswith("Basic ") for request in proxy.requests)
        assert run(engine_file=str(path), url=right.url, preset="smoke")["image_size"] > 0
        # Nor does it follow where the server wants to send the request on.
        assert "sends on to" in message(url=other.url, login_file=str(secret), preset="smoke", warmup=False)


def test_a_progress_path_may_have_a_query_of_its_own(tmp_path: Path) -> None:
    with serve(kind="automatic1111") as server:
        path = write_engine_file(
            tmp_path / "e.json", server, progress_path="/sdapi/v1/progress?skip_current_image=true"
        )
        assert run(engine_file=str(path), preset="smoke")["image_size"] > 0
        asked = [request["path"] for request in server.requests if "progress" in request["path"]]
    assert asked == ["/sdapi/v1/progress?skip_current_image=true"]


# What it says when something is wrong


@pytest.mark.parametrize(
    ("misbehave", "said"),
    [
        ("black", "one single colour"),
        ("cut_off", "it is cut off"),
        ("die", "look for a lack of memory first"),
        ("error_500", "generate_image returned no results"),
        ("error_502", "HTTP 502"),
        ("html", "not JSON"),
        ("jpeg", "set the server's picture format to png"),
        ("no_api", "--api"),
        ("no_images", "without a picture"),
        ("not_base64", "not base64"),
        ("redirect", "sends on to https://login.example/"),
        ("wrong_size", "multiples of 64"),
    ],
)
def test_a_bad_answer(misbehave: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with serve(misbehave=misbehave) as server:
        assert said in message(url=server.url, preset="smoke", warmup=False, image_path=str(path))
    assert not path.exists()


def test_out_of_graphics_memory_is_said_as_a1111_says_it() -> None:
    with serve(kind="automatic1111", misbehave="error_500") as server:
        assert "CUDA out of memory" in message(url=server.url, preset="smoke")


def test_a_black_picture_can_be_allowed() -> None:
    with serve(misbehave="black") as server:
        assert run(url=server.url, preset="smoke", allow_blank=True)["blank"] is True
        answer = run(url=server.url, preset="smoke")
    assert (answer["failed"], answer["blank"]) == (True, True)
    assert answer["seconds"] is not None


@pytest.mark.parametrize("misbehave", ["silent", "trickle"])
def test_a_server_that_never_ends(misbehave: str) -> None:
    started = time.monotonic()
    with serve(misbehave=misbehave) as server:
        assert "within 1 seconds" in message(url=server.url, preset="smoke", timeout=1)
    assert time.monotonic() - started < 30


def test_nothing_listens(tmp_path: Path) -> None:
    with serve() as server:
        path = write_engine_file(tmp_path / "e.json", server)
    assert "systemctl start sd-webui.service" in message(engine_file=str(path))
    assert "correct url" in message(url=server.url)


def test_a_busy_server_is_not_measured() -> None:
    with serve(kind="automatic1111", busy=True) as server:
        assert "busy" in message(url=server.url, preset="smoke")
        assert not [request for request in server.requests if request["method"] == "POST"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "127.0.0.1:7860"}, "give an address such as"),
        ({"url": "http://me:word@127.0.0.1:7860"}, "in username and password instead"),
        ({"overrides": {"width": 100}}, "multiple of 8"),
        ({"overrides": {"steps": 0}}, "above 0"),
        ({"runs": -1}, "above 0"),
        ({"image_path": "/nowhere/at/all.png"}, "create it first"),
        ({"engine_file": "/nowhere/engine.json"}, "install a server"),
    ],
)
def test_a_bad_option(options: dict[str, Any], said: str) -> None:
    assert said in message(**{"url": "http://127.0.0.1:9", **options})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not of schema 1"),
        ('{"schema": 2}', "not of schema 1"),
        ('{"schema": 1}', "lacks"),
    ],
)
def test_a_bad_engine_file(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "engine.json"
    path.write_text(content)
    assert said in message(engine_file=str(path))
