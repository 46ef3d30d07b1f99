"""The ASGI app: routes, middleware, docs."""
