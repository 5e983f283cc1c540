"""Fused attention with cuDNN, which never stores the matrix of scores (Dao et al., 2022).

TensorFlow has no operation for it. XLA, however, lowers certain custom calls to cuDNN: those that
JAX makes for `jax.nn.dot_product_attention(implementation="cudnn")`. TensorFlow can make the same
calls with `XlaCustomCallV2` and cuDNN's configuration as JSON. This works on NVIDIA GPUs of compute
capability 8.0 or higher, in half precision, in XLA-compiled functions.
"""

import json

import tensorflow as tf

from bigmodels import kernels
from bigmodels.distribute.upstream import xla_custom_call_v2

_ELEMENT_TYPES = {tf.bfloat16: "BF16", tf.float16: "F16"}
_LARGEST_HEAD = 128
# Added to the scores of masked keys, whose weights then are exactly zero. A larger number would
# absorb the scores, and cuDNN's gradient would be wrong where all keys are masked.
_HIDDEN = -(2.0**15)


def _dimensions(left, right):
    """The contracted and the batch axes of a product of `(batch, heads, ...)`."""
    batch_axes = ["0", "1"]
    return {
        "lhs_contracting_dimensions": [left],
        "rhs_contracting_dimensions": [right],
        "lhs_batch_dimensions": batch_axes,
        "rhs_batch_dimensions": batch_axes,
    }


_FORWARD = {
    "bmm1_dot_dimension_numbers": _dimensions("3", "3"),
    "bmm2_dot_dimension_numbers": _dimensions("3", "2"),
}
_BACKWARD = {
    "bmm1_grad_gemm1_dot_dimension_numbers": _dimensions("2", "2"),
    "bmm1_grad_gemm2_dot_dimension_numbers": _dimensions("3", "2"),
    "bmm2_grad_gemm1_dot_dimension_numbers": _dimensions("2", "2"),
    "bmm2_grad_gemm2_dot_dimension_numbers": _dimensions("3", "3"),
}


def obstacle(query: tf.Tensor, key: tf.Tensor, seen: tf.Tensor | None = None) -> str | None:
    """Say why `attention` cannot be used for some inputs, if so.

    Args:
        query: As for `attention`.
        key: As for `attention`.
        seen: As for `attention`.

    Returns:
        The reason, or `None` if it can be used.

    Example:

    >>> obstacle(tf.zeros((1, 2, 4, 8)), tf.zeros((1, 2, 4, 8)))
    'not compiled by XLA'
    """
    if not kernels.in_xla():
        return "not compiled by XLA"
    if kernels.compute_capability() < (8, 0):
        return "no GPU of compute capability 8.0"
    if query.dtype not in _ELEMENT_TYPES or key.dtype != query.dtype:
        return f"computes in {query.dtype.name}"
    if not (query.shape.is_fully_defined() and key.shape.is_fully_defined()):
        return "the batch size is not known"
    if query.shape[-1] % 8 or query.shape[-1] > _LARGEST_HEAD:
        return f"key_dim={query.shape[-1]}"
    if seen is not None and (query.shape[2] % 2 or key.shape[2] % 2):
        return "an odd length with a mask"
    return None


def attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    causal: bool = False,
    seen: tf.Tensor | None = None,
) -> tf.Tensor:
    """Scaled dot-product attention by cuDNN; only where `obstacle` returns `None`.

    A query whose keys are all masked attends to all keys (with `causal`, to those before it).

    Args:
        query: `(batch, heads, length, dim)` in bfloat16 or float16, already scaled; `dim` is a
            multiple of 8, at most 128.
        key: `(batch, heads, key_length, dim)`.
        value: `(batch, heads, key_length, dim)`.
        causal: Whether query i attends only to the keys 0 to i.
        seen: Attention mask, bool, broadcastable to `(batch, heads, length, key_length)`, true
            where a query attends to a key; with it, lengths must be even.

    Returns:
        `(batch, heads, length, dim)`; it has a first derivative with respect to `query`, `key` and
        `value`.
    """
    scores = (*query.shape[:3], key.shape[2])
    masks = []
    if seen is not None:
        while seen.shape.rank < 4:
            seen = seen[..., None, :, :]
        # Axes of size 1 are allowed for batch and heads, but not for the lengths.
        shape = tf.concat([tf.shape(seen)[:2], scores[2:]], 0)
        mask = tf.where(seen, 0.0, _HIDDEN)
        mask = tf.broadcast_to(mask, shape)
        mask.set_shape((*seen.shape[:2], *scores[2:]))
        masks = [tf.cast(mask, query.dtype)]
    target = f"__cudnn$fmha{'ScaleBias' if masks else ''}Softmax"

    def configured(dimensions):
        return _configuration(scores, query.dtype, causal, dimensions)

    @tf.custom_gradient
    def attend(query, key, value):
        outputs, normalisers = _call(
            target,
            [query, key, value, *masks],
            [(query.shape, query.dtype), (query.shape[:3], tf.float32)],
            configured(_FORWARD),
        )

        def gradient(upstream):
            return _call(
                f"{target}Backward",
                [query, key, value, normalisers, upstream, *masks, outputs],
                [(tensor.shape, tensor.dtype) for tensor in (query, key, value)],
                configured(_BACKWARD),
            )

        return outputs, gradient

    return attend(query, key, value)


def _call(target, operands, results, configuration):
    """Make a custom call; `results` are the shapes and dtypes of its results."""
    # The last result is cuDNN's workspace, whose size XLA determines.
    results = [*results, ((0,), tf.uint8)]
    return xla_custom_call_v2(
        operands=operands,
        call_target_name=target,
        backend_config=configuration,
        has_side_effect=False,
        result_dtypes=[dtype for _, dtype in results],
        result_shapes=[list(shape) for shape, _ in results],
    )[:-1]


def _configuration(scores, dtype, causal, dimensions):
    """XLA's `GpuBackendConfig` as JSON, with the same fields as from JAX."""
    layout = {
        "dim_level_types": [],
        "dim_unique": [],
        "dim_ordered": [],
        "minor_to_major": ["3", "2", "1", "0"],
        "tiles": [],
        "element_size_in_bits": "0",
        "memory_space": "0",
        "index_primitive_type": "PRIMITIVE_TYPE_INVALID",
        "pointer_primitive_type": "PRIMITIVE_TYPE_INVALID",
        "dynamic_shape_metadata_prefix_bytes": "0",
    }
    attention = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": 1.0,
        "intermediate_tensor_shape": {
            "element_type": _ELEMENT_TYPES[dtype],
            "dimensions": [str(size) for size in scores],
            "tuple_shapes": [],
            "layout": layout,
            "is_dynamic_dimension": [False] * 4,
        },
        "is_flash_attention": True,
        "mask_type": "CAUSAL" if causal else "NO_MASK",
        **dimensions,
        "dropout_rate": 0.0,
        "seed": 42,
        "sliding_window_length": 0,
        "max_seg_per_batch": 1,
        "is_paged_attention": False,
    }
    return json.dumps(
        {
            "operation_queue_id": "0",
            "wait_on_operation_queues": [],
            "cudnn_fmha_backend_config": attention,
        }
    )
