"""Making a model smaller: pruning, distillation, quantization."""
