"""vLLM's executors, owned: unpickling one of these classes in an engine process binds it to its parent.

This is the first code of ours that runs there, before the engine does anything of its own.
"""

import os

from vllm.v1.executor import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from adapters.vllm.inprocess.engine_log import send_output_to_owner
from adapters.vllm.inprocess.owner import bind_to_owner, give_way, is_owned

if is_owned():
    bind_to_owner()
    give_way()
    send_output_to_owner()


OWN_BINDING = {"VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_NUM_OF_RESERVED_CPU"}
"""vLLM's variables for threads on the CPU. Whoever sets one wants vLLM's arrangement, with a worker process."""


class OwnedMultiprocExecutor(MultiprocExecutor):
    """Engine core and workers in processes of their own, on several GPUs."""


class OwnedUniProcExecutor(UniProcExecutor):
    """The worker inside the engine core's process: the usual case on one GPU, and here on the CPU too.

    vLLM gives the CPU a worker process of its own because OpenMP has to be told of its threads before it is
    loaded; so it is, by `engine_args.prepare_environment`, before engine processes start. One process less imports
    the world at the start, and no process spins for a whole core while it waits for the other.
    """


def owned(executor: type[Executor], *, on_cpu: bool, workers: int) -> type[Executor]:
    """The owned form of an executor class; any other class as it is, with the plugin as its only tie.

    Args:
        executor: what vLLM chose.
        on_cpu: whether the engine computes on the CPU.
        workers: how many processes or cards share the model.
    """
    if on_cpu and workers == 1 and executor is MultiprocExecutor and not os.environ.keys() & OWN_BINDING:
        return OwnedUniProcExecutor
    return {MultiprocExecutor: OwnedMultiprocExecutor, UniProcExecutor: OwnedUniProcExecutor}.get(
        executor, executor
    )
