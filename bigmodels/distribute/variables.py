"""Names for all variables that a step may change, the same in every process."""

import collections
import functools
import itertools
from typing import Any

import keras
import tensorflow as tf

from bigmodels.distribute.upstream import (
    GLOBAL_SEED_GENERATOR,
    Functional,
    global_state,
    to_snake_case,
)


def plain(variable: Any) -> tf.Variable:
    """The `tf.Variable`, distributed or not, in a Keras variable; a `tf.Variable` itself."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def dtype_of(variable: Any) -> str:
    """The name of a variable's dtype."""
    return plain(variable).dtype.name


def on_replica(variable: Any) -> tf.Variable:
    """This replica's own copy of a variable."""
    variable = plain(variable)
    if isinstance(variable, tf.distribute.DistributedValues):
        return variable._get_on_device_or_primary()
    return variable


def named_variables(model: keras.Model) -> dict[str, Any]:
    """Collect all variables of a training run except those of metrics, each once.

    A variable is named after the attributes that lead to it from the model, not after the order in
    which layers were created or assigned: `encoder/dense/kernel`. Layers that are no attributes,
    like those of a functional model, are named by their `name`, or by class and number if Keras
    chose the name. Optimizers' variables are named after the weights that they belong to.

    Args:
        model: A built `bigmodels.Model`.

    Returns:
        `{name: variable}` of `keras.Variable` and `tf.Variable` (a layer's own
        `tf.random.Generator`, or a counter that Keras does not track).

    Example:

    >>> inputs = keras.Input((2,))
    >>> model = bigmodels.Model(inputs, keras.layers.Dense(1)(inputs))
    >>> [name for name in named_variables(model) if name.startswith("dense")]
    ['dense_0/kernel', 'dense_0/bias']
    """
    names, named = {}, {}

    def add(name, variable):
        if id(plain(variable)) in names:
            return
        unique = next(
            n
            for n in itertools.chain([name], (f"{name}#{i}" for i in itertools.count(2)))
            if n not in named
        )
        names[id(plain(variable))], named[unique] = unique, variable

    seen = set()

    def visit(prefix, layer):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        for name, child in _children(layer):
            path = f"{prefix}{name}"
            if isinstance(child, keras.layers.Layer):
                visit(f"{path}/", child)
            elif isinstance(child, keras.random.SeedGenerator | tf.random.Generator):
                add(f"{path}/state", child.state)
            else:
                add(path, child)

    visit("", model)
    for name in (n for n, v in vars(model).items() if isinstance(v, keras.optimizers.Optimizer)):
        for key, variable in _of_optimizer(getattr(model, name), names):
            add(f"{name}/{key}", variable)
    # Layers without a seed draw from Keras' global generator.
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    if generator is not None:
        add("keras.random/state", generator.state)
    return named


@functools.cache
def _keras_attributes():
    """Attributes of layers and models that Keras uses internally."""
    inputs = keras.Input((1,))
    blank = (
        keras.layers.Layer(name="blank"),
        keras.Model(name="blank"),
        keras.Sequential(name="blank"),
        Functional(inputs, inputs, name="blank"),
    )
    return frozenset(name for layer in blank for name in vars(layer))


def _children(layer):
    """`(name, child)`: the variables, generators and layers that a layer holds, each once."""
    children = {}

    def collect(name, value, depth=0):
        kinds = (keras.layers.Layer, keras.random.SeedGenerator, tf.random.Generator)
        variables = (keras.Variable, tf.Variable)
        if isinstance(value, keras.metrics.Metric | keras.optimizers.Optimizer):
            return
        if isinstance(value, kinds + variables):
            children.setdefault(id(value), (name, value))
        elif isinstance(value, dict) and depth < 8:
            for key in sorted(value, key=str):
                collect(f"{name}/{key}", value[key], depth + 1)
        elif isinstance(value, list | tuple) and depth < 8:
            for i, item in enumerate(value):
                collect(f"{name}/{i}", item, depth + 1)

    for name in sorted(vars(layer).keys() - _keras_attributes()):
        collect(name.lstrip("_"), vars(layer)[name])
    for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
        collect(variable.name, variable)
    for generator in layer._seed_generators:
        collect("seed_generator", generator)
    numbers = collections.Counter()
    for child in layer._layers:
        kind = to_snake_case(type(child).__name__)
        base, _, number = child.name.rpartition("_")
        if child.name == kind or (base == kind and number.isdigit()):
            collect(f"{kind}_{numbers[kind]}", child)
            numbers[kind] += 1
        else:
            collect(child.name, child)
    return children.values()


def _of_optimizer(optimizer, names):
    """`(name, variable)` of an optimizer's variables; `names` are those of the weights, by `id`."""
    inner = getattr(optimizer, "inner_optimizer", None)
    others = [inner] if inner is not None else getattr(optimizer, "optimizers", [])
    within = {id(v) for other in others for v in other.variables}
    # Keras derives their names from the weights' paths, which need not be unique. Those of each
    # kind are created in the order of the weights.
    weights = collections.defaultdict(list)
    for weight in optimizer._trainable_variables if optimizer.built else ():
        path = getattr(weight, "path", weight.name).replace("/", "_").replace(":", "_")
        weights[path].append(names.get(id(plain(weight)), path))
    counts = collections.Counter()
    for variable in optimizer.variables:
        if id(variable) in within:
            continue
        name = variable.name
        path = max((p for p in weights if name.startswith(f"{p}_")), key=len, default=None)
        if path is not None:
            same_path = weights[path]
            weight, kind = same_path[counts[name] % len(same_path)], name[len(path) + 1 :]
            counts[name] += 1
            name = f"{weight}/{kind}"
        yield name, variable
    for i, other in enumerate(others):
        for name, variable in _of_optimizer(other, names):
            yield (f"inner/{name}" if inner is not None else f"{i}/{name}"), variable
