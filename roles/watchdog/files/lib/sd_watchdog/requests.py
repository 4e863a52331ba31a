# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the supervisor may ask of the root part.

The web UI runs as the supervisor's user, so a request may come from whoever has broken into it. It is taken out of that
user's folder without following anything that lies there, and it can name only what root's own files list.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sd_watchdog import untrusted

PROFILE, CLEAR_PROFILE, ROLL_BACK = "profile", "clear_profile", "roll_back"
RELOAD_DRIVER, REBOOT, NAME_PORT_OWNER = "reload_driver", "reboot", "name_port_owner"
ACTIONS = (PROFILE, CLEAR_PROFILE, ROLL_BACK, RELOAD_DRIVER, REBOOT, NAME_PORT_OWNER)
_KEYS = frozenset({"id", "action", "profile", "reason", "port"})
_LONGEST_REASON = 300


class RequestError(Exception):
    """Such a request is not carried out; the message says why. It repeats nothing of the request."""


@dataclass(frozen=True)
class Request:
    """One thing to do."""

    id: str
    action: str
    profile: str = ""
    reason: str = ""
    port: int = 0


def take(path: Path) -> dict[str, Any] | None:
    """Take a request away and return it, None where there is none; raises untrusted.Refused.

    Nothing but names in that one folder is changed: what is not a request goes away, whatever it points to stays.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder = os.open(path.parent, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise untrusted.Refused(f"{path.parent} cannot be opened ({error.strerror})") from None
    # A name that nobody can have made ready.
    taken = f".{path.name}.{os.urandom(8).hex()}"
    try:
        # A rename moves a link, a pipe or a folder itself. From here on the next request may come.
        os.rename(path.name, taken, src_dir_fd=folder, dst_dir_fd=folder)
        return untrusted.read_object(taken, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise untrusted.Refused(f"it cannot be taken ({error.strerror})") from None
    finally:
        # A folder is left where it is, under its new name: what lies in it may be without end.
        with contextlib.suppress(OSError):
            os.unlink(taken, dir_fd=folder)
        os.close(folder)


def identity(data: dict[str, Any]) -> str:
    """The request's own number, to which the answer belongs; raises RequestError."""
    found = data.get("id")
    if not isinstance(found, str) or re.fullmatch("[0-9a-f]{16}", found) is None:
        raise RequestError("the request has no number of 16 hexadecimal digits")
    return found


def parse(data: dict[str, Any], profiles: Iterable[str], ports: Iterable[int]) -> Request:
    """The request, as far as root's own files allow it: these profiles, these ports; raises RequestError."""
    number = identity(data)
    if not data.keys() <= _KEYS:
        raise RequestError("the request has keys that the root part does not know")
    action = data.get("action")
    if not isinstance(action, str) or action not in ACTIONS:
        raise RequestError(f"the request's action is none of {', '.join(ACTIONS)}")
    reason = data.get("reason", "")
    if not isinstance(reason, str) or len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise RequestError(f"the request's reason is not a line of at most {_LONGEST_REASON} printable characters")
    profile, port = data.get("profile", ""), data.get("port", 0)
    if (action == PROFILE or "profile" in data) and not (isinstance(profile, str) and profile in tuple(profiles)):
        raise RequestError(f"the request's profile is none of {', '.join(profiles)}")
    if (action == NAME_PORT_OWNER or "port" in data) and not (untrusted.is_whole(port) and port in tuple(ports)):
        raise RequestError(f"the request's port is not the web UI's ({', '.join(str(known) for known in ports)})")
    return Request(number, action, profile, reason.strip(), port)
