"""Ask a service on this machine how it is: the health check of a container, which has no curl.

    python health_check.py http://127.0.0.1:8200/health/ready

Standard library only. Ends with 0 if the answer is 200, else with 1. Where the service speaks TLS the same address
is asked over https. The certificate is for the service's public name, and this is a question to itself: it is not
checked.
"""

import http.client
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def answers(url: str) -> bool:
    """Whether a GET is answered with status 200, over http or else over https.

    Args:
        url: beginning with http://.
    """
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    # No proxy of the environment: it does not know this machine's own addresses.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unchecked)
    )
    for address in (url, url.replace("http://", "https://", 1)):
        try:
            with opener.open(address, timeout=TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            # An answer, and not the one that is hoped for.
            return False
        except (OSError, http.client.HTTPException) as error:
            print(f"{address}: {error}", file=sys.stderr)
    return False


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(0 if answers(sys.argv[1]) else 1)
