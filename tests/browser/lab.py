"""What a reader does in JupyterLab: open a notebook, run all, press keys, look. Used by the tests beside it."""

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from browser.server import Server, until

SCREEN = {"width": 1280, "height": 1000}
# One look at the notebook in front: status of the kernel, and of each cell source, number, state and outputs.
LOOK = """() => {
    const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget;
    const kernel = panel && panel.sessionContext && panel.sessionContext.session && panel.sessionContext.session.kernel;
    if (!kernel || !panel.content || !panel.content.widgets) return null;
    const light = document.querySelector(".jp-Notebook-ExecutionIndicator");
    const plain = output => {
        const json = output.toJSON();
        const text = String(json.text || json.evalue || "");
        return {type: json.output_type, name: json.name || json.ename || "", text};
    };
    return {
        path: panel.context.path, ready: panel.context.isReady, kernel: kernel.status,
        light: light ? light.dataset.status : "",
        stars: [...document.querySelectorAll(".jp-InputPrompt")].filter(p => p.textContent.includes("*")).length,
        cells: panel.content.widgets.map((cell, index) => {
            const model = cell.model, outputs = model.outputs;
            return {
                index, type: model.type, source: model.sharedModel.getSource(), number: model.executionCount,
                outputs: outputs ? Array.from({length: outputs.length}, (_, i) => plain(outputs.get(i))) : [],
            };
        }),
    };
}"""
FORMS = """() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap(cell => {
    const outputs = cell.model.outputs, count = outputs ? outputs.length : 0;
    const data = Array.from({length: count}, (_, i) => outputs.get(i).toJSON().data || {});
    return data.filter(one => "application/vnd.jupyter.widget-view+json" in one && one["text/html"]).map(
        one => [one["text/html"]].flat().join(""));
})"""
PIXELS = """async images => {
    const seen = [];
    for (const image of images) {
        try { await image.decode(); } catch { return null; }  // replaced while we looked: look again
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext("2d").drawImage(image, 0, 0);
        const bytes = new TextEncoder().encode(canvas.toDataURL());
        const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
        seen.push([...hash.slice(0, 8)].map(b => b.toString(16).padStart(2, "0")).join(""));
    }
    return seen;
}"""

# Notes every element that calls itself from-data at the moment it is made, also one that is gone right after.
GUARD = """
    window.__made = [];
    const watch = () => new MutationObserver(changes => {
        for (const change of changes) for (const node of change.addedNodes) {
            if (node.nodeType !== Node.ELEMENT_NODE) continue;
            for (const found of [node, ...node.querySelectorAll("*")])
                if (found.matches(".from-data, #from-data")) window.__made.push(found.outerHTML.slice(0, 120));
        }
    }).observe(document, {childList: true, subtree: true});
    watch();
"""
# Pictures that fail do so in order: when one of ours has failed, those of the page before it have been tried.
SETTLED = """() => new Promise(done => {
    const image = new Image();
    image.onerror = () => requestAnimationFrame(() => requestAnimationFrame(() => done(true)));
    image.src = "data:image/png;base64,AA==";
})"""


@dataclass
class Lab:
    """A browser window on a server: writes notebooks into its folder, opens them, notes what the page does."""

    server: Server
    page: object
    shots: Path
    asked: list[str] = field(default_factory=list)  # addresses that are not the server's own
    dialogs: list[str] = field(default_factory=list)  # what alert(), confirm() and prompt() said

    def __post_init__(self):
        self.page.context.add_init_script(GUARD)
        self.page.context.on("request", self._note)
        self.page.context.on("dialog", self._answer)

    def _note(self, request) -> None:
        own = (self.server.url + "/", self.server.url.replace("http", "ws") + "/", "data:", "blob:", "about:")
        if not request.url.startswith(own):
            self.asked.append(request.url)

    def _answer(self, dialog) -> None:
        if dialog.type == "beforeunload":  # the page's own question about unsaved changes, when we leave it
            dialog.accept()
        else:
            self.dialogs.append(dialog.message)
            dialog.dismiss()

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells into the server's folder; returns its name."""
        import nbformat

        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.server.root / name)
        return name

    def open(self, name: str, limit: float = 60):
        """Open a notebook of the server's folder and wait for its idle kernel."""
        self.page.goto(f"{self.server.url}/lab/tree/{name}?reset")
        notebook = Notebook(self, name)
        until(notebook.is_open, limit, f"{name} is open with an idle kernel")
        return notebook

    def run(self, name: str, *cells: str, limit: float = 60):
        """Write a notebook, open it, run all cells, and see that none fails."""
        notebook = self.open(self.write(name, *cells))
        notebook.run_all()
        notebook.wait_until_idle(limit)
        assert not notebook.errors(), notebook.errors()
        return notebook

    def harm(self) -> dict:
        """What data did in the page: `hits`, `elements`, `requests` elsewhere, `dialogs`; empty when nothing."""
        self.page.evaluate(SETTLED)
        frames = [frame for frame in self.page.frames if not frame.is_detached()]
        hits = sum(frame.evaluate("window.__hit || 0") for frame in frames)
        made = [html for frame in frames for html in frame.evaluate("window.__made || []")]
        left = sum(frame.locator(".from-data, #from-data").count() for frame in frames)
        found = {"hits": hits, "elements": made or left, "requests": self.asked, "dialogs": self.dialogs}
        return {name: value for name, value in found.items() if value}

    def shot(self, name: str) -> Path:
        """A screenshot of the window, numbered in the order they are taken."""
        self.shots.mkdir(parents=True, exist_ok=True)
        file = (
            self.shots / f"{len(list(self.shots.glob('*.png'))) + 1:02d}_{re.sub('[^a-z0-9]+', '_', name.lower())}.png"
        )
        self.page.screenshot(path=file)
        return file


@dataclass
class Notebook:
    """A notebook in front of the window."""

    lab: Lab
    name: str

    @property
    def page(self):
        return self.lab.page

    def look(self) -> dict | None:
        """What stands in the notebook now: `kernel`, `light`, `cells`; None while there is none."""
        return self.page.evaluate(LOOK)

    def is_open(self) -> bool:
        """Whether this notebook is in front, with a kernel that waits for work."""
        now = self.look()
        return bool(now and now["ready"] and now["path"] == self.name and now["kernel"] == "idle" and now["cells"])

    def run_all(self) -> None:
        """Menu Run, Run All Cells; returns as soon as the first cell is marked."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        until(self._begun, 30, "the first cell starts")

    def _begun(self) -> bool:
        now = self.look()
        return now["stars"] > 0 or any(cell["number"] for cell in now["cells"])

    def is_idle(self) -> bool:
        """Whether all is done: a kernel and a light that are idle, no star, a number at every cell (or an error)."""
        now = self.look()
        if not now or now["kernel"] != "idle" or now["light"] != "idle" or now["stars"]:
            return False
        code = [cell for cell in now["cells"] if cell["type"] == "code" and cell["source"].strip()]
        failed = any(output["type"] == "error" for cell in code for output in cell["outputs"])
        return failed or all(cell["number"] for cell in code)

    def wait_until_idle(self, limit: float = 60) -> None:
        """Wait until Run All is done. Raises TimeoutError."""
        until(self.is_idle, limit, f"{self.name}: every cell has run")

    def errors(self) -> list[str]:
        """Error outputs and what went to stderr, one line each."""
        found = [(cell, output) for cell in self.look()["cells"] for output in cell["outputs"]]
        return [
            f"[{cell['number']}] {cell['source'][:60]!r}: {output['name']}: {output['text'][:300]}"
            for cell, output in found if output["type"] == "error" or output["name"] == "stderr"
        ]  # fmt: skip

    def html_forms(self) -> list[str]:
        """The text/html form of every output that is a live widget: what a reader without a kernel sees."""
        return self.page.evaluate(FORMS)

    def printed(self) -> str:
        """All that the cells printed."""
        return "".join(o["text"] for cell in self.look()["cells"] for o in cell["outputs"] if o["name"] == "stdout")

    def cells(self, needle: str) -> list["Cell"]:
        """Every code cell whose source contains `needle`."""
        found = [c["index"] for c in self.look()["cells"] if c["type"] == "code" and needle in c["source"]]
        every = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-cell")
        return [Cell(self, every.nth(index)) for index in found]

    def cell(self, needle: str) -> "Cell":
        """The only code cell whose source contains `needle`, scrolled into view."""
        found = self.cells(needle)
        assert len(found) == 1, f"{len(found)} code cells contain {needle!r}"
        found[0].here.scroll_into_view_if_needed()
        return found[0]


@dataclass
class Cell:
    """A code cell with its output and the controls in it."""

    notebook: Notebook
    here: object

    @property
    def output(self):
        """The output area of the cell."""
        return self.here.locator(".jp-Cell-outputArea").first

    def text(self) -> str:
        """The text of the output as it is read."""
        return self.output.inner_text()

    def pictures(self, limit: float = 20) -> list[str]:
        """A fingerprint of the pixels of each picture that stands in the output."""
        return until(lambda: self.output.locator("img:visible").evaluate_all(PIXELS), limit, "a picture stands")

    def control(self, name: str):
        """The control whose label begins with `name`."""
        return self.output.locator(".widget-label", has_text=re.compile(f"^{re.escape(name)}")).first.locator("..")

    def slider(self, name: str):
        """The handle of a slider, which takes the arrow keys."""
        return self.control(name).locator(".noUi-handle").first

    def select(self, name: str):
        """The list of a Dropdown or Select."""
        return self.control(name).locator("select")

    def field(self, name: str):
        """The input of a Text."""
        return self.control(name).locator("input")

    def button(self, name: str):
        """A button by its text."""
        return self.output.get_by_role("button", name=name)

    def read(self, name: str) -> str:
        """What a slider shows beside it."""
        return self.control(name).locator(".widget-readout").inner_text()

    @contextlib.contextmanager
    def changes(self, look, limit: float = 30, what: str = "the output changes"):
        """What is done inside must change what `look()` returns."""
        before = look()
        yield before
        until(lambda: look() != before, limit, what)
