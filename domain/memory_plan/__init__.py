"""What engines need of one card (or of a machine's memory), worked out before anything starts.

Pure arithmetic on the shapes of models: no vLLM, no card and no network here. Each formula names the module of
vLLM 0.32.0 that it follows, or the measurements that it was fitted to.

    shapes.py     what a model's configuration and weights say
    kv_cache.py   bytes of the key/value cache: for a token, a block, a request
    parts.py      everything else that an engine holds
    types.py      what engines require, and what is planned
    sizes.py      the lengths and batches to try, the most generous first
    planner.py    the plan
    advice.py     what to change if it does not fit
    shortage.py   what is missing if it does not fit, as a sentence
"""

from domain.memory_plan.kv_cache import UnknownCacheError
from domain.memory_plan.planner import make_plan
from domain.memory_plan.shapes import ModelShape
from domain.memory_plan.shortage import shortage
from domain.memory_plan.types import Card, EnginePlan, EngineRequirements, GpuBudget, MemoryPlan

__all__ = [
    "Card",
    "EnginePlan",
    "EngineRequirements",
    "GpuBudget",
    "MemoryPlan",
    "ModelShape",
    "UnknownCacheError",
    "make_plan",
    "shortage",
]
