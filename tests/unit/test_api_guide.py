"""API.md names every endpoint, and says of each whether it needs a key."""

import re

import pytest

from app.http.endpoints import ENDPOINTS
from tests.deployment import ROOT
from tests.unit.serving import serving
from tests.unit.test_metrics import counting

KEY = "sk-first-key"
TABLE = (ROOT / "API.md").read_text().split("## Endpoints\n")[1].split("## ")[0]
SAID = {
    endpoint: needed.strip(" |")
    for line in TABLE.splitlines()
    if line.startswith("| `")
    for *cells, needed in [line.rstrip(" |").split(" | ")]
    for endpoint in re.findall(r"`((?:GET|POST) [^`]+)`", " ".join(cells))
}
# What stands for a placeholder.
EXAMPLES = {"{role}": "embed", "{name}": "page.css", "{model}": "fake-embed"}


def routes() -> set[str]:
    """What the application answers, in the table's spelling."""
    found = {f"{row.method} {row.path}" for row in ENDPOINTS}
    return {re.sub(r"\{(\w+):\w+\}", r"{\1}", route).replace("{model_id}", "{model}") for route in found}


def test_every_endpoint_is_named_and_no_other():
    assert set(SAID) == routes()


@pytest.mark.parametrize("endpoint", sorted(SAID))
async def test_a_key_is_needed_where_it_is_said(endpoint):
    method, path = endpoint.split()
    for placeholder, example in EXAMPLES.items():
        path = path.replace(placeholder, example)
    api, _metrics = counting({"API_KEYS": KEY})
    async with serving(api):
        without = await api.http.request(method, path)
        with_key = await api.http.request(method, path, headers={"authorization": f"Bearer {KEY}"})
    assert (without.status_code == 401) == SAID[endpoint].startswith("needed")
    assert with_key.status_code not in {401, 404, 405}
