# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the module url_download as a job on the host, and shows its progress."""

from __future__ import annotations

from ansible_collections.secondhand.diffusion.plugins.plugin_utils._download_action import TransferAction


class ActionModule(TransferAction):
    module = "secondhand.diffusion.url_download"
