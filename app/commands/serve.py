"""The command `memoria serve`: binds the port, builds the application and serves, in one process or several."""

import asyncio

from app import api_processes
from app.bootstrap import build_app, build_service
from app.commands.console import Console
from app.http import server
from app.http.authentication import build_api_keys
from app.http.tls import require_pair
from app.settings import Settings
from app.store import build_files, build_stores


def run(settings: Settings, console: Console) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code.

    Raises:
        ConfigurationError: a setting names something that does not exist or can't work here.
    """
    api_processes.require_gateway(settings)
    require_pair(settings.security)
    # Before any slow step, so that a port in use is reported immediately.
    with server.bind(settings.host, settings.port) as listener:
        _warn_if_open(settings, console)
        asyncio.run(_check_store(settings))
        scheme = "https" if settings.security.tls_cert_file is not None else "http"
        address = f"{scheme}://{settings.host}:{listener.getsockname()[1]}/v1"
        if settings.api_processes == 1:
            with console.progress() as progress:
                app = build_app(settings, progress=progress, on_change=console.health_changed)
            console.say(f"Listening on {address} ({_engines(settings)} starting)")
            return server.serve(app, listener, settings, on_drain=app.drain)
        with console.progress() as progress:
            # Each API process builds its own application; building here reports configuration errors once.
            build_api_keys(settings)
            build_service(settings, progress=progress)
        console.say(f"Listening on {address} ({_engines(settings)} starting)")
        with api_processes.share(listener) as shared:
            return api_processes.serve(settings, shared)


async def _check_store(settings: Settings) -> None:
    """Open the database and the folder of files once, so that a mistake is reported before any slow step.

    Raises:
        ConfigurationError: it can't be used.
    """
    stores = build_stores(settings.state)
    if stores is not None:
        try:
            await stores.state.start()
            files = build_files(stores, settings.files, settings.state)
            await files.start()
            await files.stop()
        finally:
            await stores.state.stop()


def _warn_if_open(settings: Settings, console: Console) -> None:
    security = settings.security
    has_keys = bool(security.api_keys) or security.api_keys_file is not None
    if not has_keys and not server.is_loopback(settings.host):
        console.warn(
            f"HOST is {settings.host}: anyone who can reach this machine can use the models without an API key. "
            "Set API_KEYS to require one."
        )


def _engines(settings: Settings) -> str:
    """Subject and verb for a sentence about all engines."""
    count = len(settings.roles)
    return {1: "the engine is", 2: "both engines are"}.get(count, f"{count} engines are")
