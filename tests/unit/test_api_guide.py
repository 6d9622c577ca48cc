"""The table of endpoints in API.md matches the code, and endpoints require keys as documented."""

import re
from collections.abc import AsyncGenerator

import pytest

from app.http.endpoints import ENDPOINTS
from app.http.parameters import endpoint_table
from tests.deployment import ROOT
from tests.unit.serving import Api, serving
from tests.unit.test_metrics import counting

KEY = "sk-first-key"
TABLE = (ROOT / "API.md").read_text().split("<!-- endpoints -->\n")[1].split("<!-- end of endpoints -->")[0]
SAID = {
    endpoint: needed.strip(" |")
    for line in TABLE.splitlines()
    if line.startswith("| `")
    for *cells, needed in [line.rstrip(" |").split(" | ")]
    for endpoint in re.findall(r"^\| `((?:GET|POST|DELETE) [^`]+)`", cells[0])
}
# Values of placeholders.
EXAMPLES = {"{role}": "embed", "{name}": "page.css", "{model}": "fake-embed"}


def test_the_guide_names_exactly_the_endpoints():
    assert set(SAID) == {f"{row.method} {row.public_path}" for row in ENDPOINTS}


def test_the_table_matches_the_code():
    assert endpoint_table(ENDPOINTS) == TABLE, "python -m app.http.parameters prints the table"


@pytest.fixture(scope="module")
async def guarded() -> AsyncGenerator[Api, None]:
    """The service with an API key and metrics."""
    api, _metrics = counting({"API_KEYS": KEY})
    async with serving(api):
        yield api


@pytest.mark.parametrize("endpoint", sorted(SAID))
async def test_a_key_is_required_as_documented(guarded, endpoint):
    method, path = endpoint.split()
    for placeholder, example in EXAMPLES.items():
        path = path.replace(placeholder, example)
    without = await guarded.http.request(method, path)
    with_key = await guarded.http.request(method, path, headers={"authorization": f"Bearer {KEY}"})
    assert (without.status_code == 401) == SAID[endpoint].startswith("needed")
    assert with_key.status_code not in {401, 405}
    # What is stored is looked up, and not found.
    is_looked_up = path.startswith(("/v1/responses/", "/v1/conversations/", "/v1/files/", "/v1/batches/"))
    assert with_key.status_code != 404 or (is_looked_up and "not found" in with_key.json()["error"]["message"])
