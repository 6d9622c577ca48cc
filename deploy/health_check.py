"""Checks the health of a service on this machine, for containers, which have no curl.

    python health_check.py http://127.0.0.1:8200/health/ready

Standard library only. Exits with 0 if the status is 200, else with 1. If plain HTTP fails, the same address is
tried over https. The certificate is for the service's public name, not for this address, so it is not verified.
"""

import http.client
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def is_healthy(url: str) -> bool:
    """Whether a GET returns status 200, over http or else over https.

    Args:
        url: beginning with http://.
    """
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    # Without the environment's proxy, which can't reach this machine's own addresses.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unchecked)
    )
    for address in (url, url.replace("http://", "https://", 1)):
        try:
            with opener.open(address, timeout=TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            # An answer with another status.
            return False
        except (OSError, http.client.HTTPException) as error:
            print(f"{address}: {error}", file=sys.stderr)
    return False


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(0 if is_healthy(sys.argv[1]) else 1)
