"""What travels with checkpoints: models, their kernels, processors and the pipeline."""
