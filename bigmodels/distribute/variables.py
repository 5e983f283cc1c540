"""Every variable that a step may change, by a name that is the same in every process."""

import collections
import functools
import itertools

import keras
import tensorflow as tf

from bigmodels.distribute.upstream import (
    GLOBAL_SEED_GENERATOR,
    Functional,
    global_state,
    to_snake_case,
)


def plain(variable):
    """The `tf.Variable`, distributed or not, that a Keras variable wraps; another one itself."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def dtype_of(variable):
    """The name of a variable's dtype."""
    return plain(variable).dtype.name


def on_replica(variable):
    """A replica's own copy of a variable."""
    variable = plain(variable)
    if isinstance(variable, tf.distribute.DistributedValues):
        return variable._get_on_device_or_primary()
    return variable


def named_variables(model):
    """All variables of a training but the metrics', each once.

    A variable is named after the attributes that lead to it from the model, not after the order in
    which layers were made or assigned: `encoder/dense/kernel`. Layers that no attribute holds, as
    those of a functional model, go by their names, or by class and number if Keras named them.
    Optimizers' variables are named after the weights that they belong to.

    Args:
        model: A built `bigmodels.Model`.

    Returns:
        `{name: variable}`, of `keras.Variable` and of `tf.Variable` (a layer's own
        `tf.random.Generator`, or a counter that Keras does not track).
    """
    names, found = {}, {}

    def add(name, variable):
        if id(plain(variable)) in names:
            return
        unique = next(
            n
            for n in itertools.chain([name], (f"{name}#{i}" for i in itertools.count(2)))
            if n not in found
        )
        names[id(plain(variable))], found[unique] = unique, variable

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
    # What layers draw from that were given no seed.
    drawn = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    if drawn is not None:
        add("keras.random/state", drawn.state)
    return found


@functools.cache
def _keras_attributes():
    """Attributes in which Keras keeps its own account of a layer."""
    inputs = keras.Input((1,))
    blank = (
        keras.layers.Layer(name="blank"),
        keras.Model(name="blank"),
        keras.Sequential(name="blank"),
        Functional(inputs, inputs, name="blank"),
    )
    return frozenset(name for each in blank for name in vars(each))


def _children(layer):
    """`(name, child)`: the variables, generators and layers that a layer holds, each once."""
    found = {}

    def look(name, value, depth=0):
        kinds = (keras.layers.Layer, keras.random.SeedGenerator, tf.random.Generator)
        variables = (keras.Variable, tf.Variable)
        if isinstance(value, keras.metrics.Metric | keras.optimizers.Optimizer):
            return
        if isinstance(value, kinds + variables):
            found.setdefault(id(value), (name, value))
        elif isinstance(value, dict) and depth < 8:
            for key in sorted(value, key=str):
                look(f"{name}/{key}", value[key], depth + 1)
        elif isinstance(value, list | tuple) and depth < 8:
            for i, each in enumerate(value):
                look(f"{name}/{i}", each, depth + 1)

    for name in sorted(vars(layer).keys() - _keras_attributes()):
        look(name.lstrip("_"), vars(layer)[name])
    for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
        look(variable.name, variable)
    for generator in layer._seed_generators:
        look("seed_generator", generator)
    numbers = collections.Counter()
    for child in layer._layers:
        kind = to_snake_case(type(child).__name__)
        base, _, number = child.name.rpartition("_")
        if child.name == kind or (base == kind and number.isdigit()):
            look(f"{kind}_{numbers[kind]}", child)
            numbers[kind] += 1
        else:
            look(child.name, child)
    return found.values()


def _of_optimizer(optimizer, names):
    """`(name, variable)` of an optimizer's variables, `names` being the weights' by identity."""
    inner = getattr(optimizer, "inner_optimizer", None)
    others = [inner] if inner is not None else getattr(optimizer, "optimizers", [])
    within = {id(v) for each in others for v in each.variables}
    # Keras makes their names of the weights' paths, which need not differ; those of each kind are
    # made in the weights' order.
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
            of_it = weights[path]
            weight, kind = of_it[counts[name] % len(of_it)], name[len(path) + 1 :]
            counts[name] += 1
            name = f"{weight}/{kind}"
        yield name, variable
    for i, each in enumerate(others):
        for name, variable in _of_optimizer(each, names):
            yield (f"inner/{name}" if inner is not None else f"{i}/{name}"), variable
