"""What runs inside every box, by path and with nothing but the standard library. Nothing of Bastide is imported there."""

DIRECTORY = __file__.rpartition("/")[0]  # no os, no pathlib: a user may wait while this is imported
SHOWN_AT = "/run/bastide/inside"  # where a box sees this directory


def arguments(program: tuple[str, ...]) -> tuple[str, ...]:
    """How the agent is started in a box, by the Python that `program` begins: its path, or a loader and what that needs."""
    return (
        *program,
        "-I",
        "-S",
        "-c",
        "import sys; sys.path.insert(0, '/run/bastide'); from inside import agent; agent.main()",
    )
