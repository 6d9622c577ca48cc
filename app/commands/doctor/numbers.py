"""Checks the data type and quantization of a model's weights: whether the device supports them."""

from app.commands.doctor.finding import Finding, failure, ok, warning
from app.commands.doctor.gpu import Capability, dotted
from domain.memory_plan import Card

# Minimum compute capability by quantization method (`quant_method` in config.json).
# Source: `get_min_capability` of vllm.model_executor.layers.quantization (0.32.0); a test compares them.
MIN_CAPABILITY_OF: dict[str, Capability] = {
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
# From this capability on a GPU multiplies FP8 natively; below it, Marlin unpacks the weights to 16 bits, which
# still saves memory. Source: `supports_fp8` in vllm.platforms.cuda, `is_fp8_marlin_supported` (0.32.0).
NATIVE_FP8: Capability = (8, 9)
BF16: Capability = (8, 0)

# Quantization methods that vLLM supports in float32, the service's default on the CPU.
# Source: `get_supported_act_dtypes` of the same package; a test compares them.
FLOAT32 = {"compressed-tensors", "torchao"}


def check_numbers_on_card(check: str, config: dict[str, object], card: Card) -> Finding | None:
    """Check whether the GPU supports a model's weights; None if there is nothing to report.

    Args:
        check: name of the check.
        config: the model's config.json.
        card: the GPU; nothing is reported if its capability is unknown.
    """
    capability = card.capability_number
    if capability is None:
        return None
    method, have = quantization(config), card.capability
    if method is None:
        if config.get("dtype", config.get("torch_dtype")) == "bfloat16" and capability < BF16:
            return warning(
                check,
                f"bfloat16 weights, which need compute capability 8.0 (here {have}): vLLM uses float16",
                "Some models overflow in float16. Check the answers, or use a newer GPU",
            )
        return None
    needed = MIN_CAPABILITY_OF.get(method)
    if needed is not None and capability < needed:
        return failure(
            check,
            f"{method} weights need compute capability {dotted(needed)}, but {card.name} has {have}",
            "Use another quantization of the model, or a newer GPU",
        )
    if "fp8" in method and capability < NATIVE_FP8:
        return warning(
            check,
            f"{method} weights on compute capability {have}: they save memory, but the GPU computes in 16 bits "
            "(natively from 8.9)",
            "No action needed; a newer GPU would be faster",
        )
    return ok(check, f"{method} weights, compute capability {have}")


def quantization(config: dict[str, object]) -> str | None:
    """The quantization method of a model, or None if it is not quantized."""
    found = config.get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    return method if isinstance(method, str) else None


def check_numbers_on_cpu(
    check: str, config: dict[str, object], *, flags: list[str], variable: str
) -> Finding | None:
    """Check whether engines on the CPU support a model's weights; None if there is nothing to report.

    Args:
        check: name of the check.
        config: the model's config.json.
        flags: the engine's flags.
        variable: the setting that contains the flags.
    """
    method = quantization(config)
    if method is None or method in FLOAT32 or any(flag.split("=")[0] == "--dtype" for flag in flags):
        return None
    return failure(
        check,
        f"{method} weights, which vLLM does not support in float32, the default on the CPU",
        f"Choose a model that is not quantized, or set {variable} to --dtype bfloat16",
    )
