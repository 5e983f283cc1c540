"""An LSTM that trains faster, on a CPU and with XLA (article 3.2; equation E4)."""

from typing import Any

import keras
import tensorflow as tf

from bigmodels import kernels
from bigmodels.distribute.upstream import xla_product

FUSED = "fused CPU loop"
CUDNN = "cuDNN"
BY_XLA = "loop for XLA"
SMALLEST_DIVIDED = 16  # Smaller batches are not split in halves.
_NO_SECOND = "bigmodels.layers.LSTM has no second derivative; use keras.layers.LSTM"


@keras.saving.register_keras_serializable(package="bigmodels")
class LSTM(keras.layers.LSTM):
    """`keras.layers.LSTM` with a hand-written, faster gradient (article 3.2; equation E4).

    Arguments, weights, states, masks, results and gradients are those of `keras.layers.LSTM`, and
    the two can load each other's weights. Only the loop over time differs: training on a CPU uses
    `lstm` below, XLA-compiled functions (such as `fit` on a GPU) use `lstm_by_xla`, everything else
    falls back to Keras, which uses cuDNN on a GPU. `describe_kernel` tells which one applies.

    These loops have no second derivative: asking for one raises a `LookupError`.

    Args:
        *args: As for `keras.layers.LSTM`.
        **kwargs: As for `keras.layers.LSTM`.

    Example:

    >>> lstm_layer = LSTM(4, return_sequences=True)
    >>> lstm_layer(np.zeros((2, 5, 3), "float32")).shape
    TensorShape([2, 5, 4])
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.supports_jit = True  # Keras' layer does not on a GPU, where it uses cuDNN.

    def describe_kernel(self, training: bool = True, jit_compile: bool = False) -> str:
        """Describe which implementation a call would use here.

        Args:
            training: Whether the call is part of training.
            jit_compile: Whether the call is compiled by XLA.

        Returns:
            "fused CPU loop", "loop for XLA", "cuDNN", or "Keras' loop: " and the reason.
        """
        by_xla = jit_compile or kernels.in_xla()
        obstacle = self._obstacle(training, by_xla)
        if obstacle is None:
            return BY_XLA if by_xla else FUSED
        if kernels.has_gpu() and not by_xla:
            obstacle = self._unusual() or (None if self.use_bias else "use_bias=False")
            if self.use_cudnn and obstacle is None:
                return CUDNN
            obstacle = obstacle or "use_cudnn=False"
        return f"Keras' loop: {obstacle}"

    def _unusual(self):
        """The configuration that neither cuDNN nor the loops below support, or None."""
        if self.activation is not keras.activations.tanh:
            return f"activation={_name(self.activation)}"
        if self.recurrent_activation is not keras.activations.sigmoid:
            return f"recurrent_activation={_name(self.recurrent_activation)}"
        if self.recurrent_dropout:
            return f"recurrent_dropout={self.recurrent_dropout}"
        return "unroll=True" if self.unroll else None

    def _obstacle(self, training, by_xla):
        """Why neither of the loops below can be used, or None."""
        if unusual := self._unusual():
            return unusual
        if self.cell.implementation != 2:  # Uses a separate dropout mask for each gate.
            return f"implementation={self.cell.implementation}"
        if by_xla:
            return "computes in float64" if self.compute_dtype == "float64" else None
        if kernels.has_gpu():
            return "a GPU is there"
        if self.use_cudnn is True:
            return "use_cudnn=True"
        if self.compute_dtype != "float32":  # The fused cell gradient works well only in float32.
            return f"computes in {self.compute_dtype}"
        if not training:  # Only the gradient is fused.
            return "not training"
        return None

    def inner_loop(self, sequences, initial_state, mask, training=False):
        by_xla = kernels.in_xla()
        obstacle = self._obstacle(training, by_xla)
        if by_xla and (obstacle or sequences.shape[1] is None):
            # XLA cannot compile cuDNN's operation.
            return keras.layers.RNN.inner_loop(self, sequences, initial_state, mask, training)
        if obstacle:
            return super().inner_loop(sequences, initial_state, mask, training)
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        # Like Keras, accept integers.
        sequences, *initial_state = (
            tf.cast(value, self.compute_dtype) for value in (sequences, *initial_state)
        )
        if 0 < self.dropout < 1:  # One mask for all steps, as in Keras: (batch, 1, features).
            sequences = sequences * self.cell.get_dropout_mask(sequences[:, 0])[:, None]
        x = tf.transpose(sequences, (1, 0, 2))  # (length, batch, features)
        if mask is not None:
            # (batch, length) or (batch, length, 1) -> (length, batch, 1)
            mask = tf.reshape(tf.cast(mask, tf.bool), tf.shape(sequences)[:2])
            mask = tf.transpose(mask)[:, :, None]
        if self.go_backwards:
            x = tf.reverse(x, [0])
            mask = None if mask is None else tf.reverse(mask, [0])
        cell = self.cell
        bias = (
            tf.convert_to_tensor(cell.bias)
            if self.use_bias
            else tf.zeros(4 * self.units, self.compute_dtype)
        )
        outputs, h, c = (lstm_by_xla if by_xla else lstm)(
            x,
            *initial_state,
            tf.convert_to_tensor(cell.kernel),
            tf.convert_to_tensor(cell.recurrent_kernel),
            bias,
            mask,
        )
        if mask is not None:
            # As in Keras, a masked step repeats the previous output; before the first one this is
            # zero, even if the initial state is not.
            if not self.zero_output_for_mask:
                mask = tf.cumsum(tf.cast(mask, tf.int32)) > 0
            outputs = tf.where(mask, outputs, tf.zeros([], outputs.dtype))
        last = outputs[-1]
        return last, tf.transpose(outputs, (1, 0, 2)), [h, c]  # (batch, length, units)


def lstm(
    x: tf.Tensor,
    h: tf.Tensor,
    c: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
    mask: Any = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Run all steps of an LSTM, with a hand-written gradient.

    It is faster than TensorFlow's automatic gradient because the inputs of all steps are projected
    in one product, the gradients of all weights are one product after the loop, and the
    element-wise part of a backward step is one C++ kernel (`LSTMBlockCellGrad`, whose gate order
    is i c f o). Matrix products then take about two thirds of a training step:
    `tools/benchmarks/lstm.py` measures this.

    The steps are sequential and their products small, so one loop does not keep two cores busy.
    Therefore each half of the batch has its own loop, and the two run in parallel.

    Args:
        x: Inputs `(length, batch, features)`; all tensors are float32.
        h: Initial output `(batch, units)`.
        c: Initial cell state `(batch, units)`.
        kernel: `(features, 4 * units)`, gates in Keras' order i f c o.
        recurrent_kernel: `(units, 4 * units)`.
        bias: `(4 * units,)`.
        mask: `None`, or bool `(length, batch, 1)`; where false, a step does not change the state.

    Returns:
        The output `h` of every step `(length, batch, units)`, and the last `h` and `c`. There is no
        second derivative: asking for one raises a `LookupError`.

    Example:

    >>> zeros = tf.zeros((2, 4))
    >>> weights = tf.zeros((3, 16)), tf.zeros((4, 16)), tf.zeros(16)
    >>> outputs, h, c = lstm(tf.zeros((5, 2, 3)), zeros, zeros, *weights)
    >>> outputs.shape
    TensorShape([5, 2, 4])
    """
    weights = (kernel, recurrent_kernel, bias)
    if x.shape[1] is not None and x.shape[1] < SMALLEST_DIVIDED:
        return _lstm(x, h, c, *weights, mask)
    half = tf.shape(x)[1] // 2
    masks = (None, None) if mask is None else (mask[:, :half], mask[:, half:])
    first = _lstm(x[:, :half], h[:half], c[:half], *weights, masks[0])
    second = _lstm(x[:, half:], h[half:], c[half:], *weights, masks[1])
    axes = (1, 0, 0)  # The batch axis of the outputs, h and c.
    return tuple(tf.concat(parts, axis) for *parts, axis in zip(first, second, axes, strict=True))


def _lstm(x, h, c, kernel, recurrent_kernel, bias, mask):
    """`lstm` for one part of the batch."""
    length, batch = tf.shape(x)[0], tf.shape(x)[1]
    features, units = kernel.shape[0], recurrent_kernel.shape[0]
    wide = 4 * units

    def loop(body, *state):
        return tf.while_loop(
            lambda step, *_: step < length, body, (0, *state), parallel_iterations=1
        )[1:]

    eager = tf.executing_eagerly()

    @tf.custom_gradient
    def run(x, h, c, kernel, recurrent_kernel, bias):
        weights = tf.concat([recurrent_kernel, kernel, bias[None]], 0)
        recurrent_kernel, kernel, bias = tf.split(_swap_gates(weights), [units, features, 1])
        flat = tf.reshape(x, (-1, features))
        # (length * batch, 4 * units) -> (length, batch, 4 * units)
        projected = tf.nn.bias_add(tf.matmul(flat, kernel), bias[0])
        projected = tf.reshape(projected, (length, batch, wide))

        def forward(step, h, c, states, *saved):
            z = projected[step] + tf.matmul(h, recurrent_kernel)
            i, g, f, o = tf.split(z, 4, axis=1)
            i, g, f, o = tf.sigmoid(i), tf.tanh(g), tf.sigmoid(f), tf.sigmoid(o)
            c_new = f * c + i * g
            tanh_c = tf.tanh(c_new)
            h_new = o * tanh_c
            saved = [
                array.write(step, value)
                for array, value in zip(saved, (i, g, f, o, tanh_c, c), strict=True)
            ]
            if mask is not None:
                h_new, c_new = tf.where(mask[step], h_new, h), tf.where(mask[step], c_new, c)
            return step + 1, h_new, c_new, states.write(step + 1, h_new), *saved

        states = _array(length + 1).write(0, h)
        saved = [_array(length) for _ in range(6)]
        h, c, states, *saved = loop(forward, h, c, states, *saved)
        states = states.stack()  # (length + 1, batch, units)

        def gradient(d_states, d_h, d_c):
            # In a loop over the outputs, as for a Jacobian, the shapes are unknown.
            d_h, d_c = tf.ensure_shape(d_h, h.shape), tf.ensure_shape(d_c, h.shape)
            steps = saved
            if eager and not tf.executing_eagerly():
                # The Jacobian of an eager call is a graph, which cannot read eager arrays.
                steps = [_array(length).unstack(array.stack()) for array in saved]
            transposed = tf.transpose(recurrent_kernel)  # (4 * units, units), once for all steps
            no_input, no_peephole = tf.zeros((batch, 0)), tf.zeros(units)

            def backward(step, d_h, d_c, d_z):
                at = length - 1 - step
                i, g, f, o, tanh_c, c = (array.read(at) for array in steps)
                d_h = d_h + d_states[at]
                if mask is not None:  # A masked step passes the gradients on unchanged.
                    real = tf.cast(mask[at], tf.float32)
                    past_h, past_c = d_h * (1 - real), d_c * (1 - real)
                    d_h, d_c = d_h * real, d_c * real
                # The values of x, w, b and h_prev (used for shape checks only) and of the
                # peephole weights (turned off) do not matter.
                d_c, d_step, *_ = tf.raw_ops.LSTMBlockCellGrad(
                    x=no_input,
                    cs_prev=c,
                    h_prev=c,
                    w=recurrent_kernel,
                    wci=no_peephole,
                    wcf=no_peephole,
                    wco=no_peephole,
                    b=bias[0],
                    i=i,
                    cs=c,
                    f=f,
                    o=o,
                    ci=g,
                    co=tanh_c,
                    cs_grad=d_c,
                    h_grad=d_h,
                    use_peephole=False,
                )
                d_h = tf.matmul(d_step, transposed)
                if mask is not None:
                    d_h, d_c = d_h + past_h, d_c + past_c
                d_h.set_shape(h.shape)
                d_c.set_shape(h.shape)
                return step + 1, d_h, d_c, d_z.write(at, d_step)

            d_h, d_c, d_z = loop(backward, d_h, d_c, _array(length))
            d_z = tf.reshape(d_z.stack(), (-1, wide))  # (length * batch, 4 * units)
            # One product gives the gradients of recurrent kernel, kernel and bias.
            inputs = tf.concat([states[:-1], x, tf.ones((length, batch, 1))], 2)
            inputs = tf.reshape(inputs, (-1, units + features + 1))
            d_weights = _swap_gates(tf.matmul(inputs, d_z, transpose_a=True))
            d_recurrent, d_kernel, d_bias = tf.split(d_weights, [units, features, 1])
            d_x = tf.reshape(tf.matmul(d_z, kernel, transpose_b=True), tf.shape(x))
            return [
                tf.raw_ops.PreventGradient(input=value, message=_NO_SECOND)
                for value in (d_x, d_h, d_c, d_kernel, d_recurrent, d_bias[0])
            ]

        return (states[1:], h, c), gradient

    return run(x, h, c, kernel, recurrent_kernel, bias)


def lstm_by_xla(
    x: tf.Tensor,
    h: tf.Tensor,
    c: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
    mask: Any = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Run all steps of an LSTM in XLA, with a hand-written gradient.

    On a GPU the launch of kernels dominates the time of a step, not its arithmetic. XLA compiles a
    step to two kernels, a product and a fused element-wise one, and the steps of one iteration of
    the loop to a single CUDA graph with one launch. As in `lstm`, the gradients of all weights are
    one product after the loop. The gates are recomputed in the backward pass, by one product over
    all steps. In half precision, products are rounded, but sums and cell states are float32.

    Args:
        x: Inputs `(length, batch, features)` with a static length; all tensors are of one dtype,
            float32, bfloat16 or float16.
        h: As for `lstm`.
        c: As for `lstm`.
        kernel: As for `lstm`.
        recurrent_kernel: As for `lstm`.
        bias: As for `lstm`.
        mask: As for `lstm`.

    Returns:
        As for `lstm`.
    """
    length, dtype = x.shape[0], x.dtype
    units = recurrent_kernel.shape[0]
    batch = tf.shape(x)[1]
    at_once = _steps_in_a_round(length)

    def loop(body, *state):
        rounds, rest = divmod(length, at_once)
        if rounds:
            _, *state = tf.while_loop(
                lambda i, *_: i < rounds,
                lambda i, *state: (i + 1, *body(i * at_once, at_once, *state)),
                (tf.constant(0), *state),
                parallel_iterations=1,
            )
        return body(tf.constant(rounds * at_once), rest, *state) if rest else state

    def written(array, values, place):
        return keras.ops.slice_update(array, (place, 0, 0), tf.stack(values))

    def wide(value):
        return tf.cast(value, tf.float32)

    def allocate(first):
        """The initial state, followed by zeros for the state after each step."""
        return tf.concat([first[None], tf.zeros((length, batch, units), first.dtype)], 0)

    @tf.custom_gradient
    def run(x, h, c, kernel, recurrent_kernel, bias):
        flat = tf.reshape(x, (-1, x.shape[2]))
        projected = tf.cast(xla_product(flat, kernel) + wide(bias), dtype)
        projected = tf.reshape(projected, (length, batch, 4 * units))

        def forward(first, count, h, c, states, cells):
            new_states, new_cells = [], []
            for t in range(count):
                # Split before adding: XLA would fuse one sum into the product, with a copy.
                added = tf.split(wide(projected[first + t]), 4, axis=1)
                gates = tf.split(xla_product(h, recurrent_kernel), 4, axis=1)
                i, f, g, o = (a + b for a, b in zip(gates, added, strict=True))
                c_new = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
                h_new = tf.cast(tf.sigmoid(o) * tf.tanh(c_new), dtype)
                if mask is not None:
                    real = mask[first + t]
                    h_new, c_new = tf.where(real, h_new, h), tf.where(real, c_new, c)
                h, c = h_new, c_new
                new_states.append(h)
                new_cells.append(c)
            states = written(states, new_states, first + 1)
            return h, c, states, written(cells, new_cells, first + 1)

        c = wide(c)
        last_h, last_c, states, cells = loop(forward, h, c, allocate(h), allocate(c))

        def gradient(d_states, d_h, d_c):
            before = tf.reshape(states[:-1], (-1, units))
            again = xla_product(before, recurrent_kernel)
            again = tf.cast(tf.reshape(again, tf.shape(projected)) + wide(projected), dtype)

            def backward(first, count, d_h, d_c, d_z):
                d_gates = []
                for step in range(count):
                    t = length - 1 - (first + step)
                    d_h += wide(d_states[t])
                    if mask is not None:  # A masked step passes the gradients on unchanged.
                        real = wide(mask[t])
                        past_h, past_c = d_h * (1 - real), d_c * (1 - real)
                        d_h, d_c = d_h * real, d_c * real
                    i, f, g, o = tf.split(wide(again[t]), 4, axis=1)
                    i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
                    tanh_c = tf.tanh(cells[t + 1])
                    d_c += d_h * o * (1 - tanh_c * tanh_c)
                    by_gate = [
                        d_c * g * i * (1 - i),
                        d_c * cells[t] * f * (1 - f),
                        d_c * i * (1 - g * g),
                        d_h * tanh_c * o * (1 - o),
                    ]
                    d_gates.append(tf.cast(tf.concat(by_gate, 1), dtype))
                    d_c *= f
                    d_h = xla_product(d_gates[-1], recurrent_kernel, over=(1, 1))
                    if mask is not None:
                        d_h, d_c = d_h + past_h, d_c + past_c
                return d_h, d_c, written(d_z, d_gates[::-1], length - (first + count))

            room = tf.zeros((length, batch, 4 * units), dtype)
            d_h, d_c, d_z = loop(backward, wide(d_h), wide(d_c), room)
            d_z = tf.reshape(d_z, (-1, 4 * units))
            d_weights = xla_product(tf.concat([before, flat], 1), d_z, over=(0, 0))
            d_x = tf.reshape(xla_product(d_z, kernel, over=(1, 1)), tf.shape(x))
            return [
                tf.raw_ops.PreventGradient(input=tf.cast(value, dtype), message=_NO_SECOND)
                for value in (
                    d_x,
                    d_h,
                    d_c,
                    d_weights[units:],
                    d_weights[:units],
                    tf.reduce_sum(wide(d_z), 0),
                )
            ]

        return (states[1:], last_h, tf.cast(last_c, dtype)), gradient

    return run(x, h, c, kernel, recurrent_kernel, bias)


def _steps_in_a_round(length):
    """Number of steps per iteration of XLA's loop: on a GPU enough for CUDA graphs to pay off."""
    if not kernels.has_gpu():
        return 1
    return next((n for n in range(10, 4, -1) if length % n == 0), 10)


def _swap_gates(weights):
    """Reorder the gates from Keras' i f c o to i c f o, or back."""
    i, f, c, o = tf.split(weights, 4, axis=1)
    return tf.concat([i, c, f, o], 1)


def _array(size):
    return tf.TensorArray(tf.float32, size, clear_after_read=False)


def _name(activation):
    return getattr(activation, "__name__", repr(activation))
