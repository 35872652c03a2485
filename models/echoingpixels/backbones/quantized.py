"""Bytes of quantized weights: stored, and temporary while tokens are multiplied by them.

Of bitsandbytes 0.50: NF4 in blocks of 64 with a float32 scale each, int8 with one a row.
"""

from __future__ import annotations

from torch import Tensor

BLOCK = 64  # weights that share a scale in NF4
CODES = 16 * 4  # bytes of NF4's table of values, which every weight has
REPACK = 7.5  # bytes a weight, once, on a CPU with AVX512-BF16: through int32 and several of int8
SUMS = 16  # bytes a result of int8 on a CPU, the result itself included: int32 and float32, step by step
ONE_BY_ONE = 4  # tokens that NF4 on CUDA multiplies without writing the weights out


def weight_bytes(rows: int, columns: int, quant: str, value: int) -> int:
    """Bytes of one matrix of weights as stored; `value`: bytes of one weight that is not quantized."""
    n = rows * columns
    if quant == "nf4":
        return (n + 1) // 2 + 4 * -(-n // BLOCK) + CODES
    return n + 4 * rows if quant == "int8" else n * value


def stored_bytes(weight: Tensor) -> int:
    """Bytes of a loaded weight with its scales."""
    state = getattr(weight, "quant_state", None)
    scales = [getattr(weight, "SCB", None), getattr(state, "absmax", None), getattr(state, "code", None)]
    return sum(part.numel() * part.element_size() for part in (weight, *scales) if part is not None)


def product_bytes(rows: int, columns: int, tokens: int, quant: str, value: int, cuda: bool) -> float:
    """Temporary bytes of multiplying (tokens, columns) by such a matrix, beside both and the result.

    NF4 writes the matrix out; a CPU with AVX512-BF16 packs it at its first use instead. int8 takes the tokens as
    float16 and int8, and its sums as int32.
    """
    n = rows * columns
    if quant == "nf4":
        return REPACK * n if not cuda else n * value if tokens > ONE_BY_ONE else 0
    if quant == "int8":
        return tokens * (3 * columns + (4 if cuda else SUMS - value) * rows)
    return 0
