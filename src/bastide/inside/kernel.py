"""An interpreter that remembers: reads code as JSON lines, says what it printed, what it showed and whether it failed."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import sys
import traceback
from typing import Any

_SAY = os.dup(1)
_REPRESENTATIONS = {
    "text/html": "_repr_html_", "text/markdown": "_repr_markdown_", "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_", "image/jpeg": "_repr_jpeg_", "text/latex": "_repr_latex_",
    "application/json": "_repr_json_",
}  # fmt: skip


_question = 0  # which one is being answered; what comes late must not be taken for the next one's


def say(**words: Any) -> None:
    # Half a character can be printed, but not sent.
    data = json.dumps({"n": _question, **words}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    while data:
        data = data[os.write(_SAY, data) :]


class Stream(io.TextIOBase):
    def __init__(self, name: str) -> None:
        self.stream = name

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for start in range(0, len(text), 65536):
            say(kernel="out", stream=self.stream, text=text[start : start + 65536])
        return len(text)


def shown(value: Any) -> dict[str, str]:
    found = {"text/plain": repr(value)}
    for kind, name in _REPRESENTATIONS.items():
        try:
            made = getattr(value, name)() if hasattr(value, name) else None
        except Exception:
            continue
        if isinstance(made, bytes):
            made = base64.b64encode(made).decode()
        elif made is not None and not isinstance(made, str):
            made = json.dumps(made)
        if made is not None:
            found[kind] = made
    return found


def display(*values: Any) -> None:
    """Show values as results, as the last expression is."""
    for value in values:
        say(kernel="result", data=shown(value))


def figures() -> None:
    """Open matplotlib figures are results too."""
    plotting = sys.modules.get("matplotlib.pyplot")
    if plotting is None:
        return
    for number in plotting.get_fignums():
        image = io.BytesIO()
        plotting.figure(number).savefig(image, format="png")
        say(kernel="result", data={"image/png": base64.b64encode(image.getvalue()).decode()})
    plotting.close("all")


def run(code: str, names: dict[str, Any]) -> None:
    tree = ast.parse(code, "<code>", "exec")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<code>", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "<code>", "eval"), names)
        if value is not None:
            names["_"] = value
            display(value)
    figures()


def main() -> None:
    global _question
    names: dict[str, Any] = {"__name__": "__main__", "display": display}
    os.environ.setdefault("MPLBACKEND", "agg")
    # Programs that the code starts write to standard output themselves: it comes through as it is.
    sys.stdout, sys.stderr = Stream("stdout"), Stream("stderr")
    for line in io.TextIOWrapper(io.FileIO(0), encoding="utf-8"):
        error = None
        asked = json.loads(line)
        _question = asked["n"]
        try:
            run(asked["code"], names)
        except SystemExit as end:
            error = {"name": "SystemExit", "value": str(end.code), "traceback": []}
        except BaseException as failure:
            error = {
                "name": type(failure).__name__,
                "value": str(failure),
                "traceback": traceback.format_exception(failure)[0:1] + traceback.format_exception(failure)[2:],
            }
        say(kernel="end", ok=error is None, error=error)


if __name__ == "__main__":
    main()
