"""Defines executor classes that bind an engine process to its parent when they are unpickled there.

This is the first code of this service that runs in an engine process, before the engine initializes.
"""

import os

from vllm.v1.executor import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from adapters.vllm.inprocess.engine_log import send_output_to_owner
from adapters.vllm.inprocess.owner import bind_to_owner, is_owned, lower_priority

if is_owned():
    bind_to_owner()
    lower_priority()
    send_output_to_owner()


THREAD_BINDING_VARIABLES = {"VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_NUM_OF_RESERVED_CPU"}
"""vLLM's variables for CPU threads. If one is set, vLLM's own executor with a worker process is used."""


class OwnedMultiprocExecutor(MultiprocExecutor):
    """Runs engine core and workers in separate processes, on several GPUs."""


class OwnedUniProcExecutor(UniProcExecutor):
    """Runs the worker in the engine core's process: vLLM's default on one GPU, used here on the CPU too.

    vLLM uses a separate worker process on the CPU because OpenMP's threads must be configured before it is loaded.
    Here `engine_args.prepare_environment` configures them before engine processes start. That saves one process's
    imports, and no process occupies a core by spinning while it waits for the other.
    """


def owned_executor(executor: type[Executor], *, on_cpu: bool, workers: int) -> type[Executor]:
    """The variant of an executor class that binds its process; other classes are returned unchanged.

    Unchanged classes are bound by the plugin only.

    Args:
        executor: the class that vLLM selected.
        on_cpu: whether the engine runs on the CPU.
        workers: number of processes or GPUs that share the model.
    """
    if (
        on_cpu
        and workers == 1
        and executor is MultiprocExecutor
        and not os.environ.keys() & THREAD_BINDING_VARIABLES
    ):
        return OwnedUniProcExecutor
    return {MultiprocExecutor: OwnedMultiprocExecutor, UniProcExecutor: OwnedUniProcExecutor}.get(
        executor, executor
    )
