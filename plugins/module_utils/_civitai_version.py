# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Versions of Civitai's models, their files, and which one is meant. Private to this collection."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.secondhand.diffusion.plugins.module_utils._civitai_request import (
    SAFETENSORS,
    Request,
    clean,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError

# The types of the files that are a model; all others (VAE, Config, Training Data) come along with one.
WEIGHTS = ("Model", "Pruned Model", "Diffusion Model", "UNet")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class File:
    id: int | None
    name: str
    type: str
    format: str | None = None
    fp: str | None = None
    # "full" or "pruned".
    size: str | None = None
    # By Civitai's own measure, in KiB and sometimes rounded.
    size_kb: float | None = None
    primary: bool = False
    # Name of the hash to upper-case hexadecimal digits.
    hashes: Mapping[str, str] = field(default_factory=dict)
    # What the virus scanner and the pickle scanner said.
    scans: tuple[str | None, str | None] = (None, None)

    @property
    def sha256(self) -> str | None:
        value = self.hashes.get("SHA256", "")
        return value.lower() if _SHA256.fullmatch(value) else None

    def __str__(self) -> str:
        details = [text for text in (self.type, self.format, self.size, self.fp) if text]
        if self.size_kb:
            details.append(f"{self.size_kb / 1024:.0f} MiB")
        return f"{clean(self.name)} ({'' if self.id is None else f'file_id {self.id}, '}{', '.join(details)})"


@dataclass(frozen=True)
class Version:
    id: int
    model_id: int | None
    name: str
    model_name: str
    base_model: str | None
    trained_words: tuple[str, ...]
    air: str | None
    files: tuple[File, ...]
    archived: bool
    # "Download", unless the creator lets people use it on the site alone.
    usage: str
    # Until when only those who pay may have it, as far as the answer tells.
    early_access_until: str | None
    # Whether it has to be bought, for a while or for good.
    for_sale: bool
    # The whole answer, for the sidecar.
    answer: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{clean(f'{self.model_name} {self.name}'.strip())} (version {self.id})"

    def file_name(self, file: File) -> str:
        """What to call the file; a version may have several of one name."""
        same = [other for other in self.files if other.name.casefold() == file.name.casefold()]
        if file.primary or len(same) < 2 or file.id is None:
            return file.name
        stem, dot, suffix = file.name.rpartition(".")
        return f"{stem}.{file.id}.{suffix}" if dot else f"{suffix}.{file.id}"


def version_of(answer: Any) -> Version | None:
    """From an answer of /api/v1/model-versions; None when it is something else."""
    if not isinstance(answer, dict) or not isinstance(answer.get("id"), int):
        return None
    model, paid = table(answer.get("model")), table(answer.get("paidAccess"))
    words, files = answer.get("trainedWords"), answer.get("files")
    return Version(
        id=answer["id"],
        model_id=answer["modelId"] if isinstance(answer.get("modelId"), int) else None,
        name=text(answer.get("name")) or "",
        model_name=text(model.get("name")) or "",
        base_model=text(answer.get("baseModel")),
        trained_words=tuple(word for word in words if isinstance(word, str)) if isinstance(words, list) else (),
        air=text(answer.get("air")),
        files=tuple(_file(entry) for entry in files if isinstance(entry, dict)) if isinstance(files, list) else (),
        archived=model.get("mode") == "Archived",
        usage=text(answer.get("usageControl")) or "Download",
        early_access_until=text(answer.get("earlyAccessEndsAt")) or text(paid.get("endsAt")),
        for_sale=bool(paid),
        answer=answer,
    )


def _file(entry: Mapping[str, Any]) -> File:
    metadata, hashes, size = table(entry.get("metadata")), table(entry.get("hashes")), entry.get("sizeKB")
    return File(
        id=entry["id"] if isinstance(entry.get("id"), int) else None,
        name=text(entry.get("name")) or "",
        type=text(entry.get("type")) or "Model",
        format=text(metadata.get("format")),
        fp=text(metadata.get("fp")),
        size=text(metadata.get("size")),
        # Infinity and numbers beyond all disks are JSON to Python.
        size_kb=float(size) if isinstance(size, (int, float)) and 0 <= size < 2**50 else None,
        primary=entry.get("primary") is True,
        hashes={name: value.upper() for name, value in hashes.items() if isinstance(value, str)},
        scans=(text(entry.get("virusScanResult")), text(entry.get("pickleScanResult"))),
    )


def table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def choose_version(answer: Any, model_id: int, name: str | None) -> int:
    """The number of the model's version with that name, or of its default one, which the API lists first."""
    versions = answer.get("modelVersions") if isinstance(answer, dict) else None
    known = [
        version
        for version in (versions if isinstance(versions, list) else [])
        if isinstance(version, dict) and isinstance(version.get("id"), int)
    ]
    if not known:
        raise DownloadError(
            f"The model {model_id} has no published version that can be downloaded: choose another model."
        )
    if name is None:
        return int(known[0]["id"])
    same = [version for version in known if str(version.get("name", "")).strip().casefold() == name.strip().casefold()]
    if len(same) == 1:
        return int(same[0]["id"])
    problem = "several versions" if same else "no version"
    there_is = ", ".join(
        f"'{clean(str(version.get('name', '')))}' (version_id {version['id']})" for version in known[:20]
    )
    raise DownloadError(
        f"The model {model_id} has {problem} with the name '{clean(name)}': choose with version_id among {there_is}."
    )


def choose_file(version: Version, asked: Request) -> File:
    """The file that the request means; never a guess among several."""
    if not version.files:
        if version.archived:
            raise DownloadError(archived_sentence(version))
        raise DownloadError(
            f"{version} shows no files: choose another version, or set token if it is meant for some only."
        )
    fitting = [file for file in version.files if _is_meant(file, asked)]
    there_is = "; ".join(str(file) for file in version.files[:20])
    if not fitting:
        raise DownloadError(f"{version} has no file with {asked}: there is {there_is}.")
    if len(fitting) == 1:
        return fitting[0]
    primary = next((file for file in fitting if file.primary), None)
    if primary is not None and (primary.format == SAFETENSORS or primary.type not in WEIGHTS):
        return primary
    # A pickle runs code when it is loaded, so the same weights as safetensors are what everybody wants.
    peers = [file for file in fitting if file.type in WEIGHTS] or fitting
    safe = [file for file in peers if file.format == SAFETENSORS]
    for only in (safe, peers):
        if len(only) == 1:
            return only[0]
    if primary is not None and not safe:
        return primary
    chosen_by = f"with {asked} " if str(asked) else ""
    raise DownloadError(f"{version} has several files {chosen_by}to choose from: add file_id, there is {there_is}.")


def _is_meant(file: File, asked: Request) -> bool:
    pairs = (
        (asked.file_type, file.type),
        (asked.file_format, file.format),
        (asked.fp, file.fp),
        (asked.file_size, file.size),
    )
    return (
        all(wish is None or wish.casefold() == (has or "").casefold() for wish, has in pairs)
        and asked.file_id in (None, file.id)
        and (asked.hash is None or asked.hash in file.hashes.values())
    )


def archived_sentence(version: Version) -> str:
    return (
        f"{version} is archived on Civitai, which no longer gives its files to anybody: choose another version, or "
        "take the file from somewhere else with url_download."
    )


def check_scans(version: Version, file: File, pending: str) -> None:
    """Raises DownloadError for a file that Civitai's scanners warn of, or have not looked at."""
    if "Danger" in file.scans:
        raise DownloadError(
            f"Civitai's scanners found something dangerous in {file} of {version}: take another file or another model, "
            "no option allows this one."
        )
    virus, pickle = file.scans
    open_ = [name for name, result in (("virus", virus), ("pickle", pickle)) if result != "Success"]
    if open_ and pending != "allow":
        state = "could not scan" if "Error" in file.scans else "has not yet scanned"
        raise DownloadError(
            f"Civitai {state} {file} of {version} ({' and '.join(open_)} scan): try again later, or set scan_pending "
            "to allow if you trust its creator."
        )


def expected_sha256(version: Version, file: File, override: str | None) -> str:
    """The user's word goes before the hub's, which has wrong ones as well."""
    if override:
        return override.lower()
    if file.sha256 is None:
        raise DownloadError(
            f"Civitai tells no SHA-256 for {file} of {version}, without which nobody can check the download: try again "
            "later, or give sha256."
        )
    return file.sha256
