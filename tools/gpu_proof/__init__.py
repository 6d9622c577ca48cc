"""`deploy/gpu_proof.py`: proves on a GPU that both engines fit as planned, and how fast they are."""
