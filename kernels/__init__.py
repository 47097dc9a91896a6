"""The fused operations of a Mamba model, each with a reference, a fast plain PyTorch form and a Triton kernel."""
