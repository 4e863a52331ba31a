"""Writes what each task has returned into a file, a line of JSON each."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class CallbackBase: ...

else:
    from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "results"

    def _write(self, result: Any, **_more: Any) -> None:
        with open(os.environ["TEST_RESULTS"], "a", encoding="utf-8") as file:
            json.dump(result._result, file, default=str)
            file.write("\n")

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_unreachable = _write
