"""playbooks/benchmark.yml as a person runs it, against web UIs that stand in for three machines."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from webui import serve

ROOT = Path(__file__).resolve().parents[3]
GUIDE = {
    "Quadro P600": 56,
    "GTX 750 Ti": 69,
    "Xeon E5-2670": 225,
    "Xeon E3-1245": 330,
    "Core i5-2300": 400,
    "Core i5-2520M": 750,
    "Pentium G5420": 770,
}


def benchmark(
    tmp_path: Path, hosts: dict[str, dict[str, Any]], extra: dict[str, Any], *options: str
) -> subprocess.CompletedProcess[str]:
    inventory = tmp_path / "inventory.json"
    every = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory.write_text(json.dumps({"sd_servers": {"hosts": hosts, "vars": every}}))
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", "-i", inventory, ROOT / "playbooks/benchmark.yml"),
            *("-e", json.dumps(extra), *options),
        ],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "TMPDIR": str(tmp_path / "tmp"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def texts(chart: Path) -> list[str]:
    root = ElementTree.parse(chart).getroot()
    return [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_next_to_the_guide(tmp_path: Path) -> None:
    with serve() as first, serve(kind="automatic1111") as second, serve(misbehave="black") as broken:
        done = benchmark(
            tmp_path,
            {
                # The first of them, in whose name the table is made.
                "gone": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9},
                "plain": {"benchmark_url": first.url},
                'od<d & "host"': {"benchmark_url": second.url, "benchmark_overrides": {"width": 64, "height": 64}},
                "broken": {"benchmark_url": broken.url},
            },
            {"benchmark_warmup": False},
        )
    # A host without a result is a failure, and the others are shown all the same.
    assert done.returncode != 0
    directory = tmp_path / "benchmark"
    assert sorted(path.name for path in directory.iterdir()) == [
        'asuka-od<d & "host".png',
        "asuka-plain.png",
        "asuka.json",
        "asuka.svg",
    ]
    content = json.loads((directory / "asuka.json").read_text())
    assert {machine["machine"]: machine["seconds"] for machine in content["guide"]} == GUIDE
    results = {result["host"]: result for result in content["results"]}
    assert (results["plain"]["comparable"], results["plain"]["note"]) == (True, "")
    other = results['od<d & "host"']
    assert other["comparable"] is False
    assert other["note"] == "not comparable: other settings, 64x64, 20 steps"
    assert other["checkpoint_hash"] == "6ce0161689"
    assert "one single colour" in results["broken"]["error"]
    assert (directory / "asuka-plain.png").stat().st_size == results["plain"]["image_size"]

    chart = texts(directory / "asuka.svg")
    assert all(name in chart for name in [*GUIDE, "plain", 'od<d & "host"'])
    assert chart.count(other["note"]) == 1
    # What does not compare is not ranked among what does.
    assert chart.index("plain") < chart.index("Quadro P600") < chart.index('od<d & "host"')
    assert "Quadro P600 (guide)    56.0     2.80" in done.stdout
    assert "* plain" in done.stdout and "broken has no result" in done.stdout
    assert "gone has no result: not reached" in done.stdout
    # One machine that compares is no fleet.
    assert content["together"]["hosts"] == 1 and "Together" not in done.stdout + " ".join(chart)
    # No picture stays on the host.
    assert not list((tmp_path / "tmp").rglob("*.png"))
    assert not list((tmp_path / "tmp").glob("sd-benchmark-*"))


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    with serve() as server:
        hosts = {"plain": {"benchmark_url": server.url}}
        extra = {"benchmark_preset": "smoke", "benchmark_output_dir": str(tmp_path / "out")}
        checked = benchmark(tmp_path, hosts, extra, "--check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert not (tmp_path / "out").exists()
        assert not [request for request in server.requests if request["method"] == "POST"]


def boxes(chart: Path) -> list[dict[str, float]]:
    """Where the bars are."""
    root = ElementTree.parse(chart).getroot()
    found = [node.attrib for node in root.iter("{http://www.w3.org/2000/svg}rect") if node.get("rx")]
    return [{name: float(box[name]) for name in ("x", "y", "width", "height")} for box in found]


def test_one_table_one_chart_and_a_figure_for_each_of_three(tmp_path: Path) -> None:
    with serve() as first, serve(seconds_per_step=0.02) as second, serve(seconds_per_step=0.05) as third:
        hosts: dict[str, dict[str, Any]] = {}
        for name, server in (("closet1", first), ("closet2", second), ("closet3", third)):
            engine = {
                "schema": 1,
                "engine": "stable_diffusion_cpp",
                "version": "0.4.7",
                "release": "r1",
                "profiles": ["cpu"],
                "address": "127.0.0.1",
                "port": server.server_address[1],
                "txt2img_path": "/sdapi/v1/txt2img",
            }
            (tmp_path / f"{name}.json").write_text(json.dumps(engine))
            hosts[name] = {
                "benchmark_engine_file": str(tmp_path / f"{name}.json"),
                "benchmark_record": str(tmp_path / name / "benchmark.json"),
            }
        done = benchmark(tmp_path, hosts, {"benchmark_warmup": False})
        assert done.returncode == 0, done.stdout + done.stderr
        chart = tmp_path / "benchmark/asuka.svg"
        words, bars = texts(chart), boxes(chart)
        table = json.loads(chart.with_suffix(".json").read_text())["results"]
        measured = {each["host"]: each["seconds"] for each in table}
        height = float(ElementTree.parse(chart).getroot().attrib["height"])
        # Neither another preset nor other settings nor what answers elsewhere are what servers are weighed by.
        before = {name: (tmp_path / name / "benchmark.json").read_text() for name in hosts}
        hosts["closet1"]["benchmark_preset"] = "smoke"
        hosts["closet2"]["benchmark_overrides"] = {"width": 64, "height": 64}
        hosts["closet3"]["benchmark_url"] = first.url
        again = benchmark(tmp_path, hosts, {"benchmark_output_dir": str(tmp_path / "out")})
        assert again.returncode == 0, again.stdout + again.stderr
    assert before == {name: (tmp_path / name / "benchmark.json").read_text() for name in hosts}
    results = {each["host"]: each for each in json.loads((tmp_path / "out/smoke.json").read_text())["results"]}
    assert results["closet1"]["note"] == "not comparable: preset smoke, 64x64, 1 step"
    assert results["closet1"]["note"] in texts(tmp_path / "out/smoke.svg")

    figure = json.loads(before["closet3"])
    assert sorted(figure) == ["device", "measured_at", "preset", "schema", "seconds_per_iteration"]
    assert (figure["schema"], figure["preset"], figure["device"]) == (1, "asuka", "cpu")
    assert 0.05 <= figure["seconds_per_iteration"] < 5
    assert (tmp_path / "closet3/benchmark.json").stat().st_mode & 0o777 == 0o644

    assert done.stdout.count("SECONDS  S/IT") == 1 and "Together these 3 make" in done.stdout
    # Fastest on top, as measured: which one that is, a busy machine decides.
    assert set(measured) == set(hosts)
    assert [word for word in words if word in hosts] == sorted(hosts, key=lambda name: measured[name])
    assert any(word.startswith("Together our 3 machines make ") for word in words)
    # No bar lies on another one, nor outside.
    assert len(bars) == len(GUIDE) + 3
    assert all(one["y"] + one["height"] < two["y"] for one, two in itertools.pairwise(bars))
    assert bars[0]["y"] > 72 and bars[-1]["y"] + bars[-1]["height"] < height - 40
