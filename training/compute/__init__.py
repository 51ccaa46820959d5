"""How a training step is computed on a machine: device, kernels, optimizers, several processes."""
