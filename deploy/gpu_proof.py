"""Prove on a GPU that both engines fit as planned, and how fast they are: one script that needs no model hub.

Makes the Qwen3 pair in its real shapes without weights, starts the service on them with vLLM's dummy weights,
compares planned with measured memory in several settings, kills an engine, compares the speed with two of vLLM's
own servers, and writes report.json and report.md. Ends what it started, and ends by itself.

    python deploy/gpu_proof.py --output docs/gpu-proof      on a GPU; nothing of this project has to be installed
    python deploy/gpu_proof.py --shape tiny                 the same on a CPU, with two tiny models, to try it

Ends with 0 if all fits and every request was answered, 1 if not, and 2 if there is nothing to prove it on.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.gpu_proof.command import main  # The checkout has to be found first.

if __name__ == "__main__":
    sys.exit(main())
