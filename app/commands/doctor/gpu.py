"""The card: whether engines can use it, and whether it can compute with a model's numbers."""

from collections.abc import Mapping

from app.commands.doctor.finding import Finding, failure, ok, warning
from domain.memory_plan import Card
from domain.roles import ROLES, Role
from domain.units import GIB, size

Capability = tuple[int, int]

# From what driver on a version of CUDA runs. Source: NVIDIA, "CUDA Compatibility", table of minor version
# compatibility.
OLDEST_DRIVER = {12: 525, 13: 580}
# What code for a version of CUDA can be compiled for. Source: NVIDIA's release notes of CUDA 13.0.
OLDEST_CARD: dict[int, Capability] = {13: (7, 5)}


def check_card(
    card: Card | None, *, driver: str | None, flavour: str, cuda: int | None, has_engine: bool
) -> list[Finding]:
    """Whether there is a card that engines of this install can use.

    Args:
        card: the first one, or None.
        driver: version of NVIDIA's driver, or None if it is not known.
        flavour: cpu, gpu or gateway.
        cuda: version of CUDA that this install was built for, its first number.
        has_engine: whether an engine runs in process at all.
    """
    if not has_engine:
        return [ok("gpu", "not needed: no engine runs in process")]
    if flavour != "gpu":
        if card is None:
            return [ok("gpu", "none; engines compute on the CPU")]
        return [
            warning(
                "gpu",
                f"{card.name} is there, and this install computes on the CPU",
                "Use the card: make serve INSTALL=gpu",
            )
        ]
    if card is None:
        return [
            failure(
                "gpu",
                "this install needs an NVIDIA GPU, and nvidia-smi shows none",
                "Load NVIDIA's driver (in a container: give it the GPU), look what CUDA_VISIBLE_DEVICES hides, or "
                "take the CPU: make serve INSTALL=cpu",
            )
        ]
    return [_check_driver(driver or "unknown", cuda), _check_age(card, cuda)]


def _check_driver(driver: str, cuda: int | None) -> Finding:
    needed = OLDEST_DRIVER.get(cuda or 0)
    major = driver.split(".")[0]
    if needed is not None and major.isdigit() and int(major) < needed:
        return failure(
            "driver",
            f"driver {driver}, and CUDA {cuda} of this install needs {needed} or newer",
            f"Install NVIDIA's driver {needed} or newer, and load it (mostly: reboot)",
        )
    return ok("driver", f"driver {driver}")


def _check_age(card: Card, cuda: int | None) -> Finding:
    needed = OLDEST_CARD.get(cuda or 0)
    have = card.capability_number
    if have is None:
        return warning(
            "gpu", f"{card.name} does not tell its compute capability", "Install a newer driver, then look again"
        )
    if needed is not None and have < needed:
        return failure(
            "gpu",
            f"{card.name} has compute capability {card.capability}, and CUDA {cuda} of this install "
            f"needs {dotted(needed)}",
            "Use a newer card, or compute on the CPU: make serve INSTALL=cpu",
        )
    what = f"{card.name}, {size(card.total_bytes)}, compute capability {card.capability}"
    return ok("gpu", what)


def check_gpu_memory(
    card: Card, shares: Mapping[Role, float], weights: Mapping[Role, int | None]
) -> list[Finding]:
    """Whether what engines ask for is there. vLLM refuses to start with less than its share free.

    Args:
        card: the card.
        shares: by role, the share of the card that its engine will ask for.
        weights: by role, bytes of its weights, or None if not known.
    """
    found: list[Finding] = []
    wanted = sum(shares.values()) * card.total_bytes
    settings = " and ".join(f"VLLM_{ROLES[role].prefix}_GPU_MEMORY" for role in shares)
    if sum(shares.values()) > 1:
        found.append(
            failure(
                "gpu memory",
                f"the engines ask for {size(wanted)}, and the card has {size(card.total_bytes)}",
                f"Lower {settings}",
            )
        )
    elif wanted > card.free_bytes:
        found.append(
            failure(
                "gpu memory",
                f"the engines ask for {size(wanted)}, {size(card.free_bytes)} of {size(card.total_bytes)} free",
                f"See who uses the card (nvidia-smi), or lower {settings}",
            )
        )
    for role, share in shares.items():
        have, need = share * card.total_bytes, weights.get(role)
        if need is not None and need > have:
            found.append(
                failure(
                    "gpu memory",
                    f"the {role} model's weights take {size(need)}, and its engine gets {size(have)}",
                    f"Raise its share ({settings}), or choose a smaller or quantised model",
                )
            )
    if found:
        return found
    return [ok("gpu memory", f"{size(wanted)} for the engines, {card.free_bytes / GIB:.1f} GiB free")]


def dotted(capability: Capability) -> str:
    """As NVIDIA writes it."""
    return f"{capability[0]}.{capability[1]}"
