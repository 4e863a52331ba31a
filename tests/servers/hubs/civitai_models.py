# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Civitai knows about models, and how it says so in its API."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlencode

from hubs.content import StoredFile

FP16 = {"format": "SafeTensor", "size": "pruned", "fp": "fp16"}
# What counts for how much when a version's main file is looked for.
WEIGHTS = {"format": 100.0, "size": 10.0, "fp": 1.0}
MAIN_TYPES = ("Model", "Pruned Model")
FILE_TYPES = (*MAIN_TYPES, "Text Encoder", "Negative", "Training Data", "VAE", "Config", "Archive", "UNet", "Other")
FORMATS = ("SafeTensor", "PickleTensor", "GGUF", "Diffusers", "Core ML", "ONNX", "Other")
SIZES = ("full", "pruned")
AIR_TYPES = {
    "Checkpoint": "checkpoint",
    "TextualInversion": "embedding",
    "Hypernetwork": "hypernet",
    "LORA": "lora",
    "LoCon": "lycoris",
    "VAE": "vae",
    "Controlnet": "controlnet",
    "Upscaler": "upscaler",
}
ECOSYSTEMS = {"SD 1.5": "sd1", "SD 1.5 LCM": "sd1", "SD 2.1": "sd2", "SDXL 1.0": "sdxl", "Pony": "sdxl"}


@dataclass
class ModelFile:
    """One file of a version. Two of them may well have the same name."""

    id: int
    stored: StoredFile
    name: str = ""
    type: str = "Model"
    metadata: Mapping[str, str] = field(default_factory=lambda: dict(FP16))
    pickle_scan: str = "Success"
    virus_scan: str = "Success"
    # What the hub says; it has been wrong.
    sha256: str = ""
    public: bool = True

    @property
    def file_name(self) -> str:
        return self.name or self.stored.name.rpartition("/")[2]

    @property
    def hashes(self) -> dict[str, str]:
        """By their kinds. All but SHA256 and AutoV2, which is the same cut short, are made up from it."""
        sha256 = (self.sha256 or self.stored.sha256).upper()
        other = hashlib.sha256(sha256.encode()).hexdigest().upper()
        return {
            "AutoV1": other[:8],
            "AutoV2": sha256[:10],
            "AutoV3": other[8:20],
            "SHA256": sha256,
            "CRC32": other[20:28],
            "BLAKE3": hashlib.blake2s(sha256.encode()).hexdigest().upper(),
        }

    def score(self, wanted: Mapping[str, str]) -> float:
        """How well it goes with what is wanted."""
        score = 1000.0 if self.type in MAIN_TYPES else 0.0
        for key, weight in WEIGHTS.items():
            if key in self.metadata:
                score += weight if self.metadata[key] == wanted[key] else -weight
        return score


@dataclass
class ModelVersion:
    """One release of a model."""

    id: int
    files: Sequence[ModelFile]
    name: str = "v1.0"
    base_model: str = "SD 1.5"
    trained_words: Sequence[str] = ()
    # Who may have it.
    require_login: bool = False
    downloads_disabled: bool = False
    early_access_until: datetime | None = None
    private: bool = False
    published: bool = True
    # Preview pictures, which come from another host.
    images: Sequence[StoredFile] = ()
    description: str | None = None

    @property
    def early_access(self) -> bool:
        return self.early_access_until is not None and self.early_access_until > datetime.now(timezone.utc)

    def best(self, wanted: Mapping[str, str] | None = None, type: str | None = None) -> ModelFile | None:
        """The file that goes best with what is wanted, else the main one."""
        files = [file for file in self.files if file.public and type in (None, file.type)]
        return max(files, key=lambda file: file.score({**FP16, **(wanted or {})}), default=None)


@dataclass
class Model:
    """A model with its versions, the newest first."""

    id: int
    versions: Sequence[ModelVersion]
    name: str = "A model"
    type: str = "Checkpoint"
    # Archived: no files any more; TakenDown: no pictures.
    mode: str | None = None
    nsfw: bool = False


def timestamp(moment: datetime) -> str:
    """As JavaScript writes it."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def air(model: Model, version: ModelVersion) -> str:
    ecosystem = ECOSYSTEMS.get(version.base_model, version.base_model.lower())
    return f"urn:air:{ecosystem}:{AIR_TYPES.get(model.type, 'unknown')}:civitai:{model.id}@{version.id}"


def _download_url(base: str, version: ModelVersion, file: ModelFile | None) -> str:
    """Without parameters it leads to the main file."""
    url = f"{base}/api/download/models/{version.id}"
    if file is None:
        return url
    query = {"type": file.type, **{key: file.metadata[key] for key in WEIGHTS if key in file.metadata}}
    return f"{url}?{urlencode(query)}"


def _file(base: str, version: ModelVersion, file: ModelFile, main: ModelFile | None) -> dict[str, Any]:
    return {
        "id": file.id,
        "sizeKB": file.stored.size / 1024,
        "name": file.file_name,
        "type": file.type,
        "pickleScanResult": file.pickle_scan,
        "pickleScanMessage": "No Pickle imports" if file.pickle_scan == "Success" else None,
        "virusScanResult": file.virus_scan,
        "virusScanMessage": None,
        "scannedAt": "2024-01-01T00:00:00.000Z" if file.pickle_scan != "Pending" else None,
        "metadata": dict(file.metadata),
        "hashes": file.hashes,
        "primary": file is main,
        "downloadUrl": _download_url(base, version, None if file is main else file),
    }


def _version(base: str, model: Model, version: ModelVersion) -> dict[str, Any]:
    """What both endpoints say of a version."""
    main = version.best()
    archived = model.mode == "Archived"
    images = [] if model.mode == "TakenDown" else version.images
    said: dict[str, Any] = {
        "id": version.id,
        "name": version.name,
        "description": version.description,
        "baseModel": version.base_model,
        "baseModelType": "Standard",
        "nsfwLevel": 1,
        "status": "Published",
        "availability": "EarlyAccess" if version.early_access else "Public",
        "createdAt": "2024-01-01T00:00:00.000Z",
        "publishedAt": "2024-01-01T00:00:00.000Z",
        "paidAccess": {"permanent": False, "endsAt": timestamp(version.early_access_until)}
        if version.early_access and version.early_access_until
        else None,
        "usageControl": "InternalGeneration" if version.downloads_disabled else "Download",
        "trainedWords": list(version.trained_words),
        "stats": {"downloadCount": 12, "thumbsUpCount": 3},
        "files": [] if archived else [_file(base, version, file, main) for file in version.files if file.public],
        "images": [
            {"url": image.url, "nsfwLevel": 1, "width": 1, "height": 1, "type": "image", "hasMeta": False}
            for image in images
        ],
    }
    if not archived:
        said["downloadUrl"] = _download_url(base, version, None)
    return said


def _without(said: dict[str, Any], *empty: Any) -> dict[str, Any]:
    return {key: value for key, value in said.items() if value not in empty}


def version_answer(base: str, model: Model, version: ModelVersion) -> dict[str, Any]:
    """/api/v1/model-versions/ID."""
    of_model = {"name": model.name, "type": model.type, "nsfw": model.nsfw, "poi": False}
    if model.mode:
        of_model["mode"] = model.mode
    said = {**_version(base, model, version), "modelId": model.id, "air": air(model, version)}
    return {**said, "model": of_model}


def model_answer(base: str, model: Model) -> dict[str, Any]:
    """/api/v1/models/ID, where a version has no empty fields and only the main file says that it is the main one."""
    versions = []
    for version in model.versions:
        if not version.published:
            continue
        said = _version(base, model, version)
        said["files"] = [_without(file, None, False) for file in said["files"]]
        versions.append(_without(said, None, []))
    said = {"id": model.id, "name": model.name, "description": None, "type": model.type, "nsfw": model.nsfw}
    if model.mode:
        said["mode"] = model.mode
    return {**said, "tags": [], "creator": {"username": "somebody", "image": None}, "modelVersions": versions}


def mini_answer(base: str, model: Model, version: ModelVersion, file: ModelFile) -> dict[str, Any]:
    """/api/v1/model-versions/mini/ID."""
    gated = version.early_access or version.private
    said = {
        "air": air(model, version),
        "versionName": version.name,
        "modelName": model.name,
        "baseModel": version.base_model,
        "availability": "Private" if version.private else "Public",
        "publishedAt": "2024-01-01T00:00:00.000Z",
        "size": file.stored.size / 1024,
        "fileType": file.type,
        "fileName": file.file_name,
        "hashes": file.hashes,
        "downloadUrls": [_download_url(base, version, None)],
        "format": file.metadata.get("format"),
        "requireAuth": version.require_login,
        "checkPermission": gated,
    }
    if gated and version.early_access_until:
        said["earlyAccessEndsAt"] = timestamp(version.early_access_until)
    return said
