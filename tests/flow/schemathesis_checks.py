"""What must hold for every answer of a gateway, besides what schemathesis checks by itself; it imports this file."""

import schemathesis


@schemathesis.check  # type: ignore[untyped-decorator]
def errors_are_in_shape(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Every error is OpenAI's object with the request's id; every answer has one."""
    request_id = response.headers["x-request-id"][0]
    assert request_id.startswith("req_")
    if response.status_code < 400 or case.path == "/ready":
        return
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param", "request_id"}
    assert error["request_id"] == request_id
    assert error["message"]
    assert error["code"]
    assert error["type"].endswith("_error")
