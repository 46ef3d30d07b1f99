"""`/docs` and its assets, shipped with the package: centres have closed networks."""

from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from terascope.core.errors import NotFound

router = APIRouter(include_in_schema=False)
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The description of the whole API."""
    app = request.app
    if not hasattr(app.state, "openapi_bytes"):
        app.state.openapi_bytes = app.state.openapi()
    return Response(app.state.openapi_bytes, media_type="application/json")


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The API to read and try, in a browser."""
    root = request.scope.get("root_path", "")
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Terascope",
        swagger_js_url=f"{root}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/docs/swagger-ui.css",
        swagger_favicon_url=f"{root}/docs/favicon-32x32.png",
        swagger_ui_parameters={"validatorUrl": None},  # or the browser would send our address to a service of theirs
    )


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """One file of Swagger UI."""
    if name not in _ASSETS:
        raise NotFound(f"/docs has no file {name[:80]!r}")
    content = (files("fastapi_swagger") / "resources" / name).read_bytes()
    return Response(content, media_type=_ASSETS[name], headers={"cache-control": "max-age=86400"})
