"""Memory planner: computes how much memory engines on one GPU or CPU need, before anything starts.

It is pure arithmetic on model shapes, and needs no vLLM, GPU or network. Each formula cites the module of vLLM
0.32.0 that it follows, or the measurements that it was fitted to.

    shapes.py     dimensions of a model, from its configuration and weights
    kv_cache.py   size of the KV cache per token, block and request
    parts.py      all other memory of an engine
    types.py      input and output of the planner
    sizes.py      context lengths and batch sizes to try, largest first
    planner.py    the plan
    advice.py     changes that make a plan fit
    shortage.py   the error message for a plan that does not fit
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
