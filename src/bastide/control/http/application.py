"""The control API as one application: routes, errors in OpenAI's shape, the OpenAPI document."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bastide import __version__
from bastide.control.http import apps, keys, services, whole
from bastide.control.state import Control
from bastide.domain.errors import BastideError, InternalError, InvalidRequest, NotFound


def application(control: Control) -> FastAPI:
    """The ASGI application. It serves on a Unix socket; the gateway passes `/api/v1` on to it."""
    app = FastAPI(
        title="Bastide",
        version=__version__,
        description="Control of one Bastide location: services, keys, secrets, usage. "
        "Every call needs `Authorization: Bearer KEY`.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.state.control = control
    app.include_router(services.router)
    app.include_router(apps.router)
    app.include_router(keys.router)
    app.include_router(whole.router)
    app.include_router(whole.bare)

    @app.exception_handler(BastideError)
    async def ours(request: Request, error: BastideError) -> JSONResponse:
        return _answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "model_attributes_type" and "json" not in request.headers.get("content-type", ""):
            return _answer(
                InvalidRequest("the body must be JSON, and say so: send the header content-type: application/json")
            )
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _answer(InvalidRequest(f"{where}: {first['msg']}" if where else str(first["msg"]), param=where or None))

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return _answer(NotFound(f"there is nothing at {request.url.path}; /openapi.json lists what there is"))
        wrapped = InvalidRequest(str(error.detail))
        return JSONResponse(wrapped.wire(), status_code=error.status_code)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:
        return _answer(InternalError(f"a fault in Bastide itself: {type(error).__name__}; its log has the details"))

    return app


def _answer(error: BastideError) -> JSONResponse:
    headers = {"retry-after": str(max(1, round(error.retry_after_s)))} if error.retry_after_s is not None else None
    return JSONResponse(error.wire(), status_code=error.status, headers=headers)
