"""JSON as the interpreter has it built in: the package around it takes longer to import than the agent may take to start.

The parts are the same that the package uses, so what is read and written is the same. Where an interpreter has them no
longer, or in another form, the package is taken.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself costs milliseconds while a user waits
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TRIAL = {"a": [1, 0.5, None, True, "\u00e9"], "b": {}}


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is no JSON")


def _json_parts() -> tuple[Callable[[str], Any], Callable[[Any], str]]:
    try:
        import _json

        class Reading:
            strict = True
            object_hook = object_pairs_hook = array_hook = None
            parse_float, parse_int, parse_constant = float, int, float

        scan = _json.make_scanner(Reading())  # type: ignore[arg-type]
        encode = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ": ", ", ", False, False, True)

        def loads(text: str) -> Any:
            try:
                value, end = scan(text, 0)
            except StopIteration:
                raise ValueError("this is no JSON") from None
            if text[end:].strip():
                raise ValueError("there is more behind the JSON")
            return value

        def dumps(value: Any) -> str:
            return "".join(encode(value, 0))

        if loads(dumps(_TRIAL)) == _TRIAL:
            return loads, dumps
    except Exception:
        pass
    import json

    return json.loads, json.dumps


loads, dumps = _json_parts()
