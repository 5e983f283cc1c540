"""Estimate the arithmetic, memory and time of a training before it starts."""

import dataclasses
import math
import time
from typing import Any

import keras
import tensorflow as tf

from bigmodels import kernels

# The share of the rate of large matrix products that a training typically reaches (measured by
# `tools/bench training`).
_SHARE = 0.4
_PRODUCT = 1024
_CONVOLUTIONS = tuple(
    kind + way
    for kind in ("Conv2D", "DepthwiseConv2dNative")
    for way in ("", "BackpropInput", "BackpropFilter")
)
_PRODUCTS = ("MatMul", "BatchMatMulV2", "Einsum", *_CONVOLUTIONS)


@dataclasses.dataclass(frozen=True)
class Step:
    """The estimated cost of a data-parallel training step.

    Attributes:
        compute: Seconds of arithmetic on each replica.
        exchange: Seconds of the all-reduce of gradients. A step takes between the larger of
            `compute` and `exchange` and their sum, depending on how far they overlap.
        state: Bytes of weights, gradients and optimizer state on each replica.

    Example:

    >>> Step(compute=0.5, exchange=0.2, state=16e9).exchange
    0.2
    """

    compute: float
    exchange: float
    state: float


def data_parallel_step(
    parameters: float,
    tokens: float,
    replicas: int,
    *,
    layers: int,
    width: int,
    length: int,
    flops_per_second: float = 400e12,
    bytes_per_second: float = 50e9,
    gradient_bytes: float = 2,
    state_bytes: float = 16,
) -> Step:
    """Estimate a data-parallel training step of a decoder-only Transformer.

    The arithmetic is `6 N + 12 layers width length` floating-point operations per token, without
    savings by the causal mask (Chowdhery et al., 2022, PaLM, appendix B). A ring all-reduce sends
    and receives `2 (R - 1) / R` times the gradients (Patarasu and Yuan, 2009). Adam in mixed
    precision needs 16 bytes per parameter: weight and gradient in half precision, weight and two
    moments in float32 (Rajbhandari et al., 2020, ZeRO, section 3.1).

    Args:
        parameters: `N`, number of weights.
        tokens: Tokens per step on each replica.
        replicas: `R`, number of GPUs.
        layers: Number of Transformer blocks.
        width: Width of the embedding.
        length: Length of a sequence in tokens.
        flops_per_second: Arithmetic of a replica; by default 40% of an H100's 989e12 in bfloat16.
        bytes_per_second: Bandwidth of the slowest link of the ring; by default 400 Gbit/s.
        gradient_bytes: Bytes per gradient that are sent.
        state_bytes: Bytes per parameter, with gradient and optimizer state.

    Returns:
        A `Step`.

    Raises:
        ValueError: naming the argument that is not positive.

    Example:

    >>> step = data_parallel_step(7e9, 8192, 64, layers=32, width=4096, length=4096)
    >>> print(f"{step.compute:.2f} s, {step.exchange:.2f} s, {step.state / 1e9:.0f} GB")
    0.99 s, 0.55 s, 112 GB
    """
    for name, value in {"parameters": parameters, "tokens": tokens, "replicas": replicas}.items():
        if value < 1:
            raise ValueError(f"{name}: {value!r}, expected a positive number")
    flops = tokens * (6 * parameters + 12 * layers * width * length)
    sent = 2 * (replicas - 1) / replicas * gradient_bytes * parameters
    return Step(flops / flops_per_second, sent / bytes_per_second, state_bytes * parameters)


def training(model: keras.Model, batches: tf.data.Dataset, replicas: int = 1) -> dict[str, float]:
    """Estimate what it takes to train a model.

    Args:
        model: A model of this package, compiled and built outside the scope of a strategy.
        batches: A `tf.data.Dataset`; only the shapes of its first batch matter.
        replicas: Number of replicas that share a batch.

    Returns:
        A dict: `parameters`; `flops_per_step`, the floating-point operations of matrix products and
        convolutions of a global batch, forward and backward; `memory_per_replica`, an upper bound
        in bytes for weights, gradients, optimizer state and activations; `seconds_per_step`, at 40%
        of the rate at which this machine multiplies large matrices.

    Example:

    >>> model = bigmodels.models.CNN(10, filters=(4,))
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> model.build((None, 12, 12, 1))
    >>> model.optimizer.build(model.trainable_variables)
    >>> batches = tf.data.Dataset.from_tensors((tf.zeros((8, 12, 12, 1)), tf.zeros(8, "int32")))
    >>> training(model, batches)["parameters"] == model.count_params()
    True
    """
    batch = next(iter(batches))
    specs = tf.nest.map_structure(
        lambda x: tf.TensorSpec((-(-len(x) // replicas), *x.shape[1:]), x.dtype), batch
    )
    called_with = specs[0] if isinstance(specs, tuple) else specs
    inputs = tf.nest.flatten(specs)[0]
    if hasattr(model, "latent_dim"):  # A GAN is trained on images, but called with noise.
        called_with = tf.TensorSpec((inputs.shape[0], model.latent_dim), "float32")
    steps = model.time_steps(inputs.shape)
    flops, _ = _counted(model.train_step, specs, steps)
    forward, activations = _counted(lambda x: model(x, training=False), called_with, steps)
    # Products of sizes known only at run time (in the LSTM's loops) are missing from `flops`. The
    # forward pass has none of these, and each of its products leads to two more for the gradients.
    if all(layer.trainable for layer in model._flatten_layers()):
        flops = max(flops, 3 * forward)
    variables = {id(v): v for v in model.variables}
    variables |= {id(v): v for optimizer in model.optimizers for v in optimizer.variables}
    stored = [*variables.values(), *model.trainable_variables]  # The latter for the gradients.
    return {
        "parameters": model.count_params(),
        "flops_per_step": flops * replicas,
        "memory_per_replica": activations + sum(math.prod(v.shape) * 4 for v in stored),
        "seconds_per_step": flops * replicas / (_SHARE * product_rate()),
    }


def largest_batch(model: keras.Model, batch: Any) -> int:
    """Find a batch size that fits in memory, by halving one that does not.

    Args:
        model: A compiled model; its weights are updated by the step that fits.
        batch: A batch as `fit` takes it, in host memory.

    Returns:
        The largest of half the batch, a quarter, ... with which a training step succeeds; 0 if none
        does.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> largest_batch(model, (tf.ones((8, 3)), tf.ones((8, 1))))
    4
    """
    rows = tf.shape(tf.nest.flatten(batch)[0])[0].numpy()
    while rows := rows // 2:
        part = tf.nest.map_structure(lambda x, rows=rows: x[:rows], batch)
        try:
            model.train_on_batch(*(part if isinstance(part, tuple) else (part,)))
        except tf.errors.ResourceExhaustedError:
            continue
        return int(rows)
    return 0


def _counted(function, spec, steps):
    """Floating-point operations, and bytes of all results, of a function's graph."""
    graph = tf.function(function, autograph=False).get_concrete_function(spec).graph
    needed = _needed(graph)
    graph = graph.as_graph_def(add_shapes=True)
    bodies = {f.signature.name: f.node_def for f in graph.library.function}

    def count(nodes):
        shapes = {node.name: _shapes(node) for node in nodes}
        flops = size = 0
        for node in nodes:
            inner, times = None, 1
            if node.op in ("StatefulPartitionedCall", "PartitionedCall"):
                inner = bodies.get(node.attr["f"].func.name)
            elif node.op in ("While", "StatelessWhile"):
                inner, times = bodies.get(node.attr["body"].func.name), steps
            if inner:
                inner_flops, inner_size = count(inner)
                flops, size = flops + times * inner_flops, size + times * inner_size
            flops += _products(node, shapes)
            size += sum(4 * math.prod(shape) for shape in shapes[node.name])
        return flops, size

    return count([node for node in graph.node if node.name in needed])


def _needed(graph):
    """Names of the operations that a graph's outputs depend on; the others do not run."""
    names, pending = set(), [tensor.op for tensor in graph.outputs] + graph.control_outputs
    while pending:
        operation = pending.pop()
        if operation.name not in names:
            names.add(operation.name)
            pending += [tensor.op for tensor in operation.inputs] + operation.control_inputs
    return names


def _shapes(node):
    """Shapes of a node's results, as far as known."""
    shapes = node.attr["_output_shapes"].list.shape
    return [[max(d.size, 1) for d in shape.dim] for shape in shapes if not shape.unknown_rank]


def _products(node, shapes):
    """Operations of a matrix product: two per element of the result and summand."""
    if node.op not in _PRODUCTS or not shapes[node.name]:
        return 0
    first, second, *third = (
        (shapes.get(name.partition(":")[0]) or [[]])[0] for name in node.input if name[0] != "^"
    )
    result = math.prod(shapes[node.name][0])
    if node.op == "Conv2D":
        return 2 * result * math.prod(second[:-1])
    if node.op == "Conv2DBackpropInput":
        return 2 * math.prod(third[0]) * math.prod(second[:-1])
    if node.op == "Conv2DBackpropFilter":
        return 2 * math.prod(third[0]) * math.prod(shapes[node.name][0][:-1])
    if node.op.startswith("DepthwiseConv2dNative"):  # Each channel has a kernel of its own.
        if node.op.endswith("BackpropFilter"):
            return 2 * math.prod(third[0]) * math.prod(shapes[node.name][0][:2])
        return 2 * math.prod(third[0] if third else shapes[node.name][0]) * math.prod(second[:2])
    if node.op == "Einsum":
        left, right = node.attr["equation"].s.decode().partition("->")[0].split(",")
        out = node.attr["equation"].s.decode().partition("->")[2]
        sizes = dict(zip(left, first, strict=False)) | dict(zip(right, second, strict=False))
        return 2 * result * math.prod(sizes[letter] for letter in {*left, *right} - {*out})
    # In the body of a loop only the shape of the weights is known.
    transposed = node.attr["transpose_b"].b or node.attr["adj_y"].b
    return 2 * result * (second[-1 if transposed else -2] if len(second) > 1 else 1)


def product_rate(dtype: str = "float32") -> float:
    """Measure how fast this machine multiplies large matrices, on its first device.

    Args:
        dtype: Data type of the matrices; on a GPU products of float32 are rounded to TensorFloat-32
            unless that is switched off.

    Returns:
        Floating-point operations per second, the median of five measurements.

    Example:

    >>> product_rate() > 1e8
    True
    """
    # A GPU needs larger matrices to be busy, and several products to hide the launch overhead.
    size, times = (8192, 10) if kernels.has_gpu() else (_PRODUCT, 1)
    a = tf.random.stateless_normal((size, size), (0, 0), dtype=dtype)
    multiply = tf.function(lambda a: tf.matmul(a, a))
    multiply(a)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times):
            product = multiply(a)
        product[0, 0].numpy()
        seconds.append((time.perf_counter() - began) / times)
    return 2 * size**3 / sorted(seconds)[2]
