"""What a training will take, before it is started: arithmetic, memory, time."""

import dataclasses
import math
import time

import tensorflow as tf

from bigmodels import kernels

# What share of the rate of large products a training reaches (`tools/bench training` measures it).
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
    """A training step over replicas of a model, on paper.

    Attributes:
        compute: Seconds of arithmetic, on each replica at the same time.
        exchange: Seconds of the all-reduce of gradients, if nothing of it were hidden behind the
            arithmetic; a step takes between the larger of the two and their sum.
        state: Bytes that weights, gradients and optimizer take on each replica.
    """

    compute: float
    exchange: float
    state: float


def data_parallel_step(
    parameters,
    tokens,
    replicas,
    *,
    layers,
    width,
    length,
    flops_per_second=400e12,
    bytes_per_second=50e9,
    gradient_bytes=2,
    state_bytes=16,
):
    """The expected step of a decoder-only Transformer that is copied to every replica.

    Arithmetic is `6 N + 12 layers width length` floating-point operations a token (Chowdhery et
    al., 2022, PaLM, appendix B; no share of it is saved by the causal mask). A ring all-reduce
    sends and receives `2 (R - 1) / R` times the gradients (Patarasu and Yuan, 2009). Adam in mixed
    precision holds 16 bytes a parameter: weight and gradient in half precision, weight and two
    moments in float32 (Rajbhandari et al., 2020, ZeRO, section 3.1).

    Args:
        parameters: `N`, number of weights.
        tokens: Tokens a step on each replica.
        replicas: `R`, number of GPUs.
        layers: Number of blocks.
        width: Of the embedding.
        length: Tokens of a sequence.
        flops_per_second: What a replica reaches; by default 40 % of an H100's 989e12 in bfloat16.
        bytes_per_second: Of the slowest link of the ring; by default a 400 Gbit/s network's.
        gradient_bytes: A gradient's, as it is sent.
        state_bytes: A parameter's, with gradient and optimizer.

    Returns:
        A `Step`.

    Raises:
        ValueError: naming the argument that is not positive.
    """
    for name, value in {"parameters": parameters, "tokens": tokens, "replicas": replicas}.items():
        if value < 1:
            raise ValueError(f"{name}: {value!r}, expected a positive number")
    flops = tokens * (6 * parameters + 12 * layers * width * length)
    sent = 2 * (replicas - 1) / replicas * gradient_bytes * parameters
    return Step(flops / flops_per_second, sent / bytes_per_second, state_bytes * parameters)


def training(model, batches, replicas=1):
    """What training a model on some batches takes.

    Args:
        model: Compiled and built, in no strategy's scope.
        batches: A `tf.data.Dataset`; its first batch's shapes are looked at.
        replicas: Among how many a batch is divided.

    Returns:
        A dict: `parameters`; `flops_per_step`, of the matrix products and convolutions of a global
        batch, forwards and backwards; `memory_per_replica`, bytes of weights, gradients, optimizer
        and of all that the forward pass computes, so at most; `seconds_per_step`, at two fifths of
        the rate at which this machine multiplies large matrices.
    """
    batch = next(iter(batches))
    specs = tf.nest.map_structure(
        lambda x: tf.TensorSpec((-(-len(x) // replicas), *x.shape[1:]), x.dtype), batch
    )
    called_with = specs[0] if isinstance(specs, tuple) else specs
    inputs = tf.nest.flatten(specs)[0]
    if hasattr(model, "latent_dim"):  # A GAN is trained on images, and called with noise.
        called_with = tf.TensorSpec((inputs.shape[0], model.latent_dim), "float32")
    steps = model.time_steps(inputs.shape)
    flops, _ = _counted(model.train_step, specs, steps)
    forward, activations = _counted(lambda x: model(x, training=False), called_with, steps)
    # Of sizes known only at run time (half a batch, in the LSTM's loops) nothing is counted. The
    # forward pass has none, and each of its products comes again for two gradients.
    if all(layer.trainable for layer in model._flatten_layers()):
        flops = max(flops, 3 * forward)
    variables = {id(v): v for v in model.variables}
    variables |= {id(v): v for optimizer in model.optimizers for v in optimizer.variables}
    held = [*variables.values(), *model.trainable_variables]  # Those have a gradient too.
    return {
        "parameters": model.count_params(),
        "flops_per_step": flops * replicas,
        "memory_per_replica": activations + sum(math.prod(v.shape) * 4 for v in held),
        "seconds_per_step": flops * replicas / (_SHARE * product_rate()),
    }


def largest_batch(model, batch):
    """How many rows of a batch a training step has room for, after it had none for all.

    Args:
        model: Compiled; its weights are trained by what fits.
        batch: As `fit` takes it, in host memory.

    Returns:
        The first half, quarter, ... of the batch with which a step ends; 0 if none does.
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

    def of(nodes):
        shapes = {node.name: _shapes(node) for node in nodes}
        flops = held = 0
        for node in nodes:
            inner, times = None, 1
            if node.op in ("StatefulPartitionedCall", "PartitionedCall"):
                inner = bodies.get(node.attr["f"].func.name)
            elif node.op in ("While", "StatelessWhile"):
                inner, times = bodies.get(node.attr["body"].func.name), steps
            if inner:
                more_flops, more_held = of(inner)
                flops, held = flops + times * more_flops, held + times * more_held
            flops += _products(node, shapes)
            held += sum(4 * math.prod(shape) for shape in shapes[node.name])
        return flops, held

    return of([node for node in graph.node if node.name in needed])


def _needed(graph):
    """Names of what a graph's results hang on; a frozen layer's gradients, for one, are not run."""
    found, left = set(), [tensor.op for tensor in graph.outputs] + graph.control_outputs
    while left:
        operation = left.pop()
        if operation.name not in found:
            found.add(operation.name)
            left += [tensor.op for tensor in operation.inputs] + operation.control_inputs
    return found


def _shapes(node):
    """Of a node's results, as far as they are known."""
    found = node.attr["_output_shapes"].list.shape
    return [[max(d.size, 1) for d in shape.dim] for shape in found if not shape.unknown_rank]


def _products(node, shapes):
    """Operations of a node that multiplies matrices: twice the result, by what is summed over."""
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
    # An argument of a loop's body has no known shape; the weights it is multiplied with have.
    transposed = node.attr["transpose_b"].b or node.attr["adj_y"].b
    return 2 * result * (second[-1 if transposed else -2] if len(second) > 1 else 1)


def product_rate(dtype="float32"):
    """How fast this machine multiplies large matrices, on its first device.

    Args:
        dtype: Of the numbers; on a GPU products of float32 are rounded to TensorFloat-32, unless
            that was switched off.

    Returns:
        Floating-point operations a second, the median of five measurements.
    """
    # A GPU needs larger ones to be busy, and several to hide how long one takes to begin.
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
