"""Run the uv beside this interpreter with the package sources that pip is configured with.

    .venv/bin/python deploy/run_uv.py pip install --no-deps -r deploy/requirements/gateway.txt

uv reads neither pip's configuration files nor its PIP_* variables. Index, find-links, constraints, certificates
and proxy are therefore read from `pip config list` and passed on in uv's variables, unless these are already set.
The variables: https://docs.astral.sh/uv/reference/environment/
"""

import ast
import math
import os
import subprocess
import sys

# Options of pip with one value, and the variables that pass it on.
SINGLE = {
    "index-url": ["UV_INDEX_URL"],
    "default-timeout": ["UV_HTTP_TIMEOUT"],
    "timeout": ["UV_HTTP_TIMEOUT"],
    "retries": ["UV_HTTP_RETRIES"],
    "cert": ["SSL_CERT_FILE"],
    "client-cert": ["SSL_CLIENT_CERT"],
    "proxy": ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"],
}
TIMEOUTS = ("default-timeout", "timeout")
# Options of pip with several values, the variable that passes them on, and what separates them there.
SEVERAL = {
    "extra-index-url": ("UV_EXTRA_INDEX_URL", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
}


def pip_options() -> dict[str, str]:
    """Return pip's options from its configuration files and PIP_* variables.

    Raises:
        subprocess.CalledProcessError: pip can't read its own configuration; it says why on stderr.
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return parse_pip_config(listed)


def parse_pip_config(listed: str) -> dict[str, str]:
    """Return the options in the output of `pip config list`: lines of `section.option='value'`.

    As in pip, the section of a command overrides the global one, and a variable overrides both.
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        key, separator, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if separator and section in sections:
            sections[section][option] = str(ast.literal_eval(value))
    return sections["global"] | sections["install"] | sections[":env:"]


def uv_environment(pip: dict[str, str], environment: dict[str, str]) -> dict[str, str]:
    """Return `environment` with pip's options in the variables of uv."""
    # pip takes the best match of all indexes, and trusts the system's certificates or those of two variables.
    passed = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_SYSTEM_CERTS": "true"}
    bundle = environment.get("REQUESTS_CA_BUNDLE") or environment.get("CURL_CA_BUNDLE")
    if bundle:
        passed["SSL_CERT_DIR" if os.path.isdir(bundle) else "SSL_CERT_FILE"] = bundle
    for option, variables in SINGLE.items():
        if option in pip:
            value = os.path.expanduser(pip[option])
            # uv takes whole seconds alone.
            value = str(math.ceil(float(value))) if option in TIMEOUTS else value
            passed |= dict.fromkeys(variables, value)
    for option, (variable, separator) in SEVERAL.items():
        if option in pip:
            passed[variable] = separator.join(map(os.path.expanduser, pip[option].split()))
    set_for_uv = {name: value for name, value in environment.items() if name.startswith("UV_")}
    return environment | passed | set_for_uv


def uv_flags(pip: dict[str, str]) -> list[str]:
    """Return the flags for pip's options that have no variable in uv."""
    return ["--no-index"] if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else []


def main() -> None:
    """Replace this process with uv."""
    pip = pip_options()
    uv = os.path.join(os.path.dirname(sys.executable), "uv")
    os.execve(uv, [uv, *sys.argv[1:], *uv_flags(pip)], uv_environment(pip, dict(os.environ)))


if __name__ == "__main__":
    main()
