# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The class that libexec/webui/serve.py puts the login and the activity route in front of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Starlette:
    """Hands everything to one function. Without Gradio, nobody has filled in a form: there are no tokens."""

    def __init__(self, inner: Application) -> None:
        self.inner = inner
        self.middleware_stack: Any = None
        self.tokens: dict[str, str] = {}
        self.auth: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.inner(scope, receive, send)

    def add_middleware(self, middleware: Any, **options: Any) -> None:
        """There is none here."""
