# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules that download files have in common."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  dest:
    description:
      - Where the file goes on the managed host, as a path, or as a folder when it is one or ends in a slash.
      - Folders that are missing are made.
      - Until the file is complete and verified it is called C(<name>.part), with its journal C(<name>.part.journal)
        beside it. A run that was killed, even by a power cut, is continued from these by the next one.
    type: path
    required: true
  sha256:
    description:
      - SHA-256 of the file, 64 hexadecimal digits. A file with another one never gets the final name.
    type: str
  token:
    description:
      - Access token. It is sent to the hub's own hosts only, never to the storage hosts that a hub redirects to.
    type: str
  connections:
    description:
      - How many connections fetch pieces of a file at the same time, from 1 to 16.
    type: int
    default: 8
  rate_limit:
    description:
      - The most bytes per second for all connections together, such as V(500K) or V(5M).
    type: str
  mirrors:
    description:
      - Places that are tried first, in this order. They are believed only by SHA-256, so a file whose SHA-256 is not
        known never comes from them.
      - An absolute path is a folder of the managed host that holds the file under its own name or under its SHA-256.
      - A URL is asked for C(<url>/<sha256>), unless it contains V({sha256}) or V({name}), which are then replaced.
    type: list
    elements: str
    default: []
  verify:
    description:
      - How to see that a file that is there is the right one.
      - V(cached) believes what was verified before as long as device, inode, size and time of change are the same, and
        reads the file otherwise.
      - V(always) reads it. Where only a part of it is damaged, only that part is fetched again.
    type: str
    choices:
      - cached
      - always
    default: cached
  pickle:
    description:
      - What to do with a file that is a Python pickle, which can run any program when it is loaded. Judged by the
        content, not by the name, and before the whole file is fetched.
      - V(deny) refuses it.
      - V(scan) refuses it unless picklescan calls it clean. That lowers the risk; it is no proof.
      - V(allow) accepts it. Do this only together with a SHA-256 of a file that you trust.
    type: str
    choices:
      - deny
      - scan
      - allow
    default: deny
  picklescan:
    description:
      - The program for O(pickle=scan). By default it is looked for on the path and where the role
        P(secondhand.diffusion.model_fetch#role) puts it.
    type: path
  allowed_hosts:
    description:
      - Hosts that a download may be redirected to, besides those that the hub is known to use.
      - A name, a pattern such as V(*.example.org), or an origin such as V(http://10.0.0.5:8190).
      - A redirect to an unencrypted or private address is followed only when its origin stands here or was written into
        another option.
    type: list
    elements: str
    default: []
  timeout:
    description:
      - Seconds without a byte after which a connection counts as dead.
    type: int
    default: 60
  retries:
    description:
      - How often a request or a connection may fail in a row.
    type: int
    default: 5
  max_wait:
    description:
      - How many seconds, in all, to wait for servers that ask for it (C(Retry-After), C(RateLimit)) or do not answer.
    type: int
    default: 600
  space_reserve:
    description:
      - How much stays free on the disk. A file that does not fit beside it is refused before its first byte.
    type: str
    default: 512M
  ca_path:
    description:
      - A file with certificate authorities to believe instead of the system's, for a mirror of your own.
    type: path
  index:
    description:
      - Where to remember verified files, so that they need not be read again.
      - The default is V(/var/lib/secondhand-diffusion/files.sqlite3) for root and
        V(~/.local/state/secondhand.diffusion/files.sqlite3) for other users.
    type: path
  progress:
    description:
      - Whether to show on the controller how far a download is. V(auto) does so when Ansible writes to a terminal.
    type: str
    choices:
      - auto
      - always
      - never
    default: auto
  _progress:
    description:
      - Where the module tells the action plugin how far it is. Not for tasks.
    type: path
requirements:
  - requests
notes:
  - The module runs on the host that needs the file. It is started as an asynchronous job, which goes on when the
    connection to the host is lost or Ansible is stopped; the next run joins it. So the task itself must not set
    C(async).
  - A proxy is taken from the environment (C(http_proxy), C(https_proxy), C(no_proxy)).
"""

    ATTRIBUTES = r"""
attributes:
  check_mode:
    description: Can run in check mode and predict a change without making one.
    support: full
    details:
      - Hubs are asked what the file is, but no byte of it is fetched. Where C(requests) is not installed yet, a change
        is predicted without asking anybody.
  diff_mode:
    description: Returns what has changed, or would change in check mode, with diff mode on.
    support: full
    details:
      - Shows path, size and SHA-256 before and after; a model has no lines.
  idempotent:
    description: When run twice in a row with the same options, the second run reports no change.
    support: full
"""
