# Copyright: the secondhand.diffusion contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page, with gradio's own components under the ids that upstream gives them, and ui-config.json."""

from __future__ import annotations

import importlib
import json
from typing import Any

from . import processing, release, shared, styles

gradio: Any = importlib.import_module("gradio")


def ui_settings(path: str) -> dict[str, Any]:
    """What the page starts with; defaults that the file lacks are written into it, the others stay."""
    defaults: dict[str, Any] = {
        "txt2img/Prompt/visible": True,
        "txt2img/Prompt/value": "",
        "txt2img/Negative prompt/value": "",
        "txt2img/Sampling method/value": "Euler",
        "txt2img/Sampling steps/value": 20,
        "txt2img/Width/value": 512,
        "txt2img/Height/value": 512,
        "txt2img/CFG Scale/value": 7.0,
        "txt2img/Seed/value": -1.0,
    }
    found: dict[str, Any] = {}
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        pass
    except ValueError:
        return defaults
    merged = {**found, **{key: value for key, value in defaults.items() if key not in found}}
    if merged != found:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(merged, file, indent=4, ensure_ascii=False)
    return merged


def generate(
    task: str, prompt: str, negative_prompt: str, steps: float, width: float, height: float, seed: float
) -> Any:
    """What the button does: the picture is kept, other than one that the API makes. The page has named the task."""
    asked = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "width": width,
        "height": height,
        "seed": seed,
    }
    name = task or "task(unnamed)"
    image = processing.generate(asked, save=True, name=name)[0]
    shared.finished_tasks.append(name)
    return image


def save_style(name: str, prompt: str, negative_prompt: str) -> str:
    """What the page's save button does."""
    styles.save(shared.cmd_opts.styles_file[0], name, prompt, negative_prompt)
    return ""


def apply_settings(text: str) -> str:
    """What `Apply settings` does."""
    for key, value in json.loads(text).items():
        shared.opts.set(key, value)
    shared.opts.save()
    return text


def create_ui() -> Any:
    """The whole page."""
    start = ui_settings(shared.cmd_opts.ui_config_file)
    with gradio.Blocks(analytics_enabled=False, title="Stable Diffusion") as demo:
        with gradio.Tab("txt2img"):
            prompt = gradio.Textbox(label="Prompt", elem_id="txt2img_prompt", value=start["txt2img/Prompt/value"])
            negative = gradio.Textbox(
                label="Negative prompt", elem_id="txt2img_neg_prompt", value=start["txt2img/Negative prompt/value"]
            )
            numbers = [
                gradio.Number(label=label, elem_id=f"txt2img_{name}", value=start[f"txt2img/{label}/value"])
                for label, name in (("Sampling steps", "steps"), ("Width", "width"), ("Height", "height"))
            ]
            seed = gradio.Number(label="Seed", elem_id="txt2img_seed", value=start["txt2img/Seed/value"])
            button = gradio.Button("Generate", elem_id="txt2img_generate")
            # Upstream's script fills it in, and asks /internal/progress for it.
            task = gradio.Textbox(elem_id="txt2img_id_task", visible=False)
            picture = gradio.Image(label="Output", elem_id="txt2img_gallery", type="pil")
            button.click(generate, inputs=[task, prompt, negative, *numbers, seed], outputs=picture)
            style = gradio.Textbox(label="Style", elem_id="txt2img_style_name")
            save = gradio.Button("Save style", elem_id="txt2img_style_create")
            save.click(save_style, inputs=[style, prompt, negative], outputs=style)
        with gradio.Tab("Settings"):
            text = gradio.Textbox(label="Changed settings", elem_id="settings_changed")
            apply = gradio.Button("Apply settings", elem_id="settings_submit")
            apply.click(apply_settings, inputs=text, outputs=text)
        gradio.HTML(f"version: v{release.VERSION}", elem_id="footer")
    return demo
