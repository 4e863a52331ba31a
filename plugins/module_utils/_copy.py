# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's side of resumable_copy: takes pieces that the controller has sent. Private to this collection.

The action plugin runs the module several times. Each run finds out anew what is there, so any of them may be killed,
and two copies of the same file at once do each other no harm. The option _copy says what is wanted:

size, sha256, piece_size, pieces: the file on the controller, and CRC-32 of each piece.
received: null in the first run; later what was sent: offset, size, crc and path of each piece.
finish: whether to read, verify and rename the file once no piece is missing.
patient: whether this run may read whole files, because it is one that shows its progress.

The answer's key copy says what is missing ([first, last] of pieces), or that only a patient run can go on.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.secondhand.diffusion.plugins.module_utils import _model_format as model_format
from ansible_collections.secondhand.diffusion.plugins.module_utils._download import Downloads, FileResult
from ansible_collections.secondhand.diffusion.plugins.module_utils._file_index import Known, measure
from ansible_collections.secondhand.diffusion.plugins.module_utils._http import DownloadError
from ansible_collections.secondhand.diffusion.plugins.module_utils._part import MIB, Part, piece_size_for
from ansible_collections.secondhand.diffusion.plugins.module_utils._transfer import Transfer, Wanted

# What is read at once, in a run that shows no progress.
QUICK = 256 * MIB
# More connections make smaller pieces; here there is one, and a kill costs little.
CONNECTIONS = 4
HEAD = 512


class Copy(Downloads):
    """One step of a copy."""

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module)
        step = self.params["_copy"]
        self._size = int(step["size"])
        self._source = Known(
            str(step["sha256"]), self._size, piece_size=int(step["piece_size"]), pieces=tuple(step["pieces"])
        )
        self._received: list[dict[str, Any]] | None = step["received"]
        self._finish = bool(step["finish"])
        self._patient = bool(step["patient"]) or self.check_mode

    def run(self) -> NoReturn:
        dest = self.params["dest"]
        name = os.path.basename(self.params["src"])
        path = os.path.join(dest, name) if os.path.isdir(dest) or dest.endswith("/") else dest
        self.exit([self.have(Wanted(path, (), sha256=self._source.sha256, size=self._size))])

    def _present(self, wanted: Wanted) -> Known | None:
        # The first run has looked; what is sent now is wanted.
        if self._received is not None:
            return None
        if _size_of(wanted.path) == self._size:
            known = self.index.lookup(wanted.path)
            if known is None or self.params["verify"] == "always":
                self._be_patient()
        return super()._present(wanted)

    def _transferred(self, wanted: Wanted, part: Part) -> FileResult:
        if wanted.sources:
            # A file of this host with the same content, which could not be linked.
            self._be_patient()
            return super()._transferred(wanted, part)
        if self._received is not None and not part.pieces:
            # Somebody else may have brought the file since the first run.
            known = super()._present(wanted)
            if known:
                return self._result(wanted, known)
        transfer = Transfer(wanted, part, lambda: self.client, self.limits, self.progress, _NoCheck(), self.warn)
        self._begin(transfer)
        for piece in self._received or []:
            self._take(transfer, piece)
        self._check_head(wanted, part)
        missing = [index for index in range(part.count) if index not in part.pieces]
        if missing or not self._finish:
            self._answer(part, missing)
        return self._finished(wanted, part)

    def _begin(self, transfer: Transfer) -> None:
        wanted, part = transfer.wanted, transfer.part
        keep = part.size == self._size and part.identity.get("sha256") == wanted.sha256
        if not keep and self._received is None and _size_of(wanted.path) == self._size:
            # What is the same in the file that is there need not come.
            self._be_patient()
            part.begin(0, part.piece_size, {}, keep=False)
            transfer.seed(wanted.path, self._source)
            keep = bool(part.pieces)
        identity: dict[str, Any] = {"sha256": wanted.sha256, "git_sha1": None, "etags": {}}
        transfer.check_space(self._size)
        part.begin(self._size, piece_size_for(self._size, CONNECTIONS), identity, keep)

    def _take(self, transfer: Transfer, piece: dict[str, Any]) -> None:
        """One piece, if it is whole; else it is still missing afterwards."""
        part = transfer.part
        index, offset = divmod(int(piece["offset"]), part.piece_size)
        if offset or index >= part.count or index in part.pieces:
            return
        start, end = part.span(index)
        if end - start != piece["size"]:
            return
        crc = 0
        # A restart of the host may have removed it.
        with contextlib.suppress(FileNotFoundError), open(piece["path"], "rb", buffering=0) as file:
            while block := file.read(MIB):
                crc = zlib.crc32(block, crc)
                transfer.write(start, block[: end - start])
                start += len(block)
        if start == end and crc == piece["crc"]:
            part.finish_piece(index, crc)

    def _check_head(self, wanted: Wanted, part: Part) -> None:
        """Refuses a file by its first pieces, before the others come."""
        there = 0
        while there < part.count and there in part.pieces:
            there += 1
        length = part.span(there - 1)[1] if there else 0
        needed = min(self._size, model_format.header_bytes(part.head(min(length, HEAD)))) if there else 1
        if length < needed:
            return
        form = model_format.judge(part.head(needed), self._size, wanted.name)
        if form.pickle and self.params["pickle"] == "deny":
            model_format.check_policy(form, None, "deny", None, wanted.name)

    def _finished(self, wanted: Wanted, part: Part) -> FileResult:
        self.progress.start(wanted.name, self._size, state="checking")
        known = measure(part.path, part.piece_size, self.progress.add)
        if known.sha256 != wanted.sha256:
            damaged = [index for index, crc in enumerate(known.pieces) if part.pieces.get(index) != crc]
            if not damaged:
                part.discard()
                raise DownloadError(
                    f"What came from {self.params['src']} has SHA-256 {known.sha256} instead of {wanted.sha256}: see"
                    " that nothing writes to it, and run again."
                )
            self.warn(f"{len(damaged)} pieces of {part.path} were damaged on this host; they are copied again.")
            for index in damaged:
                part.drop_piece(index)
            self._answer(part, damaged)
        return self._completed(wanted, part, known)

    def _be_patient(self) -> None:
        if not self._patient and self._size > QUICK:
            self.module.exit_json(changed=False, copy={"patient": True})

    def _answer(self, part: Part, missing: list[int]) -> NoReturn:
        self.pass_warnings()
        self.module.exit_json(
            changed=False,
            copy={"missing": _ranges(missing), "piece_size": part.piece_size, "done": part.done_bytes},
        )
        raise SystemExit(0)


class _NoCheck:
    """The head is judged when it has come."""

    def needed(self, head: bytes) -> int:
        return 0

    def check(self, head: bytes, size: int | None) -> None:
        return None


def _size_of(path: str) -> int | None:
    return os.path.getsize(path) if os.path.isfile(path) else None


def _ranges(numbers: list[int]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges
