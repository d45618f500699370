"""The extra `bastide[sim]` is loaded by `bastide sim` alone, and said by name where it is missing."""

from __future__ import annotations

import subprocess
import sys


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_command_and_what_runs_do_not_load_it() -> None:
    ended = python(
        "import sys, bastide.wiring.main, bastide.wiring.up, bastide.wiring.process, bastide.policy.keepalive, bastide.policy.affinity;"
        "print(sorted({'numpy', 'duckdb'} & set(sys.modules)))"
    )
    assert ended.stdout.strip() == "[]", ended.stderr


def test_without_it_the_command_says_what_to_install() -> None:
    ended = python(
        "import sys; sys.modules['duckdb'] = None; sys.argv = ['bastide', 'sim', 'evaluate', 'E1', '--data', '.'];"
        "from bastide.wiring.main import main; main()"
    )
    assert ended.returncode != 0
    assert "pip install 'bastide[sim]'" in ended.stderr
