"""The engine as a careful person would start it by hand: a plain Python that loads the library and serves. No Bastide.

    python -I -S engine_by_hand.py PACKAGES_DIRECTORY CHILD_SCRIPT  < config.json

The flags are those of our own child script, so the builds and settings are the same; `-I -S` is the fastest way to
start Python, and weights lie in the page cache on both sides. Prints one line once it serves; ends when its input does.
"""

import importlib.util
import sys


def main() -> None:
    packages, script = sys.argv[1:]
    sys.path.append(packages)
    spec = importlib.util.spec_from_file_location("child", script)
    assert spec is not None and spec.loader is not None
    child = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(child)
    config = sys.stdin.readline()
    child.run(config, lambda: print("ready", flush=True), sys.stdin.read)


if __name__ == "__main__":
    main()
