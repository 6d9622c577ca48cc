"""The card: whether engines can use it, and whether it can compute with a model's numbers."""

import msgspec

from app.doctor.finding import GIB, Finding, failure, ok, size, warning

Capability = tuple[int, int]

# From what driver on a version of CUDA runs. Source: NVIDIA, "CUDA Compatibility", table of minor version
# compatibility.
OLDEST_DRIVER = {12: 525, 13: 580}
# What code for a version of CUDA can be compiled for. Source: NVIDIA's release notes of CUDA 13.0.
OLDEST_CARD: dict[int, Capability] = {13: (7, 5)}
# From what card on vLLM accepts a way of storing weights, by `quant_method` in config.json.
# Source: `get_min_capability` of vllm.model_executor.layers.quantization (0.32.0); a test compares them.
OLDEST_CARD_FOR: dict[str, Capability] = {
    "auto_awq": (7, 5),
    "auto_gptq": (6, 0),
    "awq": (7, 5),
    "awq_marlin": (7, 5),
    "compressed-tensors": (7, 0),
    "experts_int8": (8, 0),
    "fbgemm_fp8": (8, 0),
    "fp8": (7, 5),
    "fp_quant": (10, 0),
    "gptq": (6, 0),
    "gptq_marlin": (6, 0),
    "modelopt": (8, 0),
    "modelopt_fp4": (7, 5),
    "moe_wna16": (7, 0),
    "mxfp4": (8, 0),
    "quark": (7, 0),
    "torchao": (7, 5),
}
# From here on a card multiplies FP8 numbers itself; before, Marlin unpacks the weights to 16 bits, which saves
# memory all the same. Source: `supports_fp8` in vllm.platforms.cuda, `is_fp8_marlin_supported` (0.32.0).
NATIVE_FP8: Capability = (8, 9)
BF16: Capability = (8, 0)


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """An NVIDIA GPU."""

    name: str
    driver: str
    capability: Capability | None
    """None if the driver is too old to tell."""
    total_bytes: int
    free_bytes: int


def check_card(card: Card | None, *, flavour: str, cuda: int | None, has_engine: bool) -> list[Finding]:
    """Whether there is a card that engines of this install can use.

    Args:
        card: the first one, or None.
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
                "Load NVIDIA's driver (in a container: give it the GPU), or take the CPU: make serve INSTALL=cpu",
            )
        ]
    return [_check_driver(card, cuda), _check_age(card, cuda)]


def _check_driver(card: Card, cuda: int | None) -> Finding:
    needed = OLDEST_DRIVER.get(cuda or 0)
    major = card.driver.split(".")[0]
    if needed is not None and major.isdigit() and int(major) < needed:
        return failure(
            "driver",
            f"driver {card.driver}, and CUDA {cuda} of this install needs {needed} or newer",
            f"Install NVIDIA's driver {needed} or newer, and load it (mostly: reboot)",
        )
    return ok("driver", f"driver {card.driver}")


def _check_age(card: Card, cuda: int | None) -> Finding:
    needed = OLDEST_CARD.get(cuda or 0)
    if card.capability is None:
        return warning(
            "gpu", f"{card.name} does not tell its compute capability", "Install a newer driver, then look again"
        )
    if needed is not None and card.capability < needed:
        return failure(
            "gpu",
            f"{card.name} has compute capability {_dotted(card.capability)}, and CUDA {cuda} of this install "
            f"needs {_dotted(needed)}",
            "Use a newer card, or compute on the CPU: make serve INSTALL=cpu",
        )
    what = f"{card.name}, {size(card.total_bytes)}, compute capability {_dotted(card.capability)}"
    return ok("gpu", what)


def check_numbers(check: str, config: dict[str, object], card: Card) -> Finding | None:
    """Whether the card can compute with the numbers of a model; None if there is nothing to say.

    Args:
        check: what to call it.
        config: the model's config.json.
        card: the card, which tells its capability or nothing is said.
    """
    if card.capability is None:
        return None
    method, have = quantisation(config), _dotted(card.capability)
    if method is None:
        if config.get("dtype", config.get("torch_dtype")) == "bfloat16" and card.capability < BF16:
            return warning(
                check,
                f"bfloat16 weights, which need compute capability 8.0 (here {have}): vLLM takes float16",
                "Some models overflow in float16. Look at the answers, or use a newer card",
            )
        return None
    needed = OLDEST_CARD_FOR.get(method)
    if needed is not None and card.capability < needed:
        return failure(
            check,
            f"{method} weights need compute capability {_dotted(needed)}, and {card.name} has {have}",
            "Use another form of the model, or a newer card",
        )
    if "fp8" in method and card.capability < NATIVE_FP8:
        return warning(
            check,
            f"{method} weights on compute capability {have}: they save memory, but the card computes in 16 bits "
            "(natively from 8.9)",
            "Nothing has to be done; a newer card would be faster",
        )
    return ok(check, f"{method} weights, compute capability {have}")


def quantisation(config: dict[str, object]) -> str | None:
    """How a model's weights are stored, or None for plain numbers."""
    found = config.get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    return method if isinstance(method, str) else None


def check_gpu_memory(card: Card, shares: dict[str, float], weights: dict[str, int | None]) -> list[Finding]:
    """Whether what engines ask for is there. vLLM refuses to start with less than its share free.

    Args:
        card: the card.
        shares: by role, the share of the card that its engine will ask for.
        weights: by role, bytes of its weights, or None if not known.
    """
    found: list[Finding] = []
    wanted = sum(shares.values()) * card.total_bytes
    settings = "VLLM_EMBED_GPU_MEMORY and VLLM_GEN_GPU_MEMORY"
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


def _dotted(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"
