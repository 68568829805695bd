"""How the page looks, and what it says to screen readers."""

from __future__ import annotations

import html

import gradio as gr

from oodgan.app import brush

DROP = "Drop a photo to begin."
WHOLE, CROP = "Whole photo", "Aligned crop"
KINDS = {WHOLE: "pasted", CROP: "result"}
"""What can be downloaded -> the image of an edit."""

CSS = (
    brush.CSS
    + """
.gradio-container { width: 100% !important; max-width: 1360px !important; margin: auto; }
#compare { aspect-ratio: 1; }
#views { display: grid !important; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 0.5rem; }
#views > * { min-width: 0 !important; }
#views label { font-size: 0.7rem; padding: 0 0.3em; }
#views label svg, #views label > span { display: none; }
.pair { gap: 0.25rem !important; }
.pair .column { gap: 0 !important; }
.pair input[type=number] {
  width: 4em !important; min-width: 0 !important; padding: 0 0.2em !important; appearance: textfield;
}
.pair input[type=number]::-webkit-inner-spin-button { appearance: none; }
.pair .head { flex-wrap: nowrap; }
.pair .head .tab-like-container { flex: none; }
.pair .head label span { font-size: 0.75rem; padding: 0 0.35em; }
.pair button.auto {
  width: auto; min-width: 0; align-self: flex-end; margin: 0 1rem 0.4rem 0; padding: 0 0.9em; font-size: 0.75rem;
}
#status { min-height: 1.6em; }
#status .trouble { color: #b91c1c; font-weight: 600; }
.dark #status .trouble { color: #fca5a5; }
:focus-visible { outline: 3px solid #6366f1 !important; outline-offset: 1px; }
@media (max-width: 900px) {
  #controls { display: contents; }
  #photo_controls { order: 0; }
  #pictures { order: 1; }
  #edit_controls { order: 2; }
}
"""
)

# What gradio draws without a name of its own gets one, also in an accordion that is opened later.
JS = (
    """
() => {
  const name = (element, text) => element && element.getAttribute('aria-label') !== text
    && (element.setAttribute('aria-label', text), element.setAttribute('title', text));
  const label = () => {
    for (const box of document.querySelectorAll('[id^=edit_], [id^=mask_]'))
      name(box.querySelector('.reset-button'), `Reset ${box.querySelector('label span')?.innerText.trim()}`);
    for (const button of document.querySelectorAll('[id^=auto_]'))
      name(button, `Choose the strength of ${button.id.slice(5).replaceAll('_', ' ')}`);
    document.querySelectorAll('#compare img').forEach((image, i) => { image.alt = i ? 'after' : 'before'; });
    const status = document.querySelector('#status');
    if (status && !status.hasAttribute('aria-live')) status.setAttribute('aria-live', 'polite');
  };
  label();
  let waiting = false;
  new MutationObserver(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; label(); });
  }).observe(document.body, { childList: true, subtree: true });
"""
    + brush.JS
    + "}"
)


def trouble(error: Exception | str) -> str:
    """An error as HTML of the status line."""
    return f'<span class="trouble">{html.escape(str(error))}</span>'


def theme() -> gr.themes.Base:
    """The page's colours and fonts. Fonts given by name are local fonts of the machine: none is downloaded."""
    return gr.themes.Soft(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["monospace"])
