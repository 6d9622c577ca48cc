"""Services over fake engines, all on one folder."""

from pathlib import Path

from tests.processes import ROOT, ServiceProcess


class Services:
    """Services on one folder, with fake engines."""

    def __init__(self, folder: Path) -> None:
        self._environment = {
            "PYTHONPATH": str(ROOT),
            "EMBED_BACKEND": "tests.integration.batches.engine.factory",
            "GEN_BACKEND": "off",
            "MEMORIA_DATA_DIR": str(folder / "data"),
            "ENGINE_JOURNAL": str(folder / "journal"),
            "METRICS": "false",
            "REQUEST_LOG": "false",
        }
        self._journal = folder / "journal"
        self._started: list[ServiceProcess] = []

    def start(self) -> ServiceProcess:
        service = ServiceProcess(self._environment)
        self._started.append(service)
        service.wait_until_ready()
        return service

    def computed(self, word: str) -> list[str]:
        """The inputs with a word that engines have computed, in all services."""
        return [text for text in self._journal.read_text().splitlines() if text.startswith(word)]

    def end(self) -> None:
        for service in self._started:
            service.end()
