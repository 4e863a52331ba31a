# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a list of models, as people write it, to the requests for the modules that fetch them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: model_requests
short_description: The requests that a list of models stands for
version_added: 0.1.0
author:
  - The secondhand.diffusion contributors (@secondhand-diffusion)
description:
  - Replaces presets by what they stand for, gives each model its place by its type, and finds what cannot work in the
    whole list before anything is fetched. It asks no hub.
positional: presets
options:
  _input:
    description:
      - The models, as C(model_fetch_models) of role P(secondhand.diffusion.model_fetch#role) has them, or the same as
        JSON.
    type: raw
    required: true
  presets:
    description:
      - The presets by name, each with its C(models).
    type: dict
    required: true
  chosen:
    description:
      - Names of presets that are wanted beside the list, as a list, or as text with commas between them.
    type: raw
    default: []
  more:
    description:
      - A second list, for what another role asks for.
    type: raw
    default: []
  folders:
    description:
      - The folder of each type, as absolute paths.
    type: dict
    required: true
  pickle:
    description:
      - What becomes of pickles that say nothing else, V(deny) or V(scan).
    type: str
    default: deny
  mirrors:
    description:
      - Mirrors for every model, after a model's own.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: What a list asks the hubs for
  ansible.builtin.debug:
    msg: >-
      {{ [{'source': 'civitai', 'type': 'checkpoint', 'version_id': 128713}]
         | secondhand.diffusion.model_requests({}, folders={'checkpoint': '/srv/sd/models/checkpoint'}) }}
"""

RETURN = r"""
_value:
  description:
    - What follows from the list.
  type: dict
  contains:
    requests:
      description:
        - One for each model, each once, with C(source), C(dest) (ends in a slash where the hub names the file),
          C(options) and C(mirrors) for the module, C(question) for M(secondhand.diffusion.model_files_info), C(label)
          for people, and C(key), which tells one request from another.
      type: list
      elements: dict
    problems:
      description:
        - Sentences about what cannot work.
      type: list
      elements: str
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

TYPES = (
    "checkpoint",
    "vae",
    "lora",
    "embedding",
    "hypernetwork",
    "controlnet",
    "annotator",
    "clip_vision",
    "face_restore",
    "upscaler",
)
# What a model of each source may say beside the rest; the names are those of the modules' options.
OPTIONS = {
    "civitai": (
        "model_id",
        "version_id",
        "version_name",
        "air",
        "hash",
        "file_id",
        "file_type",
        "file_format",
        "fp",
        "file_size",
        "sidecar",
        "preview",
        "scan_pending",
    ),
    "huggingface": (
        "repository",
        "repository_type",
        "revision",
        "file",
        "allow_patterns",
        "ignore_patterns",
        "flatten",
        "unsafe",
    ),
    "url": ("url",),
    "local": ("src",),
    "git": ("repository", "commit", "file", "include"),
}
COMMON = ("source", "type", "name", "sha256", "pickle", "mirrors")
# For people, and for what makes such lists.
REMARKS = ("description", "needed_by", "size_mb", "note")
SECRETS = ("token", "password", "api_key")

SHA256 = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
# No option for git in the place of an address; and none of git's addresses that run a program (ext::).
# What sha256 says of a link when nobody knows it.
NO_HASH = "none"
REPOSITORY = re.compile(r"(https?|ssh|git|file)://\S+|[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+:[^-\s]\S*")
WITHOUT_CODE = (".safetensors", ".gguf", ".onnx")

Model = dict[str, Any]


class Unusable(Exception):
    """The message is the rest of a sentence that begins with where the model stands, and says the next step."""


def quoted(values: Any) -> str:
    """For a sentence."""
    return ", ".join(f'"{value}"' for value in values)


def check_name(name: str) -> str:
    """The path below the type's folder, when it stays there."""
    parts = name.rstrip("/").split("/")
    if not name.isprintable() or "\\" in name or any(part in ("", ".", "..") or part.startswith("-") for part in parts):
        raise Unusable(f'has the name "{name}", which is no path below the folder of its type; correct its name.')
    return name


def source_of(model: Model) -> str:
    """What sd_webui's lists leave out follows from what they say."""
    guessed = "huggingface" if "repository" in model and "commit" not in model else "url" if "url" in model else ""
    source = str(model.get("source") or guessed)
    if source not in OPTIONS:
        raise Unusable(f'has the source "{source}"; set source to one of {", ".join(OPTIONS)}.')
    return source


def check_keys(model: Model, source: str) -> None:
    """An option that nobody reads would be a wish that nobody hears."""
    secret = [key for key in model if key in SECRETS]
    if secret:
        raise Unusable(
            f"holds a secret ({', '.join(secret)}), which logs would show; take it out and set "
            "model_fetch_civitai_token or model_fetch_huggingface_token."
        )
    unknown = [key for key in model if key not in (*COMMON, *REMARKS, *OPTIONS[source])]
    if unknown:
        known = ", ".join(sorted((*COMMON[1:], *OPTIONS[source])))
        raise Unusable(f"has {quoted(unknown)}, which source {source} does not know; it knows {known}.")


def check_civitai(model: Model) -> str:
    """Its name, for the label."""
    named = [key for key in ("air", "hash", "version_id", "model_id") if model.get(key)]
    if len(named) != 1:
        raise Unusable("has to be named by one of model_id, version_id, air and hash; keep one of them.")
    for key in ("model_id", "version_id", "file_id"):
        if model.get(key) and not str(model[key]).isdigit():
            raise Unusable(f'has the {key} "{model[key]}", which is no number; copy it from the model\'s address.')
    return f"Civitai {named[0]} {model[named[0]]}"


def check_huggingface(model: Model) -> str:
    if not model.get("repository"):
        raise Unusable("lacks its repository; write it like lllyasviel/Annotators.")
    if not model.get("file") and not model.get("allow_patterns"):
        raise Unusable('lacks its file; name it, or name several with allow_patterns, such as ["*.safetensors"].')
    if model.get("file") and (model.get("allow_patterns") or model.get("ignore_patterns")):
        raise Unusable("has both a file and patterns; keep one of them.")
    if model.get("sha256") and not model.get("file"):
        raise Unusable("has one sha256 for several files; name one file, or pin them all with a commit in revision.")
    return str(model["repository"])


def check_url(model: Model) -> str:
    url = str(model.get("url") or "")
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http", "file") or not (parts.hostname or parts.scheme == "file"):
        raise Unusable(
            f'has the url "{url}", which is no address; write it like https://example.org/model.safetensors.'
        )
    if parts.password or parts.username or re.search(r"(^|&)(token|api_?key|password)=", parts.query, re.IGNORECASE):
        raise Unusable(
            f"has a secret in its url on {parts.hostname}, which logs would show; take it out of the address."
        )
    if not model.get("sha256"):
        raise Unusable(
            "lacks the sha256 of what its url serves, without which nobody can tell a model from an error page; "
            "set it, or say sha256: none if there is no way to know it."
        )
    return parts.hostname or "this host"


def check_local(model: Model) -> str:
    src = str(model.get("src") or "")
    if not os.path.isfile(os.path.expanduser(src)):
        raise Unusable(f'has the src "{src}", which is no file on the controller; correct src.')
    return "the controller"


def check_git(model: Model) -> str:
    repository = str(model.get("repository") or "")
    if not REPOSITORY.fullmatch(repository):
        raise Unusable(f'has the repository "{repository}", which is no address for git; write it like https://….')
    if re.match(r"https?://[^/]*@", repository):
        raise Unusable("has a secret in the address of its repository, which logs would show; take it out.")
    if not COMMIT.fullmatch(str(model.get("commit") or "")):
        raise Unusable("lacks its commit; a branch or a tag can move, so give the commit's 40 digits.")
    if bool(model.get("file")) == bool(model.get("include")):
        raise Unusable('names no file or two kinds; set file, or include with patterns such as ["*.safetensors"].')
    if model.get("sha256") and not model.get("file"):
        raise Unusable("has one sha256 for several files; name one file.")
    if model.get("include") and model.get("name") and not str(model["name"]).endswith("/"):
        raise Unusable(
            f'has one name, "{model["name"]}", for several files; end it with a slash, as the name of a folder.'
        )
    return repository.rstrip("/").rpartition("/")[2]


CHECKS = {
    "civitai": check_civitai,
    "huggingface": check_huggingface,
    "url": check_url,
    "local": check_local,
    "git": check_git,
}


def sha256_of(model: Model) -> str:
    """Empty when there is none."""
    digest = str(model.get("sha256") or "").strip().lower()
    if digest in ("", NO_HASH):
        return ""
    if not SHA256.fullmatch(digest):
        raise Unusable(f'has the sha256 "{digest}", which is none; give the 64 digits.')
    return digest


def pickle_of(model: Model, default: str) -> str:
    """Whether code may come along: only by the SHA-256 of a file that somebody has vouched for."""
    wish = model.get("pickle")
    said = str(wish).lower()
    if wish is None or said in ("false", "no", ""):
        return default
    if said in ("deny", "scan"):
        return said
    if said not in ("allow", "true", "yes"):
        raise Unusable(f'has the pickle "{wish}"; set it to deny, scan or allow.')
    if sha256_of(model):
        return "allow"
    # A list of another role says that it is one, not that it is harmless.
    if said != "allow" and default == "scan":
        return "scan"
    raise Unusable(
        "is a pickle, which can run programs when it is loaded, and nobody vouches for it; give its sha256, or have "
        "pickles looked through with model_fetch_pickle: scan."
    )


def destination(model: Model, source: str, folders: dict[str, str]) -> str:
    """A file, or a folder with a slash at its end where the hub names the file or there are several."""
    kind = str(model.get("type") or "")
    if kind not in folders:
        raise Unusable(f'has the type "{kind}"; set type to one of {", ".join(folders)}.')
    name = str(model.get("name") or "")
    several = bool(model.get("allow_patterns") or model.get("include"))
    if not name and not several:
        name = os.path.basename(str(model.get("file") or model.get("src") or ""))
    elif several and name and not name.endswith("/"):
        name += "/"
    return folders[kind].rstrip("/") + "/" + (check_name(name) if name else "")


def options_of(model: Model, source: str) -> dict[str, Any]:
    """What the module gets, as the types that it knows."""
    made: dict[str, Any] = {}
    for key in OPTIONS[source]:
        value = model.get(key)
        # A list that names the branch everybody means and one that does not ask for the same.
        if value is None or value == "" or (key == "revision" and value == "main"):
            continue
        if key in ("allow_patterns", "ignore_patterns", "include"):
            value = [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
        elif key in ("model_id", "version_id", "file_id"):
            value = int(value)
        elif key in ("sidecar", "preview", "flatten"):
            value = str(value).lower() in ("true", "yes", "1", "on")
        elif key == "src":
            value = os.path.abspath(os.path.expanduser(str(value)))
        else:
            value = str(value)
        made[key] = value
    return made


def request(model: Model, folders: dict[str, str], pickle: str, mirrors: list[str]) -> dict[str, Any]:
    """What one model of the list asks for; raises Unusable."""
    source = source_of(model)
    check_keys(model, source)
    where = CHECKS[source](model)
    dest = destination(model, source, folders)
    options = options_of(model, source)
    digest = sha256_of(model)
    if digest or source == "url":
        options["sha256"] = digest or NO_HASH
    own = model.get("mirrors") or []
    seen = []
    if source == "local":
        # A file that has changed on the controller is another one.
        status = os.stat(options["src"])
        seen = [status.st_size, status.st_mtime_ns]
    key = json.dumps([source, dest, options, *seen], sort_keys=True)
    wish = pickle_of(model, "deny" if dest.endswith(WITHOUT_CODE) else pickle)
    if source == "git":
        name = model.get("name") or model.get("file") or "/".join(options["include"])
    else:
        name = os.path.basename(dest) or options.get("file") or ", ".join(options.get("allow_patterns", [])) or "a file"
    return {
        "source": source,
        "type": str(model["type"]),
        "dest": dest,
        "folder": dest.rpartition("/")[0],
        "options": {**options, "pickle": wish},
        "question": {"source": source, "dest": dest, **options, "pickle": wish},
        "mirrors": [str(item) for item in (own if isinstance(own, (list, tuple)) else [own])] + mirrors,
        # Another role may have a path and no type.
        "label": f"{model['type']} {name} from {where}" if model["type"] in TYPES else f"{name} from {where}",
        "key": hashlib.sha256(key.encode("utf-8")).hexdigest(),
    }


def hint(model: Any) -> str:
    """By which people find an entry again, as far as it says anything."""
    for key in ("name", "file", "url", "src", "version_id", "model_id", "air", "hash", "repository"):
        if isinstance(model, dict) and model.get(key):
            # An address may hold a secret behind its path.
            return f" ({os.path.basename(str(model[key]).partition('?')[0].rstrip('/'))})"
    return ""


def expanded(name: str, models: Any, presets: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each model of a list, and where it stands, with presets replaced by their models."""
    for number, model in enumerate(models, 1):
        place = f"entry {number} of {name}{hint(model)}"
        if isinstance(model, dict) and "preset" in model:
            yield from preset_models(str(model["preset"]), place, model, presets)
        else:
            yield place, model


def preset_models(name: str, place: str, asked: Any, presets: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The models of a preset; in the place of those of an unknown one, what is wrong."""
    if name not in presets:
        yield place, Unusable(f'names the preset "{name}", which does not exist; use one of {", ".join(presets)}.')
    elif isinstance(asked, dict) and set(asked) - {"preset"}:
        extra = quoted(sorted(set(asked) - {"preset"}))
        yield place, Unusable(f"has {extra} beside its preset; a preset stands alone, so take that out.")
    else:
        for number, model in enumerate(presets[name].get("models") or [], 1):
            yield f"entry {number} of preset {name}{hint(model)}", model


def names_of(value: Any) -> list[str]:
    """An INI inventory knows no lists: it gives text."""
    if isinstance(value, str):
        value = re.sub(r"[\[\]\"',]", " ", value).split()
    return [str(name) for name in value]


def list_of(name: str, value: Any) -> Any:
    """The same for models, where the text is JSON; raises Unusable."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "[]")
        except ValueError as error:
            raise Unusable(f"{name} is no JSON ({error}); correct it, or write it as YAML.") from error
    if not isinstance(value, (list, tuple)):
        raise Unusable(f"{name} is no list of models; begin each with a hyphen, or put brackets around them.")
    return value


def model_requests(
    models: Any,
    presets: dict[str, Any],
    folders: dict[str, str],
    chosen: Any = (),
    more: Any = (),
    pickle: str = "deny",
    mirrors: Any = (),
) -> dict[str, Any]:
    """See RETURN."""
    requests: dict[str, dict[str, Any]] = {}
    takers: dict[str, tuple[str, str]] = {}
    problems = []
    listed: list[tuple[str, Any]] = []
    for name, value in (("model_fetch_models", models), ("model_fetch_more_models", more)):
        try:
            listed += expanded(name, list_of(name, value), presets)
        except Unusable as problem:
            problems.append(str(problem))
    for name in names_of(chosen):
        listed += preset_models(name, "model_fetch_presets", None, presets)
    for place, model in listed:
        try:
            if isinstance(model, Unusable):
                raise model
            if not isinstance(model, dict):
                raise Unusable(f'is "{model}", which is no model; write it as a dictionary with source and type.')
            made = request(model, folders, pickle, names_of(mirrors))
        except Unusable as problem:
            problems.append(f"{place} {problem}")
            continue
        dest, content = made["dest"], sha256_of(model) or made["key"]
        if dest.endswith("/"):
            requests.setdefault(made["key"], made)
            continue
        # Two lists may name one file in different words.
        first, taken = takers.setdefault(dest, (place, content))
        if taken != content:
            problems.append(f"{place} wants to be {dest}, which {first} wants to be as well; rename one of them.")
        elif first == place:
            requests.setdefault(made["key"], made)
    return {"requests": list(requests.values()), "problems": problems}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"model_requests": model_requests}
