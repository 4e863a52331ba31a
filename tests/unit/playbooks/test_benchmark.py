"""playbooks/benchmark.yml as a person runs it, against web UIs that stand in for three machines."""

from __future__ import annotations

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
        timeout=120,
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
                "plain": {"benchmark_url": first.url},
                'od<d & "host"': {"benchmark_url": second.url, "benchmark_overrides": {"width": 64, "height": 64}},
                "broken": {"benchmark_url": broken.url},
            },
            {"benchmark_warmup": False},
        )
    # A host without a result is a failure, and the others are shown all the same.
    assert done.returncode == 2
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
    # The host keeps nothing.
    assert not list((tmp_path / "tmp").rglob("*.png"))
    assert not list((tmp_path / "tmp").glob("sd-benchmark-*"))


def test_another_preset_is_marked_and_check_mode_writes_nothing(tmp_path: Path) -> None:
    with serve() as server:
        hosts = {"plain": {"benchmark_url": server.url}}
        extra = {"benchmark_preset": "smoke", "benchmark_output_dir": str(tmp_path / "out")}
        checked = benchmark(tmp_path, hosts, extra, "--check")
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert not (tmp_path / "out").exists()
        assert not [request for request in server.requests if request["method"] == "POST"]
        done = benchmark(tmp_path, hosts, extra)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads((tmp_path / "out" / "smoke.json").read_text())["results"]
    assert result["note"] == "not comparable: preset smoke, 64x64, 1 step"
    assert result["note"] in texts(tmp_path / "out" / "smoke.svg")
