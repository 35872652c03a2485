"""Training a sieve, and a decoder with it: distillation, LoRA, QLoRA and full fine-tuning."""
