"""Which pages may use the API and open a WebSocket. Most of it is tested in `test_authentication.py`."""

import pytest

from app.http.cors import cors, is_origin_allowed
from tests.unit.responses_serving import RESPONSES, responses_serving

ORIGIN = "https://app.example.com"


async def test_pages_may_delete():
    headers = {"origin": ORIGIN, "access-control-request-method": "DELETE"}
    async with responses_serving(settings={"CORS_ORIGINS": ORIGIN}) as api:
        answer = await api.http.options(f"{RESPONSES}/resp_1", headers=headers)
    assert answer.status_code == 204
    assert "DELETE" in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize(
    ("origin", "host", "origins", "expected"),
    [
        (None, "127.0.0.1:8200", (), True),
        (None, None, (), True),
        ("http://127.0.0.1:8200", "127.0.0.1:8200", (), True),
        ("https://API.example.com", "api.example.com", (), True),
        ("http://127.0.0.1:3000", "127.0.0.1:8200", (), False),
        ("https://evil.example", "127.0.0.1:8200", (), False),
        ("https://evil.example", "127.0.0.1:8200", (ORIGIN,), False),
        (f"{ORIGIN}.evil.example", "127.0.0.1:8200", (ORIGIN,), False),
        (ORIGIN, "127.0.0.1:8200", (ORIGIN,), True),
        (ORIGIN, "127.0.0.1:8200", ("*",), True),
        ("null", "127.0.0.1:8200", ("*",), True),
        ("null", "127.0.0.1:8200", (), False),
        ("null", "null", (), False),
        ("null", "", (), False),
        ("", "", (), False),
        ("http://127.0.0.1:8200", None, (), False),
    ],
)
def test_which_origins_may_open_a_socket(origin, host, origins, expected):
    assert is_origin_allowed(origin, host, cors(origins) if origins else None) is expected
