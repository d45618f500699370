"""The names things go by. Owns the identifier types and their grammar; makes no identifiers (that needs chance)."""

from __future__ import annotations

import re
from typing import NewType

ProjectName = NewType("ProjectName", str)
ServiceName = NewType("ServiceName", str)
InstanceId = NewType("InstanceId", str)
NodeId = NewType("NodeId", str)
KeyId = NewType("KeyId", str)
EventId = NewType("EventId", str)

DEFAULT_PROJECT = ProjectName("default")

# A name must fit in a host name, a file name and a metric label alike (RFC 1123 label).
NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
NAME_RULE = "1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit"


def is_name(text: str) -> bool:
    """Whether `text` may name a project, a service or a secret."""
    return NAME_PATTERN.fullmatch(text) is not None


def instance_id(project: str, service: str, generation: int, index: int) -> InstanceId:
    """The identifier of slot `index` of a service generation; the same inputs always give the same identifier."""
    return InstanceId(f"{project}.{service}.{generation}.{index}")
