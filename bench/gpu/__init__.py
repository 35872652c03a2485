"""Everything worth knowing on a CUDA machine in ten minutes: `python -m bench.gpu`; on a CPU it runs small."""
