# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks and option lists of the web UI engines, the script that makes them, and the one that makes a tokenizer."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles/sd_webui"
ENGINES = ROLE / "files/engines"
MAKE_TOKENIZER = ENGINES / "webui/make_tokenizer.py"
LOCKS = sorted(ENGINES.glob("*/locks/*.txt"))
# Which interpreters each engine runs with, and what upstream pins that another release would break.
PYTHONS = {"automatic1111": ["3.9", "3.11"], "forge": ["3.11"]}
PINS = {
    "automatic1111": {
        "fastapi": "0.94.0",
        "gradio": "3.41.2",
        "numpy": "1.26.2",
        "protobuf": "3.20.0",
        "pytorch-lightning": "1.9.4",
        "setuptools": "69.5.1",
        "torch": "2.1.2",
        "torchvision": "0.16.2",
        "transformers": "4.30.2",
        "xformers": "0.0.23.post1",
    },
    "forge": {
        "bitsandbytes": "0.45.3",
        "diffusers": "0.31.0",
        "fastapi": "0.104.1",
        "gradio": "4.40.0",
        "numpy": "1.26.2",
        "pydantic": "2.8.2",
        "setuptools": "69.5.1",
        "torch": "2.3.1",
        "torchvision": "0.18.1",
        "transformers": "4.46.1",
        "xformers": "0.0.27",
    },
}
ENGINE_PYTHONS = [(engine, python) for engine, pythons in PYTHONS.items() for python in pythons]


def label(path: Path) -> str:
    return f"{path.parents[1].name}-{path.stem}"


def entries(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Name -> version and hashes; whatever else a line may be is refused."""
    found: dict[str, tuple[str, list[str]]] = {}
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", "").splitlines():
        match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)((?: +--hash=sha256:[0-9a-f]{64})+)", line)
        assert match, f"{path.name}: {line[:80]}"
        assert match[1] not in found, match[1]
        found[match[1]] = (match[2], re.findall(r"sha256:([0-9a-f]{64})", match[3]))
    return found


def group(engine: str, python: str, name: str) -> dict[str, tuple[str, list[str]]]:
    return entries(ENGINES / engine / f"locks/python{python}-{name}.txt")


def is_torch(name: str) -> bool:
    return name in {"torch", "torchvision", "triton"} or name.startswith("nvidia-")


def script(path: Path, name: str) -> ModuleType:
    """A script without an ending, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def test_every_engine_has_the_locks_of_its_pythons_and_no_others() -> None:
    for engine, pythons in PYTHONS.items():
        groups = ["base", "bootstrap", "torch", "xformers", *(["bitsandbytes"] if engine == "forge" else [])]
        wanted = {f"python{python}-{name}.txt" for python in pythons for name in groups}
        assert {path.name for path in (ENGINES / engine / "locks").iterdir()} == wanted


@pytest.mark.parametrize("path", LOCKS, ids=label)
def test_locks_name_versions_and_hashes_and_no_place_to_fetch_them_from(path: Path) -> None:
    packages = entries(path)
    assert packages
    # The same file under two names would be a mistake of the resolver's or of ours.
    hashes = [value for _, values in packages.values() for value in values]
    assert len(hashes) == len(set(hashes))
    assert "//" not in path.read_text(encoding="utf-8")
    assert list(packages) == sorted(packages)


@pytest.mark.parametrize(("engine", "python"), ENGINE_PYTHONS)
def test_the_pins_of_upstream_are_kept(engine: str, python: str) -> None:
    packages = {**group(engine, python, "base"), **group(engine, python, "torch"), **group(engine, python, "xformers")}
    if engine == "forge":
        packages.update(group(engine, python, "bitsandbytes"))
    assert {name: packages[name][0] for name in PINS[engine]} == PINS[engine]


@pytest.mark.parametrize(("engine", "python"), ENGINE_PYTHONS)
def test_base_suits_a_pytorch_from_elsewhere(engine: str, python: str) -> None:
    base, torch = group(engine, python, "base"), group(engine, python, "torch")
    assert [name for name in base if is_torch(name) or name in {"xformers", "bitsandbytes"}] == []
    assert [name for name in torch if not is_torch(name)] == []
    # What any build of PyTorch imports, and what CLIP, which comes without its dependencies, does.
    assert {"filelock", "fsspec", "jinja2", "networkx", "sympy", "typing-extensions"} <= set(base)
    assert {"ftfy", "packaging", "regex", "tqdm"} <= set(base)


@pytest.mark.parametrize(("engine", "python"), ENGINE_PYTHONS)
def test_what_builds_sources_is_installed_first_and_stays(engine: str, python: str) -> None:
    bootstrap, base = group(engine, python, "bootstrap"), group(engine, python, "base")
    assert set(bootstrap) == {"setuptools", "wheel"}
    assert {name: base[name] for name in bootstrap} == bootstrap


def test_options_are_sorted_long_options() -> None:
    for engine in PYTHONS:
        options = known_options(engine)
        assert options == sorted(set(options))
        assert [option for option in options if not re.fullmatch(r"--[a-z0-9][a-z0-9-]+", option)] == []
        assert {"--data-dir", "--gradio-auth-path", "--port", "--server-name"} <= set(options)


def known_options(engine: str) -> list[str]:
    lines = (ENGINES / engine / "flags.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("engine", PYTHONS)
def test_the_role_passes_options_that_the_pinned_version_has(engine: str) -> None:
    settings: dict[str, Any] = {}
    for path in ("main.yml", "families/webui.yml", f"engines/{engine}.yml"):
        settings.update(yaml.safe_load((ROLE / "vars" / path).read_text(encoding="utf-8")))
    passed = [
        argument
        for key in ("command", "arguments", "command_when_login")
        for argument in settings[f"_sd_webui_engine_{key}"]
    ]
    for profile in settings["_sd_webui_engine_profiles"].values():
        passed += [*profile["arguments"], *profile.get("broken_fp16_arguments", [])]
    options = [argument for argument in passed if isinstance(argument, str) and argument.startswith("--")]
    assert options
    assert sorted(set(options) - set(known_options(engine))) == []


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return script(ROOT / "tests/generate_locks", "generate_locks")


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A repository with one commit of a web UI that has three options and a requirements file."""
    repository = tmp_path / "upstream"
    files = {
        "modules/cmd_args.py": "import missing\nparser.add_argument('-f')\nparser.add_argument('--port', type=int)\n",
        "extensions-builtin/Lora/preload.py": "def preload(parser):\n    parser.add_argument('--lora-dir')\n",
        # Deeper than what the web UI reads.
        "extensions-builtin/Lora/tools/preload.py": "parser.add_argument('--other')\n",
        "requirements_versions.txt": "# pins\n\ntorch\nsetuptools==69.5.1  # old\n",
    }
    for name, content in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(content, encoding="utf-8")
    author = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.com", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--message=One"]):
        subprocess.run(["git", "-C", str(repository), *arguments], check=True)
    return repository


def test_options_are_read_and_not_run(generate: ModuleType, upstream: Path) -> None:
    made = generate.flags("automatic1111", generate.Source(upstream, "HEAD"))
    assert [line for line in made.splitlines() if not line.startswith("#")] == ["--lora-dir", "--port"]


def test_an_option_with_a_computed_name_is_not_left_out_silently(generate: ModuleType) -> None:
    with pytest.raises(generate.LockError, match=r"line 2 .* by hand"):
        generate.long_options("name = '--x'\nparser.add_argument(name)\n")


def test_an_unknown_commit_is_one_sentence(generate: ModuleType, upstream: Path) -> None:
    with pytest.raises(generate.LockError, match="has no such commit"):
        generate.Source(upstream, "0" * 40)


def test_requirements_lose_their_comments(generate: ModuleType) -> None:
    text = "# pins\n\ntorch\nsetuptools==69.5.1  # old\nclip @ file:x#egg=clip\n"
    assert generate.requirements(text) == ["torch", "setuptools==69.5.1", "clip @ file:x#egg=clip"]


def package(name: str, host: str = "files.pythonhosted.org", **kinds: list[str]) -> dict[str, Any]:
    def file(digit: str) -> dict[str, Any]:
        return {"url": f"https://{host}/{name}", "hashes": {"sha256": digit * 64}}

    made: dict[str, Any] = {"name": name, "version": "1.0"}
    if "wheels" in kinds:
        made["wheels"] = [file(digit) for digit in kinds["wheels"]]
    if "sdist" in kinds:
        made["sdist"] = file(kinds["sdist"][0])
    return made


def test_wheels_come_before_sources(generate: ModuleType) -> None:
    both = generate.entry(package("one", wheels=["b", "a"], sdist=["c"]))
    assert both == f"one==1.0 \\\n    --hash=sha256:{'a' * 64} \\\n    --hash=sha256:{'b' * 64}"
    assert generate.entry(package("two", sdist=["c"])) == f"two==1.0 \\\n    --hash=sha256:{'c' * 64}"


def test_a_file_from_elsewhere_than_pypi_is_refused(generate: ModuleType) -> None:
    with pytest.raises(generate.LockError, match=r"mirror\.example/one, which is not PyPI"):
        generate.entry(package("one", host="mirror.example", wheels=["a"]))


# A table of two merges, with the attributes that CLIP's own tokenizer has.
TINY = """
class SimpleTokenizer:
    def __init__(self):
        words = ["a", "\\u0120", "a</w>", "\\u0120</w>", "aa", "aa</w>", "<|startoftext|>", "<|endoftext|>"]
        self.encoder = {word: number for number, word in enumerate(words)}
        self.bpe_ranks = {("aa", "</w>"): 1, ("a", "a"): 0}
"""


def run_make_tokenizer(packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The package imports PyTorch, which may not be needed.
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-B", str(MAKE_TOKENIZER), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "packages"
    (folder / "clip").mkdir(parents=True)
    (folder / "clip/__init__.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    (folder / "clip/simple_tokenizer.py").write_text(TINY, encoding="utf-8")
    return folder


def test_the_tokenizer_is_made_from_the_installed_table(tmp_path: Path, packages: Path) -> None:
    done = run_make_tokenizer(packages, str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    repository = tmp_path / "home/hub/models--openai--clip-vit-large-patch14"
    revision = (repository / "refs/main").read_text(encoding="ascii")
    assert re.fullmatch("[0-9a-f]{40}", revision)
    assert [path.name for path in (repository / "snapshots").iterdir()] == [revision]
    files = {path.name: path.read_text(encoding="utf-8") for path in (repository / "snapshots" / revision).iterdir()}
    assert files.pop("merges.txt") == "#version: 0.2\na a\naa </w>\n"
    documents = {name: json.loads(content) for name, content in files.items()}
    assert list(documents["vocab.json"]) == [
        "a", "Ġ", "a</w>", "Ġ</w>", "aa", "aa</w>", "<|startoftext|>", "<|endoftext|>"
    ]  # fmt: skip
    assert documents["special_tokens_map.json"]["pad_token"] == "<|endoftext|>"
    assert documents["tokenizer_config.json"]["model_max_length"] == 77
    text = documents["config.json"]["text_config"]
    assert (text["hidden_size"], text["vocab_size"], text["eos_token_id"]) == (768, 8, 2)
    # transformers would otherwise want to write to a cache that only root may write to.
    assert (tmp_path / "home/hub/version.txt").read_text(encoding="ascii") == "1"
    assert not list(packages.rglob("__pycache__"))


def test_making_it_again_changes_nothing(tmp_path: Path, packages: Path) -> None:
    def listing() -> dict[str, bytes]:
        home = tmp_path / "home"
        return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}

    assert run_make_tokenizer(packages, str(tmp_path / "home")).returncode == 0
    first = listing()
    assert run_make_tokenizer(packages, str(tmp_path / "home")).returncode == 0
    assert listing() == first


def test_without_clip_there_is_no_tokenizer(tmp_path: Path, packages: Path) -> None:
    (packages / "clip/simple_tokenizer.py").unlink()
    done = run_make_tokenizer(packages, str(tmp_path / "home"))
    assert (done.returncode, done.stderr) == (
        1,
        "make_tokenizer.py: the package clip has no simple_tokenizer.py: it is another package of that name.\n",
    )
    done = run_make_tokenizer(tmp_path, str(tmp_path / "home"))
    assert (done.returncode, done.stderr) == (
        1,
        "make_tokenizer.py: there is no package clip: install it before the tokenizer is made from it.\n",
    )
    assert not (tmp_path / "home").exists()


def test_make_tokenizer_says_how_it_is_called(packages: Path) -> None:
    done = run_make_tokenizer(packages)
    assert (done.returncode, done.stderr) == (2, "Usage: venv/bin/python -B make_tokenizer.py HF_HOME\n")
