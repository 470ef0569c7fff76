"""True before measuring: models, GPUs, workloads, costs, and the types of what is measured. Never imports torch."""
