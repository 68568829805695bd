"""The part of the page on which a mask is painted."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

import gradio as gr
from PIL import Image

from oodgan.errors import UserError

SIDE = 512  # pixels of the canvas
LARGEST = 1_000_000  # characters of a painting; a full one has some thousands
_START = "data:image/png;base64,"
_MODES = [("limits the edit's mask", "multiply"), ("takes its place", "replace")]
_HELP = "Paint where the photo may change, then choose Use. The rest of the photo stays as it is."
_HTML = f"""
<div class="face" style="background-image: url(FACE)">
  <canvas width="{SIDE}" height="{SIDE}" role="img" aria-label="the face, to paint on"></canvas>
</div>
<div class="tools">
  <label>Brush <input class="size" type="range" min="4" max="120" value="40" aria-label="size of the brush"></label>
  <label><input class="erase" type="checkbox"> Erase</label>
  <button type="button" class="back">Undo stroke</button>
  <button type="button" class="clear">Clear</button>
</div>
"""
CSS = """
#canvas .face { width: 100%; max-width: 512px; aspect-ratio: 1; margin: auto; background-size: cover; }
#canvas canvas { width: 100%; height: 100%; display: block; opacity: 0.5; cursor: crosshair; touch-action: none; }
#canvas .tools { display: flex; flex-wrap: wrap; gap: 0.4rem 1rem; align-items: center; padding-top: 0.5rem; }
#canvas .tools label { display: flex; gap: 0.4rem; align-items: center; }
#canvas .tools button {
  padding: 0.2rem 0.7rem; font-size: 0.85rem; font-weight: normal; border-radius: 6px;
  background: var(--button-secondary-background-fill);
  border: 1px solid var(--border-color-primary); color: var(--body-text-color);
}
"""
# Painting needs no server: it is sent when `Use` is chosen. The canvas is replaced with every new face.
JS = """
  const surface = (target) => target.closest?.('#canvas')?.querySelector('canvas');
  const keep = (canvas) => {
    const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    canvas.past = [...(canvas.past || []).slice(-20), all];
  };
  const stroke = (canvas, event) => {
    const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
    const point = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const pen = canvas.getContext('2d'), panel = canvas.closest('#canvas');
    pen.globalCompositeOperation = panel.querySelector('.erase').checked ? 'destination-out' : 'source-over';
    pen.lineWidth = panel.querySelector('.size').value;
    pen.lineCap = pen.lineJoin = 'round';
    pen.strokeStyle = 'rgb(239, 68, 68)';
    pen.beginPath();
    pen.moveTo(...(canvas.last || point));
    pen.lineTo(...point);
    pen.stroke();
    canvas.last = point;
  };
  document.addEventListener('pointerdown', (event) => {
    if (event.button || !event.target.matches?.('#canvas canvas')) return;
    event.target.setPointerCapture(event.pointerId);
    keep(event.target);
    event.target.last = null;
    stroke(event.target, event);
  });
  document.addEventListener('pointermove', (event) => {
    if (event.buttons & 1 && event.target.last && event.target.matches?.('#canvas canvas')) stroke(event.target, event);
  });
  document.addEventListener('pointerup', (event) => { event.target.last = null; });
  document.addEventListener('click', (event) => {
    const canvas = surface(event.target);
    if (!canvas || !event.target.matches('.back, .clear')) return;
    const pen = canvas.getContext('2d');
    if (event.target.matches('.clear')) {
      keep(canvas);
      pen.clearRect(0, 0, canvas.width, canvas.height);
    } else if (canvas.past?.length) pen.putImageData(canvas.past.pop(), 0, 0);
  });
"""
_SENT = "(_, ...others) => [document.querySelector('#canvas canvas')?.toDataURL('image/png') || '', ...others]"


class Brush:
    """Canvas and buttons; made inside of the page's blocks."""

    def __init__(self) -> None:
        with gr.Accordion("My own mask", open=False):
            gr.Markdown(_HELP)
            self.canvas = gr.HTML("", elem_id="canvas")
            self.painting = gr.Textbox(visible=False)  # what `Use` sends
            self.mode = gr.Radio(_MODES, value="multiply", label="My mask", elem_id="own_mode")
            with gr.Row():
                self.use = gr.Button("Use", variant="primary", size="md", min_width=80, elem_id="use_mask")
                self.drop = gr.Button("Remove", size="md", min_width=80, elem_id="drop_mask")
                self.save = gr.Button("Save mask", size="md", min_width=80, elem_id="make_mask")

    def on_use(self, handler: Any, inputs: list[Any], outputs: list[Any], **how: Any) -> None:
        """Call `handler(painting, mode, *inputs)` for a click on `Use`."""
        self.use.click(handler, [self.painting, self.mode, *inputs], outputs, js=_SENT, **how)


def canvas(face: Image.Image) -> str:
    """A canvas with a face below it and nothing painted, as HTML."""
    buffer = io.BytesIO()
    face.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(buffer, "jpeg", quality=85)
    return _HTML.replace("FACE", f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")


def painted(painting: str) -> Image.Image:
    """What was painted, white on black, from the canvas's data URL. Raises UserError for anything else."""
    if not painting:
        return Image.new("L", (SIDE, SIDE))
    try:
        if not painting.startswith(_START) or len(painting) > LARGEST:
            raise ValueError("another format")
        image = Image.open(io.BytesIO(base64.b64decode(painting[len(_START) :], validate=True)), formats=["png"])
        if image.size != (SIDE, SIDE):
            raise ValueError("another size")
        return image.convert("RGBA").getchannel("A")
    except (ValueError, OSError, SyntaxError, binascii.Error) as error:
        raise UserError(f"the painted mask was not sent by this page: {error}") from error
