"""An LSTM that trains faster, on a CPU and by XLA (article 3.2; equation E4)."""

import keras
import tensorflow as tf

from bigmodels import kernels
from bigmodels.distribute.upstream import xla_product

FUSED = "fused CPU loop"
CUDNN = "cuDNN"
BY_XLA = "loop for XLA"
SMALLEST_DIVIDED = 16  # A smaller batch stays whole.
_NO_SECOND = "bigmodels.layers.LSTM has no second derivative here: keras.layers.LSTM has"


@keras.saving.register_keras_serializable(package="bigmodels")
class LSTM(keras.layers.LSTM):
    """`keras.layers.LSTM` with a hand-written gradient.

    Arguments, weights, states, masks, results and gradients are those of `keras.layers.LSTM`, and
    the weights of one can be loaded into the other. Only the loop over time is another, and only
    where `describe_kernel` says so: `lstm` below in training on a CPU, `lstm_by_xla` in what XLA
    compiles, as `fit` does on a GPU. Everything else goes to Keras, which takes cuDNN on a GPU.

    A gradient of these loops' gradient does not exist: asking for one is a `LookupError`.

    Args:
        *args: As for `keras.layers.LSTM`.
        **kwargs: As for `keras.layers.LSTM`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.supports_jit = True  # Keras' does not on a GPU, where it would take cuDNN.

    def describe_kernel(self, training=True, jit_compile=False):
        """Which implementation a call made here and now would take.

        Args:
            training: Whether the call is part of training.
            jit_compile: Whether it is compiled by XLA.

        Returns:
            "fused CPU loop", "loop for XLA", "cuDNN", or "Keras' loop: " and why it is none of
            these.
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
        """What in the layer's configuration neither cuDNN nor the fused loop can take, or None."""
        if self.activation is not keras.activations.tanh:
            return f"activation={_name(self.activation)}"
        if self.recurrent_activation is not keras.activations.sigmoid:
            return f"recurrent_activation={_name(self.recurrent_activation)}"
        if self.recurrent_dropout:
            return f"recurrent_dropout={self.recurrent_dropout}"
        return "unroll=True" if self.unroll else None

    def _obstacle(self, training, by_xla):
        """Why neither loop of ours is taken, or None if one is."""
        if unusual := self._unusual():
            return unusual
        if self.cell.implementation != 2:  # Has a dropout mask for each gate.
            return f"implementation={self.cell.implementation}"
        if by_xla:
            return "computes in float64" if self.compute_dtype == "float64" else None
        if kernels.has_gpu():
            return "a GPU is there"
        if self.use_cudnn is True:
            return "use_cudnn=True"
        if self.compute_dtype != "float32":  # All that the fused cell gradient does well.
            return f"computes in {self.compute_dtype}"
        if not training:  # Nothing would be gained: what is fused is the gradient.
            return "not training"
        return None

    def inner_loop(self, sequences, initial_state, mask, training=False):
        by_xla = kernels.in_xla()
        obstacle = self._obstacle(training, by_xla)
        if by_xla and (obstacle or sequences.shape[1] is None):
            # cuDNN is no part of what XLA compiles.
            return keras.layers.RNN.inner_loop(self, sequences, initial_state, mask, training)
        if obstacle:
            return super().inner_loop(sequences, initial_state, mask, training)
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        # Keras' products turn integers into floats.
        sequences, *initial_state = (
            tf.cast(each, self.compute_dtype) for each in (sequences, *initial_state)
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
            # A masked step repeats the output before it, which is zero where there is none, even
            # if the initial state is not.
            if not self.zero_output_for_mask:
                mask = tf.cumsum(tf.cast(mask, tf.int32)) > 0
            outputs = tf.where(mask, outputs, tf.zeros([], outputs.dtype))
        last = outputs[-1]
        return last, tf.transpose(outputs, (1, 0, 2)), [h, c]  # (batch, length, units)


def lstm(x, h, c, kernel, recurrent_kernel, bias, mask=None):
    """All steps of an LSTM, whose gradient is written by hand.

    What makes it faster than the gradient that TensorFlow derives: inputs are projected in one
    product over all steps, the gradients of all weights are one product after the loop, and the
    element-wise work of a backward step is one C++ kernel (`LSTMBlockCellGrad`, whose order of
    the gates, i c f o, the weights are brought into once). Some two thirds of a training step are
    then the time that its matrix products take alone: `tools/benchmarks/lstm.py` measures it.

    A step waits for the one before it, and its products are small, so that one loop leaves a second
    core idle for much of the time: half of the batch goes through a loop of its own beside it.

    Args:
        x: Inputs `(length, batch, features)`, like all others in float32.
        h: First output `(batch, units)`.
        c: First cell state `(batch, units)`.
        kernel: `(features, 4 * units)`, gates in Keras' order i f c o.
        recurrent_kernel: `(units, 4 * units)`.
        bias: `(4 * units,)`.
        mask: `None`, or `(length, batch, 1)`; where it is false, a step leaves the state as it is.

    Returns:
        The state `h` after every step `(length, batch, units)`, and the last `h` and `c`. Only
        first derivatives exist: asking for a second one is a `LookupError`.
    """
    weights = (kernel, recurrent_kernel, bias)
    if x.shape[1] is not None and x.shape[1] < SMALLEST_DIVIDED:
        return _lstm(x, h, c, *weights, mask)
    half = tf.shape(x)[1] // 2
    masks = (None, None) if mask is None else (mask[:, :half], mask[:, half:])
    first = _lstm(x[:, :half], h[:half], c[:half], *weights, masks[0])
    second = _lstm(x[:, half:], h[half:], c[half:], *weights, masks[1])
    axes = (1, 0, 0)  # Of the batch in the outputs, h and c.
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

        def forward(step, h, c, states, *kept):
            z = projected[step] + tf.matmul(h, recurrent_kernel)
            i, g, f, o = tf.split(z, 4, axis=1)
            i, g, f, o = tf.sigmoid(i), tf.tanh(g), tf.sigmoid(f), tf.sigmoid(o)
            c_new = f * c + i * g
            tanh_c = tf.tanh(c_new)
            h_new = o * tanh_c
            kept = [
                array.write(step, value)
                for array, value in zip(kept, (i, g, f, o, tanh_c, c), strict=True)
            ]
            if mask is not None:
                h_new, c_new = tf.where(mask[step], h_new, h), tf.where(mask[step], c_new, c)
            return step + 1, h_new, c_new, states.write(step + 1, h_new), *kept

        states = _array(length + 1).write(0, h)
        kept = [_array(length) for _ in range(6)]
        h, c, states, *kept = loop(forward, h, c, states, *kept)
        states = states.stack()  # (length + 1, batch, units)

        def gradient(d_states, d_h, d_c):
            # Of a loop over the outputs, as in a Jacobian, the shapes are not known.
            d_h, d_c = tf.ensure_shape(d_h, h.shape), tf.ensure_shape(d_c, h.shape)
            steps = kept
            if eager and not tf.executing_eagerly():
                # A Jacobian of what ran eagerly is a graph, where such an array cannot be read.
                steps = [_array(length).unstack(array.stack()) for array in kept]
            transposed = tf.transpose(recurrent_kernel)  # (4 * units, units), once for all steps
            no_input, no_peephole = tf.zeros((batch, 0)), tf.zeros(units)

            def backward(step, d_h, d_c, d_z):
                at = length - 1 - step
                i, g, f, o, tanh_c, c = (array.read(at) for array in steps)
                d_h = d_h + d_states[at]
                if mask is not None:  # What a masked step hands on as it is.
                    real = tf.cast(mask[at], tf.float32)
                    past_h, past_c = d_h * (1 - real), d_c * (1 - real)
                    d_h, d_c = d_h * real, d_c * real
                # Uses the products of the gates only: what it takes for checks of shapes alone
                # (x, w, b, h_prev), and for peepholes, which are off, may hold anything.
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
            # The recurrent kernel's input, the kernel's and the bias's: one product for all.
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


def lstm_by_xla(x, h, c, kernel, recurrent_kernel, bias, mask=None):
    """All steps of an LSTM for XLA, whose gradient is written by hand.

    What takes time on a GPU is not the arithmetic of a step but the beginning of each kernel. XLA
    makes two of a step, a product and all that is element-wise, and of the steps in one round of
    the loop a single CUDA graph, which the driver begins at once. As in `lstm` the gradients of
    all weights are one product after the loop; the gates are not kept but computed again, by one
    product over all steps. In half precision products are rounded, sums and cell states are not.

    Args:
        x: Inputs `(length, batch, features)`, float32, bfloat16 or float16, as all others; its
            length is known.
        h: As for `lstm`; likewise all that follow.
        c: Last cell state.
        kernel: Of the inputs.
        recurrent_kernel: Of the states.
        bias: Of the gates.
        mask: Which steps are real, or `None`.

    Returns:
        As `lstm`.
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

    def rooms(first):
        """Room for the states after each step, behind the first."""
        return tf.concat([first[None], tf.zeros((length, batch, units), first.dtype)], 0)

    @tf.custom_gradient
    def run(x, h, c, kernel, recurrent_kernel, bias):
        flat = tf.reshape(x, (-1, x.shape[2]))
        projected = tf.cast(xla_product(flat, kernel) + wide(bias), dtype)
        projected = tf.reshape(projected, (length, batch, 4 * units))

        def forward(first, count, h, c, states, cells):
            new_states, new_cells = [], []
            for t in range(count):
                # Gate by gate: the sum of all would go into the product, behind a copy.
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
        last_h, last_c, states, cells = loop(forward, h, c, rooms(h), rooms(c))

        def gradient(d_states, d_h, d_c):
            before = tf.reshape(states[:-1], (-1, units))
            again = xla_product(before, recurrent_kernel)
            again = tf.cast(tf.reshape(again, tf.shape(projected)) + wide(projected), dtype)

            def backward(first, count, d_h, d_c, d_z):
                found = []
                for step in range(count):
                    t = length - 1 - (first + step)
                    d_h += wide(d_states[t])
                    if mask is not None:  # What a masked step hands on as it is.
                        real = wide(mask[t])
                        past_h, past_c = d_h * (1 - real), d_c * (1 - real)
                        d_h, d_c = d_h * real, d_c * real
                    i, f, g, o = tf.split(wide(again[t]), 4, axis=1)
                    i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
                    tanh_c = tf.tanh(cells[t + 1])
                    d_c += d_h * o * (1 - tanh_c * tanh_c)
                    of_gates = [
                        d_c * g * i * (1 - i),
                        d_c * cells[t] * f * (1 - f),
                        d_c * i * (1 - g * g),
                        d_h * tanh_c * o * (1 - o),
                    ]
                    found.append(tf.cast(tf.concat(of_gates, 1), dtype))
                    d_c *= f
                    d_h = xla_product(found[-1], recurrent_kernel, over=(1, 1))
                    if mask is not None:
                        d_h, d_c = d_h + past_h, d_c + past_c
                return d_h, d_c, written(d_z, found[::-1], length - (first + count))

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
    """How many steps XLA's loop makes in a round: on a GPU so many that graphs of them pay."""
    if not kernels.has_gpu():
        return 1
    return next((n for n in range(10, 4, -1) if length % n == 0), 10)


def _swap_gates(weights):
    """Keras' order of the gates, i f c o, to i c f o, or back."""
    i, f, c, o = tf.split(weights, 4, axis=1)
    return tf.concat([i, c, f, o], 1)


def _array(size):
    return tf.TensorArray(tf.float32, size, clear_after_read=False)


def _name(activation):
    return getattr(activation, "__name__", repr(activation))
