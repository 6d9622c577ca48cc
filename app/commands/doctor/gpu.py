"""Checks the GPU: its driver, its compute capability, and its memory."""

from collections.abc import Mapping

from app.commands.doctor.finding import Finding, failure, ok, warning
from domain.memory_plan import Card
from domain.roles import ROLES, Role
from domain.units import GIB, size

Capability = tuple[int, int]

# Minimum driver by major version of CUDA. Source: NVIDIA, "CUDA Compatibility", table of minor version
# compatibility.
MIN_DRIVER = {12: 525, 13: 580}
# Minimum compute capability by major version of CUDA. Source: NVIDIA's release notes of CUDA 13.0.
MIN_CAPABILITY: dict[int, Capability] = {13: (7, 5)}


def check_card(
    card: Card | None, *, driver: str | None, flavor: str, cuda: int | None, has_engine: bool
) -> list[Finding]:
    """Check whether engines of this install can use the GPU.

    Args:
        card: the first GPU, or None.
        driver: version of NVIDIA's driver, or None if unknown.
        flavor: cpu, gpu or gateway.
        cuda: major version of CUDA that this install was built for.
        has_engine: whether any engine runs in process.
    """
    if not has_engine:
        return [ok("gpu", "not needed: no engine runs in process")]
    if flavor != "gpu":
        if card is None:
            return [ok("gpu", "none; engines run on the CPU")]
        return [
            warning(
                "gpu",
                f"{card.name} is present, but this install runs on the CPU",
                "Use the GPU: make serve INSTALL=gpu",
            )
        ]
    if card is None:
        return [
            failure(
                "gpu",
                "this install needs an NVIDIA GPU, but nvidia-smi shows none",
                "Load NVIDIA's driver (in a container: pass the GPU through), check CUDA_VISIBLE_DEVICES, or use "
                "the CPU: make serve INSTALL=cpu",
            )
        ]
    return [_check_driver(driver or "unknown", cuda), _check_capability(card, cuda)]


def _check_driver(driver: str, cuda: int | None) -> Finding:
    needed = MIN_DRIVER.get(cuda or 0)
    major = driver.split(".")[0]
    if needed is not None and major.isdigit() and int(major) < needed:
        return failure(
            "driver",
            f"driver {driver}, but this install's CUDA {cuda} needs {needed} or newer",
            f"Install NVIDIA's driver {needed} or newer, and load it (usually by rebooting)",
        )
    return ok("driver", f"driver {driver}")


def _check_capability(card: Card, cuda: int | None) -> Finding:
    needed = MIN_CAPABILITY.get(cuda or 0)
    have = card.capability_number
    if have is None:
        return warning(
            "gpu", f"{card.name} does not report its compute capability", "Install a newer driver, then rerun"
        )
    if needed is not None and have < needed:
        return failure(
            "gpu",
            f"{card.name} has compute capability {card.capability}, but this install's CUDA {cuda} "
            f"needs {dotted(needed)}",
            "Use a newer GPU, or the CPU: make serve INSTALL=cpu",
        )
    description = f"{card.name}, {size(card.total_bytes)}, compute capability {card.capability}"
    return ok("gpu", description)


def check_gpu_memory(
    card: Card, shares: Mapping[Role, float], weights: Mapping[Role, int | None]
) -> list[Finding]:
    """Check whether the GPU has the memory that engines request; vLLM does not start with less free memory.

    Args:
        card: the GPU.
        shares: by role, the share of the GPU's memory that the engine will request.
        weights: by role, size of the weights in bytes, or None if unknown.
    """
    found: list[Finding] = []
    wanted = sum(shares.values()) * card.total_bytes
    settings = " and ".join(f"VLLM_{ROLES[role].prefix}_GPU_MEMORY" for role in shares)
    if sum(shares.values()) > 1:
        found.append(
            failure(
                "gpu memory",
                f"the engines request {size(wanted)}, but the GPU has {size(card.total_bytes)}",
                f"Lower {settings}",
            )
        )
    elif wanted > card.free_bytes:
        found.append(
            failure(
                "gpu memory",
                f"the engines request {size(wanted)}, {size(card.free_bytes)} of {size(card.total_bytes)} free",
                f"See which processes use the GPU (nvidia-smi), or lower {settings}",
            )
        )
    for role, share in shares.items():
        have, need = share * card.total_bytes, weights.get(role)
        if need is not None and need > have:
            found.append(
                failure(
                    "gpu memory",
                    f"the {role} model's weights take {size(need)}, but its engine gets {size(have)}",
                    f"Raise its share ({settings}), or choose a smaller or quantized model",
                )
            )
    if found:
        return found
    return [ok("gpu memory", f"{size(wanted)} for the engines, {card.free_bytes / GIB:.1f} GiB free")]


def dotted(capability: Capability) -> str:
    """A compute capability as NVIDIA writes it, such as 7.5."""
    return f"{capability[0]}.{capability[1]}"
