# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the virtual environment of a release with uv, from lock files.

Leaves out/venv, out/huggingface and, where asked, out/python. Needs out/clip (build_repositories.py) and takes it away.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import typing
import zipfile
from pathlib import Path

# With -E -s the script's own folder is no longer looked in.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

import recipe as role

HERE = Path(__file__).resolve().parent
PYTHON = role.OUT / "venv/bin/python"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def unpack_uv(wheel: Path) -> Path:
    """The program uv out of its wheel."""
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        program = role.CACHE / "uv-program"
        program.write_bytes(archive.read(member))
    program.chmod(0o755)
    return program


def sentence(recipe: dict[str, typing.Any], said: str) -> str:
    """Why packages could not be installed, and what to set."""
    mismatch = re.search(r"Hash mismatch for `([^`]+)`", said)
    if mismatch:
        return (
            f"{mismatch[1]} is not the file that the lock names (its SHA-256 differs), so nothing was installed; try "
            "again, or set sd_webui_pypi_index to an index that you trust, or, for PyTorch's own wheels, "
            "sd_webui_torch_sha256"
        )
    if "No space left on device" in said or "os error 28" in said:
        room = recipe["minimum_free_mib"]
        return f"the disk of /var/cache filled up while packages were installed; make {room} MiB of room and run again"
    if re.search(
        r"error sending request|Failed to fetch|dns error|[Cc]onnection refused|tcp connect error|timed out", said
    ):
        where = re.search(r"https?://[^\s`)]+", said)
        return (
            f"packages could not be fetched from {role.without_password(where[0]) if where else 'the index'}; check "
            "this host's network, or set sd_webui_proxy, sd_webui_pypi_index or sd_webui_torch_index"
        )
    # uv draws its sentences with lines and arrows.
    lines = [re.sub(r"^[^\w(\[]+", "", line) for line in said.splitlines()]
    last = ([line for line in lines if line] or ["no reason given"])[-1][:300]
    return (
        f"the packages could not be installed ({last}); see journalctl -u 'sd-webui-build-*' on the host and run again"
    )


class Environment:
    """uv, with this recipe's addresses."""

    def __init__(self, recipe: dict[str, typing.Any]) -> None:
        self.recipe = recipe
        self.program = unpack_uv(Path(recipe["uv"]))
        self.variables = {
            "HOME": str(role.CACHE),
            "UV_CACHE_DIR": str(role.CACHE / "uv-cache"),
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "manual",
            "UV_PYTHON_INSTALL_DIR": str(role.CACHE / "python"),
            # This host's authorities: a company's proxy may be one of them.
            "SSL_CERT_FILE": CERTIFICATES,
        }
        optional = {
            "UV_DEFAULT_INDEX": recipe["pypi_index"],
            "UV_PYTHON_INSTALL_MIRROR": recipe["python_mirror"],
            "UV_PYTHON_DOWNLOADS_JSON_URL": recipe["python_downloads"],
        }
        self.variables.update({name: value for name, value in optional.items() if value})

    def uv(self, *arguments: str, index: str = "") -> str:
        """Run uv, with another index where one is given; raises Problem."""
        variables = {**self.variables, "UV_DEFAULT_INDEX": index} if index else self.variables
        try:
            return role.run([str(self.program), *arguments], variables, role.CACHE)
        except subprocess.CalledProcessError as error:
            raise role.Problem(sentence(self.recipe, error.output)) from error

    def install(self, *arguments: str, index: str = "") -> None:
        """Install packages into the virtual environment; whatever is built is built with what the lock has brought."""
        self.uv("pip", "install", "--python", str(PYTHON), "--no-build-isolation", *arguments, index=index)

    def python(self) -> str:
        """The interpreter: Debian's, or one that uv fetches."""
        wanted = self.recipe["python"]
        if not self.recipe["python_is_managed"]:
            return "/usr/bin/python3"
        self.uv("python", "install", wanted)
        found = sorted((role.CACHE / "python").glob("cpython-*/bin/python3"))
        if not found:
            raise role.Problem(f"uv found no Python {wanted}; set sd_webui_python_mirror or sd_webui_python_downloads")
        # The release brings it along: pack.yml and a rollback need no other folder.
        shutil.move(str(found[0].parent.parent.resolve()), str(role.OUT / "python"))
        return str(role.OUT / "python/bin/python3")


def requirements(name: str, lines: list[str]) -> str:
    """A file with these requirements."""
    path = role.CACHE / f"{name}.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def install_torch(environment: Environment, recipe: dict[str, typing.Any]) -> None:
    """PyTorch from its own index, by hash where one is known. Its dependencies stand in the lock."""
    packages = recipe["torch_packages"]
    if not packages:
        return
    hashes = recipe["torch_sha256"]
    lines = []
    for package in packages:
        known = [sha for file, sha in sorted(hashes.items()) if file.startswith(package.replace("==", "-") + "-")]
        lines.append(package + "".join(f" --hash=sha256:{sha}" for sha in known))
    unknown = [line for line in lines if "--hash" not in line]
    hashed = not unknown
    if unknown:
        # uv checks the ones that are there all the same.
        print(f"No SHA-256 is known for {' and '.join(unknown)}: the index is believed.", flush=True)
    options = ["--no-deps", *(["--require-hashes"] if hashed else [])]
    environment.install(*options, "-r", requirements("torch", lines), index=recipe["torch_index"])


def install_for_extensions(environment: Environment, recipe: dict[str, typing.Any]) -> None:
    """What the extensions want, without moving what the web UI is pinned to."""
    wanted = recipe["extension_requirements"]
    if not wanted:
        return
    frozen = environment.uv("pip", "freeze", "--python", str(PYTHON))
    # A package that was built from a folder has an address instead of a version.
    pins = [line for line in frozen.splitlines() if "==" in line]
    environment.install("--constraint", requirements("pins", pins), "-r", requirements("extensions", wanted))


def load(packages: list[str]) -> None:
    """Load the big packages once: proof that they run on this processor, and it leaves their compiled code.

    The release is read-only for the service: what is not compiled now is compiled at every start. All 14,000 files
    would take twice as long, and a start loads 5,000.
    """
    program = (
        "import importlib, importlib.util, sys\n"
        "for name in sys.argv[1:]:\n"
        "    if importlib.util.find_spec(name.partition('.')[0]): importlib.import_module(name)\n"
    )
    try:
        role.run([str(PYTHON), "-c", program, *packages], {"HOME": str(role.CACHE)})
    except subprocess.CalledProcessError as error:
        last = (error.output.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise role.Problem(
            f"the packages are installed and do not load on this PC ({last}); with exit status -4 its processor lacks "
            "instructions that they need, else see journalctl -u 'sd-webui-build-*' on the host"
        ) from error


def build(recipe: dict[str, typing.Any]) -> None:
    """Make the environment."""
    environment = Environment(recipe)
    role.OUT.mkdir(exist_ok=True)
    environment.uv("venv", "--quiet", "--relocatable", "--python", environment.python(), str(role.OUT / "venv"))
    if recipe["python_is_managed"]:
        # The release moves to another folder, and both go along.
        PYTHON.unlink()
        PYTHON.symlink_to("../../python/bin/python3")
    # First what builds: packages that exist as sources only take it from here and not, unpinned, from the index.
    environment.install("--require-hashes", "--no-deps", "-r", recipe["bootstrap"])
    locks = [argument for lock in recipe["locks"] for argument in ("-r", lock)]
    environment.install("--require-hashes", "--no-deps", *locks)
    install_torch(environment, recipe)
    clip = role.OUT / "clip"
    if clip.is_dir():
        environment.install("--no-deps", str(clip))
        shutil.rmtree(clip)
    install_for_extensions(environment, recipe)
    if recipe["tokenizer"]:
        role.run([str(PYTHON), "-B", str(HERE / "make_tokenizer.py"), str(role.OUT / "huggingface")])
    load(recipe["loaded"])
    role.compile_code(PYTHON)
    shutil.rmtree(role.CACHE / "uv-cache", ignore_errors=True)


if __name__ == "__main__":
    sys.exit(role.main(build))
