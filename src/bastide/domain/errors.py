"""The one tree of errors. Each leaf has a code, an HTTP status, whose fault it is and whether a retry helps.

    BastideError
    ├── CallerError            the caller must change something (4xx)
    │   ├── InvalidRequest         400  invalid_request
    │   ├── InvalidSpec            400  invalid_spec            (carries every problem, with its line)
    │   ├── Unauthenticated        401  invalid_api_key
    │   ├── Forbidden              403  forbidden
    │   ├── NotFound               404  not_found
    │   │   └── ModelNotFound      404  model_not_found         (lists those that exist)
    │   ├── Conflict               409  conflict
    │   ├── TooLarge               413  request_too_large
    │   ├── RateLimited            429  rate_limit_exceeded     (retry helps, after retry_after_s)
    │   ├── BudgetExceeded         429  insufficient_quota
    │   └── QueueFull              429  queue_full              (retry helps)
    ├── PlatformError          Bastide or its machine can't right now (5xx)
    │   ├── Unavailable            503  unavailable             (retry helps)
    │   ├── HoldTimeout            503  wake_timeout            (retry helps)
    │   ├── NoRoom                 503  no_room                 (retry helps: something may give way)
    │   ├── Unsupported            501  unsupported
    │   └── InternalError          500  internal_error
    └── EngineError            the engine failed (5xx)
        ├── EngineStartFailed      503  engine_start_failed     (with its last lines)
        │   └── StateLost          503  engine_start_failed     (what was kept can't be brought back: it starts anew)
        ├── EngineLost             502  engine_lost             (retry helps)
        └── EngineGarbage          502  engine_garbage

On the wire an error has OpenAI's shape: {"error": {"message", "type", "param", "code"}}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class BastideError(Exception):
    """The root. `message` says what happened, why, and what to do next."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"  # OpenAI's `type`
    retry_helps: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def wire(self) -> dict[str, object]:
        """The error as OpenAI's clients read it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class CallerError(BastideError):
    status, kind = 400, "invalid_request_error"


class InvalidRequest(CallerError):
    code = "invalid_request"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file the user wrote: where (1-based line, 0 for the whole file), what, and what to do."""

    line: int
    where: str
    message: str

    def __str__(self) -> str:
        at = f"line {self.line}: " if self.line else ""
        return f"{at}{self.where}: {self.message}" if self.where else f"{at}{self.message}"


class InvalidSpec(CallerError):
    code = "invalid_spec"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems

    def wire(self) -> dict[str, object]:
        body = super().wire()
        error = body["error"]
        assert isinstance(error, dict)
        error["problems"] = [{"line": p.line, "where": p.where, "message": p.message} for p in self.problems]
        return body


class Unauthenticated(CallerError):
    code, status, kind = "invalid_api_key", 401, "authentication_error"


class Forbidden(CallerError):
    code, status, kind = "forbidden", 403, "permission_error"


class NotFound(CallerError):
    code, status = "not_found", 404


class ModelNotFound(NotFound):
    code = "model_not_found"


class Conflict(CallerError):
    code, status = "conflict", 409


class TooLarge(CallerError):
    code, status = "request_too_large", 413


class RateLimited(CallerError):
    code, status, kind, retry_helps = "rate_limit_exceeded", 429, "rate_limit_error", True


class BudgetExceeded(CallerError):
    code, status, kind = "insufficient_quota", 429, "insufficient_quota"


class QueueFull(CallerError):
    code, status, kind, retry_helps = "queue_full", 429, "rate_limit_error", True


class PlatformError(BastideError):
    status, kind = 503, "server_error"


class Unavailable(PlatformError):
    code, retry_helps = "unavailable", True


class HoldTimeout(PlatformError):
    code, retry_helps = "wake_timeout", True


class NoRoom(PlatformError):
    code, retry_helps = "no_room", True


class Unsupported(PlatformError):
    code, status = "unsupported", 501


class InternalError(PlatformError):
    code, status = "internal_error", 500


class EngineError(BastideError):
    status, kind = 502, "engine_error"


class EngineStartFailed(EngineError):
    code, status = "engine_start_failed", 503


class StateLost(EngineStartFailed):
    retry_helps = True


class EngineLost(EngineError):
    code, retry_helps = "engine_lost", True


class EngineGarbage(EngineError):
    code = "engine_garbage"


def error_types() -> dict[str, type[BastideError]]:
    """Every leaf and branch by its code, for clients that turn wire errors back into exceptions."""
    found: dict[str, type[BastideError]] = {}
    waiting: list[type[BastideError]] = [BastideError]
    while waiting:
        branch = waiting.pop()
        found.setdefault(branch.code, branch)
        waiting.extend(branch.__subclasses__())
    return found
