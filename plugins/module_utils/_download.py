# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all download modules share: options, what is there already, check mode, results. Private to this collection."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import re
import stat
from dataclasses import asdict, dataclass, replace
from typing import Any, Callable, NoReturn

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.secondhand.diffusion.plugins.module_utils import _model_format as model_format
from ansible_collections.secondhand.diffusion.plugins.module_utils._attributes import new_mode, would_change
from ansible_collections.secondhand.diffusion.plugins.module_utils._file_index import (
    FileIndex,
    Known,
    identity,
    measure,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import (
    REQUESTS_ERROR,
    Client,
    DownloadError,
    HostPolicy,
    Source,
    redact,
)
from ansible_collections.secondhand.diffusion.plugins.module_utils._part import Part, remedy
from ansible_collections.secondhand.diffusion.plugins.module_utils._pieces import Limits
from ansible_collections.secondhand.diffusion.plugins.module_utils._progress import Progress
from ansible_collections.secondhand.diffusion.plugins.module_utils._transfer import (
    Transfer,
    Wanted,
    file_url,
    mirror_origins,
    secrets_of,
    with_mirrors,
)

# From linux/fs.h: makes a file share the blocks of another one, where the file system can (btrfs, XFS).
FICLONE = 0x40049409
# What the action plugin passes instead of a progress file: to do only what needs no network and no file's bytes.
GLANCE = "-"
UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


class RequestsMissing(Exception):
    """Nothing can be asked, because requests is not installed here."""


class Later(Exception):
    """A glance is not enough."""


@dataclass
class FileResult:
    """One file, as the modules return it."""

    path: str
    sha256: str | None
    size: int | None
    changed: bool = False
    downloaded_bytes: int = 0
    resumed_bytes: int = 0
    seconds: float = 0.0
    # Redacted; null for a file that was there.
    source: str | None = None
    base_model: str | None = None
    format: str | None = None


def argument_spec(**own: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The options of doc fragment download, and those of one module."""
    return {
        "dest": {"type": "path", "required": True},
        "sha256": {"type": "str"},
        "token": {"type": "str", "no_log": True},
        "connections": {"type": "int", "default": 8},
        "rate_limit": {"type": "str"},
        "mirrors": {"type": "list", "elements": "str", "default": []},
        "verify": {"type": "str", "choices": ["cached", "always"], "default": "cached"},
        "pickle": {"type": "str", "choices": ["deny", "scan", "allow"], "default": "deny"},
        "picklescan": {"type": "path"},
        "allowed_hosts": {"type": "list", "elements": "str", "default": []},
        "timeout": {"type": "int", "default": 60},
        "retries": {"type": "int", "default": 5},
        "max_wait": {"type": "int", "default": 600},
        "space_reserve": {"type": "str", "default": "512M"},
        "ca_path": {"type": "path"},
        "index": {"type": "path"},
        "progress": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
        "_progress": {"type": "path"},
        **own,
    }


def bytes_of(text: str, option: str) -> int:
    """A number of bytes such as 512M."""
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise DownloadError(f"{option} is '{text}', which is no number of bytes: write it as 500K, 20M or 1G.")
    return int(found[1]) * UNITS[found[2].upper()]


def safe_name(name: str) -> str:
    """A file name from a server, made harmless. Raises DownloadError when nothing is left of it."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(char for char in name if char.isprintable()).strip().lstrip(".").strip()
    stem, extension = os.path.splitext(name)
    while len((stem + extension).encode("utf-8")) > 200 and stem:
        stem = stem[:-1]
    if not stem or not (stem + extension).strip("."):
        raise DownloadError("The server gives the file no name that can be used: write one into dest.")
    return stem + extension


def _keep_size(module: AnsibleModule) -> None:
    """exit_json() adds what it finds at the path: a folder's own size, or in check mode that of the old file."""
    add_path_info = module.add_path_info

    def add_all_but_size(answer: dict[str, Any]) -> dict[str, Any]:
        size = answer.get("size")
        add_path_info(answer)
        answer["size"] = size
        return answer

    module.add_path_info = add_all_but_size


def run(
    module: AnsibleModule,
    work: Callable[[Downloads], None],
    hosts: tuple[str, ...] = (),
    configured: tuple[str, ...] = (),
    token_for: tuple[str, ...] = (),
) -> None:
    """Does the work and turns what goes wrong into one sentence."""
    downloads = None
    _keep_size(module)
    try:
        downloads = Downloads(module, hosts, configured, token_for)
        work(downloads)
    except RequestsMissing:
        if not module.check_mode:
            module.fail_json(msg=missing_required_lib("requests"), exception=REQUESTS_ERROR)
        # A run that is not a check would install it first; this one cannot look any further.
        module.exit_json(
            changed=True,
            msg=f"Would download to {module.params['dest']}; 'requests' is not installed yet, so nobody was asked.",
            **empty_result(module.params["dest"]),
        )
    except Later:
        module.exit_json(changed=False, later=True)
    except (DownloadError, model_format.FormatError) as exc:
        if downloads:
            downloads.pass_warnings()
        module.fail_json(msg=str(exc))
    except OSError as exc:
        what = exc.filename or module.params["dest"]
        module.fail_json(msg=f"{what} cannot be used ({exc.strerror}): {remedy(exc)}.")


def empty_result(path: str) -> dict[str, Any]:
    """What is returned where nothing is known."""
    return {
        **{key: value for key, value in asdict(FileResult(path, None, None)).items() if key != "changed"},
        "trained_words": [],
        "files": [],
    }


class Downloads:
    """One run of a download module."""

    def __init__(
        self,
        module: AnsibleModule,
        hosts: tuple[str, ...] = (),
        configured: tuple[str, ...] = (),
        token_for: tuple[str, ...] = (),
    ) -> None:
        self.module = module
        self.params: dict[str, Any] = module.params
        self.check_mode: bool = module.check_mode
        for url in (self.params.get("url"), *self.params["mirrors"]):
            # The result shows the options that the module was called with.
            module.no_log_values.update(secrets_of(url or ""))
        self.index = FileIndex(self.params["index"], read_only=self.check_mode)
        self._glance: bool = self.params["_progress"] == GLANCE
        self.progress = Progress(None if self._glance else self.params["_progress"])
        self.limits = Limits(
            connections=_within("connections", self.params["connections"], 1, 16),
            rate=bytes_of(self.params["rate_limit"], "rate_limit") or None if self.params["rate_limit"] else None,
            timeout=_within("timeout", self.params["timeout"], 1, 86400),
            retries=_within("retries", self.params["retries"], 0, 1000),
            reserve=bytes_of(self.params["space_reserve"], "space_reserve"),
        )
        self._policy = HostPolicy(
            configured=configured + mirror_origins(self.params["mirrors"]),
            allowed=hosts + tuple(self.params["allowed_hosts"]),
        )
        token = _token(self.params["token"])
        if token:
            # Ansible blanks the option as it was written, which may be one character longer.
            module.no_log_values.add(token)
        self.params["token"] = token
        self._token_for = token_for
        self._client: Client | None = None
        self._warnings: list[str] = []
        self._diff: list[dict[str, Any]] = []

    @property
    def client(self) -> Client:
        """Raises RequestsMissing."""
        self.no_glance()
        if self._client is None:
            if REQUESTS_ERROR:
                raise RequestsMissing
            self._client = Client(
                self._policy,
                self.params["token"],
                self._token_for,
                timeout=self.limits.timeout,
                retries=self.limits.retries,
                max_wait=self.params["max_wait"],
                ca_path=self.params["ca_path"],
                on_wait=lambda text: self.progress.state("waiting", text),
            )
        return self._client

    def no_glance(self) -> None:
        if self._glance:
            raise Later

    def warn(self, text: str) -> None:
        self._warnings.append(text)

    def pass_warnings(self) -> None:
        for text in [*dict.fromkeys(self._warnings), *([self.index.problem] if self.index.problem else [])]:
            self.module.warn(text)

    # Where to

    def target(self, name: str) -> str:
        """The path of a file: in the folder dest, or dest itself."""
        dest: str = self.params["dest"]
        if os.path.isdir(dest) or dest.endswith("/"):
            return os.path.join(dest, safe_name(name))
        return dest

    # What is there already

    def recall(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """What an earlier run of the same request returned, if its files are all as they were."""
        known = self.index.recall(key) if self.params["verify"] == "cached" else None
        files = known.get("files", []) if known else []
        return None if any(self._needs_own_copy(file["path"]) for file in files) else known

    def have(self, wanted: Wanted) -> FileResult:
        """Sees to it that the file is there; in check mode, only finds out. Raises DownloadError."""
        path = os.path.realpath(wanted.path)
        if path.endswith((".part", ".part.journal")):
            raise DownloadError(f"{path} is what an unfinished download is called: set dest to another file.")
        if os.path.exists(path) and not os.path.isfile(path):
            what = "a folder" if os.path.isdir(path) else "no regular file"
            raise DownloadError(f"{path} is {what} where a file should be: correct dest.")
        digest = _normal_hash(wanted.sha256)
        wanted = with_mirrors(replace(wanted, path=path, sha256=digest), self.params["mirrors"])
        before = identity(path)
        known = self._present(wanted)
        if known and not self._needs_own_copy(path):
            return self._result(wanted, self._allowed(wanted, known))
        self.no_glance()
        self._note_diff(path, before, wanted)
        if self.check_mode:
            return FileResult(path, wanted.sha256, wanted.size, changed=True)
        self._check_owner()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part = Part.open(path, lambda done, size: self._waiting(wanted, done, size))
        try:
            # Another run may have had the lock and brought it.
            known = self._present(wanted) if identity(path) != before else None
            if known:
                return self._result(wanted, self._allowed(wanted, known), changed=True)
            return self._linked(wanted, part) or self._transferred(wanted, part)
        except model_format.FormatError:
            # No later run could make anything of it.
            part.discard()
            raise
        finally:
            part.close()

    def _check_owner(self) -> None:
        """Before the first byte, because nobody wants to hear of it after the last one."""
        checks: tuple[tuple[str, str, Callable[[str], object]], ...] = (
            ("owner", "user", pwd.getpwnam),
            ("group", "group", grp.getgrnam),
        )
        for option, kind, look_up in checks:
            name = self.params[option]
            try:
                if name and not name.isdigit():
                    look_up(name)
            except KeyError:
                raise DownloadError(
                    f"There is no {kind} '{name}' on this host: make it, or correct {option}."
                ) from None

    def _waiting(self, wanted: Wanted, done: int, size: int) -> None:
        self.progress.start(wanted.name, size or None, done, "waiting")
        self.progress.state("waiting", "another run is fetching it")

    def _present(self, wanted: Wanted) -> Known | None:
        """What is at the path, if it is what is wanted."""
        now = identity(wanted.path)
        if now is None or (wanted.size is not None and now[2] != wanted.size):
            return None
        known = self.index.lookup(wanted.path) if self.params["verify"] == "cached" else None
        if known is None:
            self.no_glance()
            self.progress.start(wanted.name, now[2], state="checking")
            try:
                last = self.index.last_known(wanted.path)
                known = measure(
                    wanted.path, tick=self.progress.add, **({"piece_size": last.piece_size} if last else {})
                )
            except OSError as exc:
                raise DownloadError(
                    f"{wanted.path} cannot be read ({exc.strerror}): run as a user who may, or look at the disk."
                ) from exc
            # What came over the network is still what it came as, if it is the same.
            known = replace(known, details=last.details if last and last.sha256 == known.sha256 else None)
            if not self._is(wanted, known):
                return None
            if identity(wanted.path) == now:
                self.index.remember(wanted.path, known)
        return known if self._is(wanted, known) else None

    def _is(self, wanted: Wanted, known: Known) -> bool:
        if wanted.sha256 or wanted.git_sha1:
            return self._matches_hash(wanted, known)
        # Without a hash, the server's word that nothing has changed since.
        details = known.details or {}
        source = wanted.sources[-1]
        if details.get("source") != redact(source.url) or source.url.startswith("file://"):
            return False
        location = self.client.locate(source)
        return location.size in (None, known.size) and location.etag == details.get("etag")

    def _allowed(self, wanted: Wanted, known: Known) -> Known:
        """A pickle that is there is refused like one that comes."""
        details = known.details or {}
        policy = self.params["pickle"]
        if policy != "allow" and details.get("pickle") not in (False, policy):
            self.no_glance()
            known = replace(known, details={**details, **self._judged(wanted.path, wanted.name)})
            self.index.remember(wanted.path, known)
        return known

    # Bringing it

    def _linked(self, wanted: Wanted, part: Part) -> FileResult | None:
        """Shares the blocks of a file with the same content, where there is one and that is possible."""
        for path in self.index.paths_with(wanted.sha256) if wanted.sha256 else []:
            if path == wanted.path:
                continue
            try:
                known = self.index.lookup(path) if self.params["verify"] == "cached" else measure(path)
                if known is None or known.sha256 != wanted.sha256:
                    continue
                self.progress.start(wanted.name, known.size, state="linking")
                known = replace(known, details={**(known.details or {}), **self._judged(path, wanted.name)})
                if self._clone(path, known, part) or self._hard_link(path, part):
                    self.index.remember(wanted.path, known)
                    return self._result(wanted, known, changed=True, source=file_url(path))
                # On another file system, or with other rights: a copy, which is hashed on the way.
                return self._transferred(
                    replace(wanted, sources=(Source(file_url(path), mirror=True), *wanted.sources)), part
                )
            except (OSError, model_format.FormatError):
                # It was damaged since, which the time of its last change does not tell.
                continue
        return None

    def _clone(self, path: str, known: Known, part: Part) -> bool:
        # What an earlier try has left would stay behind the end of a smaller file, and its journal beside it.
        part.begin(known.size, known.piece_size, {"sha256": known.sha256}, keep=False)
        with open(path, "rb") as file:
            try:
                fcntl.ioctl(part.fd, FICLONE, file.fileno())
            except OSError:
                return False
        self._set_attributes(part.path, part.final)
        part.commit()
        return True

    def _hard_link(self, path: str, part: Part) -> bool:
        """Only where both names may have the same owner and rights, because a file has them once."""
        if not self._has_wanted_attributes(path, part.final):
            return False
        # A name that is ours, because the lock is on the file whose name it continues.
        temporary = f"{part.path}.link"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        try:
            os.link(path, temporary)
        except OSError:
            return False
        os.rename(temporary, part.final)
        # Renaming one name of a file onto another one of it leaves both.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        part.discard()
        return True

    def _transferred(self, wanted: Wanted, part: Part) -> FileResult:
        name = wanted.name
        head = _Head(name, self.params["pickle"], self.params["picklescan"])
        transfer = Transfer(wanted, part, lambda: self.client, self.limits, self.progress, head, self.warn)
        last = self.index.last_known(wanted.path)
        if last and identity(wanted.path) and self._matches_hash(wanted, last):
            transfer.seed(wanted.path, last)
        outcome = transfer.run()
        etags = list(part.identity.get("etags", {}).values())
        details = {"source": outcome.source, "etag": etags[-1] if etags else None}
        return self._completed(
            wanted,
            part,
            replace(outcome.known, details=details),
            downloaded_bytes=outcome.downloaded_bytes,
            resumed_bytes=outcome.resumed_bytes,
            seconds=outcome.seconds,
            source=outcome.source,
        )

    def _completed(self, wanted: Wanted, part: Part, known: Known, **more: Any) -> FileResult:
        """Approves a file that is whole, and gives it its name."""
        self.progress.state("checking")
        known = replace(known, details={**(known.details or {}), **self._judged(part.path, wanted.name)})
        self._set_attributes(part.path, part.final)
        part.commit()
        self.index.remember(wanted.path, known)
        return self._result(wanted, known, changed=True, **more)

    def _matches_hash(self, wanted: Wanted, known: Known) -> bool:
        if wanted.sha256:
            return known.sha256 == wanted.sha256
        return wanted.git_sha1 is not None and known.git_sha1 == wanted.git_sha1

    def _approve(self, path: str, name: str) -> model_format.Format:
        """Raises FormatError for a whole file that must not be used."""
        form = model_format.inspect(path, name)
        if form.pickle:
            note = model_format.check_policy(form, path, self.params["pickle"], self.params["picklescan"], name)
            if note:
                self.warn(note)
        return form

    def _judged(self, path: str, name: str) -> dict[str, Any]:
        """What the index keeps of the format, with the policy that a pickle has passed."""
        form = self._approve(path, name)
        return {"format": form.name, "base_model": form.base_model, "pickle": form.pickle and self.params["pickle"]}

    # Owner, group, mode

    def _file_arguments(self, path: str) -> dict[str, Any]:
        arguments: dict[str, Any] = self.module.load_file_common_arguments(self.params, path=path)
        return arguments

    def _set_attributes(self, path: str, final: str) -> None:
        """As the task wants them, else as they were, else as any new file's; before the file gets its name."""
        try:
            there = os.stat(final)
            os.chmod(path, stat.S_IMODE(there.st_mode))
            with contextlib.suppress(PermissionError):
                os.chown(path, there.st_uid, there.st_gid)
        except FileNotFoundError:
            os.chmod(path, new_mode())
        self.module.set_fs_attributes_if_different(self._file_arguments(path), False)

    def _has_wanted_attributes(self, path: str, final: str) -> bool:
        status, folder = os.stat(path), os.stat(os.path.dirname(final))
        group = folder.st_gid if folder.st_mode & stat.S_ISGID else os.getegid()
        if not self.params["mode"] and stat.S_IMODE(status.st_mode) != new_mode():
            return False
        if not self.params["owner"] and status.st_uid != os.geteuid():
            return False
        if not self.params["group"] and status.st_gid != group:
            return False
        return not self.would_change_attributes(path)

    def _needs_own_copy(self, path: str) -> bool:
        """A file has its owner and rights once, under all its names."""
        return os.stat(path).st_nlink > 1 and self.would_change_attributes(path)

    def would_change_attributes(self, path: str) -> bool:
        return would_change(self.module, path)

    # Results

    def _note_diff(self, path: str, before: tuple[int, int, int, int] | None, wanted: Wanted) -> None:
        last = self.index.lookup(path)
        lines: dict[str, Any] = {"path": path, "state": "file" if before else "absent"}
        if before:
            lines.update(size=before[2], sha256=last.sha256 if last else "unknown")
        after: dict[str, Any] = {"path": path, "state": "file", "sha256": wanted.sha256 or "unknown"}
        if wanted.size is not None:
            after["size"] = wanted.size
        self._diff.append(
            {"before_header": path, "after_header": path, "before": _lines(lines), "after": _lines(after)}
        )

    def note_file(self, path: str) -> None:
        """A small file that comes along, for the diff."""
        before = _lines({"path": path, "state": "file, replaced" if os.path.exists(path) else "absent"})
        after = _lines({"path": path, "state": "file"})
        self._diff.append({"before_header": path, "after_header": path, "before": before, "after": after})

    def set_attributes(self, path: str, changed: bool) -> bool:
        """Owner, group and mode of what is there, with their diff; whether anything has changed by now."""
        if not os.path.exists(path):
            return changed
        diff: dict[str, dict[str, Any]] = {}
        changed = bool(self.module.set_fs_attributes_if_different(self._file_arguments(path), changed, diff))
        if diff:
            lines = {name: _lines({"path": path, **values}) for name, values in diff.items()}
            self._diff.append({"before_header": path, "after_header": path, **lines})
        return changed

    def _result(self, wanted: Wanted, known: Known, **more: Any) -> FileResult:
        details = known.details or {}
        if "format" not in details:
            with contextlib.suppress(model_format.FormatError, OSError):
                form = model_format.inspect(wanted.path, wanted.name)
                details = {"format": form.name, "base_model": form.base_model}
                self.index.remember(wanted.path, replace(known, details={**(known.details or {}), **details}))
        return FileResult(
            path=wanted.path,
            sha256=known.sha256,
            size=known.size,
            format=details.get("format"),
            base_model=details.get("base_model"),
            **more,
        )

    def exit(self, results: list[FileResult], key: dict[str, Any] | None = None, **more: Any) -> NoReturn:
        """Sets owner, group and mode, remembers a pinned request, and ends the module."""
        files = [asdict(result) for result in results]
        answer = {
            **empty_result(self.params["dest"]),
            **(
                {name: value for name, value in files[0].items() if name != "changed"}
                if len(files) == 1
                else _sum(files)
            ),
            "files": files,
            **more,
        }
        self._apply_attributes(files)
        answer["changed"] = bool(answer.get("changed")) or any(file["changed"] for file in files)
        if key is not None and not self.check_mode:
            self.index.answer(key, [result.path for result in results], _settled(answer))
        self._end(answer)

    def exit_if_known(self, key: dict[str, Any] | None) -> None:
        """Ends the module when an earlier run has answered this pinned request and nothing has changed since."""
        known = self.recall(key) if key else None
        if known:
            self.exit_known(known)

    def exit_known(self, answer: dict[str, Any]) -> NoReturn:
        """Ends the module with what recall() has found."""
        self._apply_attributes(answer["files"])
        answer["changed"] = any(file["changed"] for file in answer["files"])
        self._end(answer)

    def _apply_attributes(self, files: list[dict[str, Any]]) -> None:
        for file in files:
            file["changed"] = self.set_attributes(file["path"], file["changed"])

    def _end(self, answer: dict[str, Any]) -> NoReturn:
        self.pass_warnings()
        if self._diff:
            answer["diff"] = self._diff
        self.module.exit_json(**answer)
        raise SystemExit(0)


class _Head:
    """Judges a file by its beginning: a pickle is refused then, and a picklescan that is missing is missed then."""

    def __init__(self, name: str, policy: str, picklescan: str | None) -> None:
        self._name = name
        self._policy = policy
        self._picklescan = picklescan

    def needed(self, head: bytes) -> int:
        return model_format.header_bytes(head)

    def check(self, head: bytes, size: int | None) -> None:
        form = model_format.judge(head, size, self._name)
        if form.pickle:
            model_format.check_policy(form, None, self._policy, self._picklescan, self._name)


def _within(option: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise DownloadError(f"{option} is {value}: set a number from {low} to {high}.")
    return value


def _token(text: str | None) -> str | None:
    """Without the end of a line, which files and vaults add, and which no header can hold."""
    token = (text or "").strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise DownloadError("token has blanks or characters that no token has: copy it whole, and nothing else.")
    return token or None


def _normal_hash(digest: str | None) -> str | None:
    if digest is None:
        return None
    digest = digest.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise DownloadError(f"sha256 is '{digest}', which is not 64 hexadecimal digits: copy it whole.")
    return digest


def _lines(values: dict[str, Any]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in values.items())


def _sum(files: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: sum(file[name] or 0 for file in files)
        for name in ("size", "downloaded_bytes", "resumed_bytes", "seconds")
    }


def _settled(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as a run that finds everything in place gives it."""
    quiet = {"changed": False, "downloaded_bytes": 0, "resumed_bytes": 0, "seconds": 0.0}
    files = [{**file, **quiet, "source": None} for file in answer["files"]]
    kept = {name: value for name, value in answer.items() if name not in ("diff", "source")}
    return {**kept, **quiet, "source": None, "files": files}
