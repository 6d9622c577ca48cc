"""The numbers of a model's weights: whether what engines run on can compute with them."""

from app.commands.doctor.finding import Finding, failure, ok, warning
from app.commands.doctor.gpu import Capability, dotted
from domain.memory_plan import Card

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

# What vLLM computes with in float32, the service's own choice on the CPU.
# Source: `get_supported_act_dtypes` of the same; a test compares them.
FLOAT32 = {"compressed-tensors", "torchao"}


def check_numbers_on_card(check: str, config: dict[str, object], card: Card) -> Finding | None:
    """Whether the card can compute with the numbers of a model; None if there is nothing to say.

    Args:
        check: what to call it.
        config: the model's config.json.
        card: the card; without a known capability there is nothing to say.
    """
    capability = card.capability_number
    if capability is None:
        return None
    method, have = quantization(config), card.capability
    if method is None:
        if config.get("dtype", config.get("torch_dtype")) == "bfloat16" and capability < BF16:
            return warning(
                check,
                f"bfloat16 weights, which need compute capability 8.0 (here {have}): vLLM takes float16",
                "Some models overflow in float16. Look at the answers, or use a newer card",
            )
        return None
    needed = OLDEST_CARD_FOR.get(method)
    if needed is not None and capability < needed:
        return failure(
            check,
            f"{method} weights need compute capability {dotted(needed)}, and {card.name} has {have}",
            "Use another form of the model, or a newer card",
        )
    if "fp8" in method and capability < NATIVE_FP8:
        return warning(
            check,
            f"{method} weights on compute capability {have}: they save memory, but the card computes in 16 bits "
            "(natively from 8.9)",
            "Nothing has to be done; a newer card would be faster",
        )
    return ok(check, f"{method} weights, compute capability {have}")


def quantization(config: dict[str, object]) -> str | None:
    """How a model's weights are stored, or None for plain numbers."""
    found = config.get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    return method if isinstance(method, str) else None


def check_numbers_on_cpu(
    check: str, config: dict[str, object], *, flags: list[str], variable: str
) -> Finding | None:
    """Whether engines on the CPU take a model's numbers; None if there is nothing to say.

    Args:
        check: what to call it.
        config: the model's config.json.
        flags: the engine's flags.
        variable: that carries the flags.
    """
    method = quantization(config)
    if method is None or method in FLOAT32 or any(flag.split("=")[0] == "--dtype" for flag in flags):
        return None
    return failure(
        check,
        f"{method} weights, with which vLLM does not compute in float32, the default on the CPU",
        f"Choose a model that is not quantised, or set {variable} to --dtype bfloat16",
    )
