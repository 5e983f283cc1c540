"""Every private name of Keras and TensorFlow that the package leans on, and a check that it holds.

What is private may change with any version, and much of it would change without an error: a method
that Keras no longer calls is simply not run, and replicas drift apart. So all of it is imported
here, nowhere else, and looked at once, when this module is imported. The checks only look: none
makes a tensor, as TensorFlow must not have begun before a strategy over several workers is made.
"""

import dis
import inspect
import sys

import keras
import tensorflow as tf

# As in setup.cfg.
SUPPORTED = "keras >=3.15,<3.16 and tensorflow >=2.21,<2.22"


def _refusal(what):
    return (
        f"bigmodels needs {SUPPORTED}, as it leans on private names of theirs; "
        f"in Keras {keras.__version__} with TensorFlow {tf.__version__} {what}"
    )


try:
    # The shape of an output from that of the inputs, without running anything; and a tensor's mask,
    # which Keras keeps as an attribute of the tensor.
    from keras.src.backend import compute_output_spec, get_keras_mask, set_keras_mask

    # The generator that layers without a seed draw from; its state belongs in a checkpoint.
    from keras.src.backend.common import global_state

    # What Keras overrides for `tf.distribute`; without it is what `BaseOptimizer` below does.
    from keras.src.backend.tensorflow.optimizer import TFOptimizer

    # What `fit` takes its batches from; `resume` lets it begin within an epoch.
    from keras.src.backend.tensorflow.trainer import TFEpochIterator

    # The steps of `Loss.__call__` between a loss's values and its one number.
    from keras.src.losses.loss import apply_mask, squeeze_or_expand_to_same_rank

    # The base class of Keras' own losses, by which they are told from others.
    from keras.src.losses.losses import LossFunctionWrapper

    # The class of `Model(inputs, outputs)`.
    from keras.src.models.functional import Functional

    # As `TFOptimizer`; and as `global_state`.
    from keras.src.optimizers.base_optimizer import BaseOptimizer
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

    # How Keras tells one kind of data from another, and the base class of what it makes of them.
    from keras.src.trainers import data_adapters

    # The containers of what `compile` was given.
    from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics, get_loss

    # Arrays, as Keras cuts and splits them.
    from keras.src.trainers.data_adapters import array_slicing
    from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
    from keras.src.trainers.data_adapters.data_adapter import DataAdapter

    # The name that Keras gives to a layer without one.
    from keras.src.utils.naming import to_snake_case

    # The seed of `keras.utils.set_random_seed`.
    from keras.src.utils.rng_utils import get_random_seed

    # How XLA is asked for a kernel of cuDNN, and for products of halves that are added up whole.
    from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_custom_call_v2, xla_dot_v2
    from tensorflow.compiler.xla.xla_data_pb2 import DotDimensionNumbers

    # What data sets keep of their seed and the size of their batches.
    from tensorflow.python.data.ops.batch_op import _BatchDataset

    # A data set around another one, for operations without a public function.
    from tensorflow.python.data.ops.dataset_ops import UnaryUnchangedStructureDataset
    from tensorflow.python.data.ops.shuffle_op import _ShuffleDataset

    # `MultiWorkerMirroredStrategy` takes one CPU device of each worker; ours takes all.
    from tensorflow.python.distribute.collective_all_reduce_strategy import (
        CollectiveAllReduceExtended,
    )
    from tensorflow.python.distribute.collective_util import Options
    from tensorflow.python.distribute.distribute_lib import Strategy

    # A variable that has a copy on each device, and the copy on this one.
    from tensorflow.python.distribute.values import DistributedVariable

    # What `enable_op_determinism` has set.
    from tensorflow.python.framework.config import is_op_determinism_enabled

    # Whether a graph will be compiled by XLA.
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
except ImportError as error:
    raise ImportError(_refusal(f"one is missing: {error}")) from error

__all__ = [
    "GLOBAL_SEED_GENERATOR",
    "SUPPORTED",
    "ArrayDataAdapter",
    "BaseOptimizer",
    "CollectiveAllReduceExtended",
    "CompileLoss",
    "CompileMetrics",
    "DataAdapter",
    "Functional",
    "GraphOrParentsInXlaContext",
    "LossFunctionWrapper",
    "Options",
    "Strategy",
    "TFEpochIterator",
    "TFOptimizer",
    "UnaryUnchangedStructureDataset",
    "apply_mask",
    "array_slicing",
    "check",
    "compute_output_spec",
    "data_adapters",
    "get_keras_mask",
    "get_loss",
    "get_random_seed",
    "global_state",
    "is_op_determinism_enabled",
    "set_keras_mask",
    "squeeze_or_expand_to_same_rank",
    "to_snake_case",
    "xla_custom_call_v2",
    "xla_product",
]

_Attention, _Dataset = keras.layers.MultiHeadAttention, tf.data.Dataset
_BatchNorm, _Layer, _Model = keras.layers.BatchNormalization, keras.layers.Layer, keras.Model

# What we call: where it is (a module by its name), and the parameters that we rely on. More may
# follow if they have defaults.
_CALLED = (
    ("keras.src.backend", "compute_output_spec", "fn args kwargs"),
    ("keras.src.backend", "get_keras_mask", "x"),
    ("keras.src.backend", "set_keras_mask", "x mask"),
    ("keras.src.backend.common.global_state", "get_global_attribute", "name"),
    ("keras.src.losses.loss", "apply_mask", "sample_weight mask dtype reduction"),
    ("keras.src.losses.loss", "squeeze_or_expand_to_same_rank", "x1 x2"),
    ("keras.src.trainers.compile_utils", "get_loss", "identifier y_true y_pred"),
    (
        "keras.src.trainers.data_adapters",
        "get_data_adapter",
        "x y sample_weight batch_size steps_per_epoch shuffle class_weight",
    ),
    ("keras.src.trainers.data_adapters", "is_grain_dataset", "x"),
    ("keras.src.trainers.data_adapters", "is_tf_dataset", "x"),
    ("keras.src.trainers.data_adapters", "is_torch_dataloader", "x"),
    ("keras.src.trainers.data_adapters.array_slicing", "can_slice_array", "x"),
    (
        "keras.src.trainers.data_adapters.array_slicing",
        "convert_to_sliceable",
        "arrays target_backend",
    ),
    (
        "keras.src.trainers.data_adapters.array_slicing",
        "slice_tensorflow_sparse_wrapper",
        "sparse_wrapper indices",
    ),
    (
        "keras.src.trainers.data_adapters.array_slicing",
        "train_validation_split",
        "arrays validation_split",
    ),
    ("keras.src.utils.naming", "to_snake_case", "name"),
    ("keras.src.utils.rng_utils", "get_random_seed", ""),
    ("tensorflow.python.ops.control_flow_util", "GraphOrParentsInXlaContext", "graph"),
    (
        ArrayDataAdapter,
        "__init__",
        "self x y sample_weight batch_size steps shuffle class_weight",
    ),
    (CollectiveAllReduceExtended, "__init__", "self container_strategy cluster_resolver "
     "communication_options"),
    (Options, "__init__", "self"),
    (Strategy, "__init__", "self extended"),
    (UnaryUnchangedStructureDataset, "__init__", "self input_dataset variant_tensor"),
    # All layers in a model, of which some are changed while a step is traced.
    (_Layer, "_flatten_layers", "self"),
    # What `keras.Model.fit` and `train_step` do themselves.
    (_Model, "_assert_compile_called", "self method_name"),
    (_Model, "_compute_loss", "self x y y_pred sample_weight training"),
    (_Model, "_symbolic_build", "self iterator data_batch"),
    (_Model, "_unpickle_model", "bytesio"),
    # The mask that Keras makes of all those that attention is given.
    (
        _Attention,
        "_compute_attention_mask",
        "self query value query_mask value_mask key_mask attention_mask use_causal_mask",
    ),
    # What a data set is made of, where a shuffle without a seed is looked for.
    (_Dataset, "_inputs", "self"),
    (_Dataset, "_functions", "self"),
    # A replica's own copy of a variable.
    (DistributedVariable, "_get_on_device_or_primary", "self"),
    # An epoch's batches; `resume` counts them from where a run goes on.
    (TFEpochIterator, "_get_iterator", "self"),
)  # fmt: skip

# What we replace: Keras or TensorFlow calls ours with these arguments and no others.
_REPLACED = (
    (_Model, "_aggregate_additional_loss", "self loss"),
    (_Model, "_make_function", "self step_function"),
    (_Model, "_maybe_symbolic_build", "self iterator data_batch"),
    # The statistics of a batch, which are to be those of all replicas.
    (_BatchNorm, "_moments", "self inputs mask"),
    (TFEpochIterator, "_enumerate_iterator", "self"),
    (CompileLoss, "build", "self y_true y_pred"),
    (CollectiveAllReduceExtended, "_initialize_local_devices", "self cluster_resolver "
     "worker_device"),
    # Gradients are summed before `apply`, so that what Keras does for `tf.distribute` gives way.
    (TFOptimizer, "_all_reduce_sum_gradients", "self grads_and_vars"),
    *(
        (optimizer, name, parameters)
        for optimizer in (TFOptimizer, BaseOptimizer)
        for name, parameters in (
            ("_apply_weight_decay", "self variables"),
            ("_backend_increment_gradient_accumulators", "self grads acc_grads"),
            ("_backend_update_step", "self grads trainable_variables learning_rate"),
            ("_overwrite_model_variables_with_average_value", "self trainable_variables"),
        )
    ),
    # Attention is Keras' where a subclass has its own of these.
    (
        _Attention,
        "_compute_attention",
        "self query key value attention_mask training return_attention_scores use_causal_mask",
    ),
    (_Attention, "_compute_causal_mask", "self query value"),
    (_Attention, "_masked_softmax", "self attention_scores attention_mask"),
)  # fmt: skip

# Where what we replace has to be called from; else ours is never run, and nobody is told.
_CALLS = (
    (_BatchNorm, "call", "_moments"),
    (_Model, "compute_loss", "_aggregate_additional_loss"),
    (_Model, "evaluate", "_maybe_symbolic_build"),
    (_Model, "evaluate", "_use_cached_eval_dataset"),  # By which `fit` says that it evaluates.
    (_Model, "fit", "_maybe_symbolic_build"),
    (_Model, "fit", "_use_cached_eval_dataset"),
    (_Model, "make_test_function", "_make_function"),
    (_Model, "make_train_function", "_make_function"),
    (CompileLoss, "call", "_flat_losses"),
    (TFEpochIterator, "__iter__", "_enumerate_iterator"),
    (TFOptimizer, "_backend_update_step", "_all_reduce_sum_gradients"),
    (BaseOptimizer, "_backend_apply_gradients", "_apply_weight_decay"),
    (BaseOptimizer, "_backend_apply_gradients", "_backend_increment_gradient_accumulators"),
    (BaseOptimizer, "_backend_apply_gradients", "_backend_update_step"),
    (BaseOptimizer, "_backend_apply_gradients", "_overwrite_model_variables_with_average_value"),
)

# Attributes that we read or set, most of which exist in instances alone: their class has to have
# them, or to assign them in one of its methods.
_ATTRIBUTES = (
    # The number of workers, which would be taken for one.
    (CollectiveAllReduceExtended, "_num_workers"),
    # What was compiled, and where a model was made.
    (_Model, "_compile_loss _compile_metrics _distribute_strategy _loss_tracker"),
    (CompileLoss, "Loss _flat_losses _metrics _user_loss"),
    (CompileLoss.Loss, "loss path _replace"),
    (LossFunctionWrapper, "fn _fn_kwargs"),
    (keras.metrics.MeanMetricWrapper, "_fn _fn_kwargs"),
    # What a layer holds: added losses, generators, variables, other layers; what it was built for.
    (
        _Layer,
        "_build_shapes_dict _call_has_training_arg _layers _losses _non_trainable_variables "
        "_seed_generators _trainable_variables",
    ),
    (_BatchNorm, "_reduction_axes"),
    # What decides whether attention is computed by us.
    (
        _Attention,
        "_activity_regularizer _dropout _dropout_layer _flash_attention _sliding_window "
        "_use_bias _use_gate",
    ),
    (BaseOptimizer, "_trainable_variables"),
    # Where an epoch is; and the data in it.
    (TFEpochIterator, "_num_batches _steps_seen data_adapter steps_per_epoch steps_per_execution"),
    (ArrayDataAdapter, "_inputs _num_samples"),
    (DataAdapter, "batch_size get_tf_dataset num_batches on_epoch_begin on_epoch_end"),
    (array_slicing, "TensorflowSparseWrapper"),
    # By which seeds and sizes are found, and a clock put around a data set.
    (_Dataset, "_flat_structure _variant_tensor"),
    (_BatchDataset, "_batch_size"),
    (_ShuffleDataset, "_seed _seed2"),
    # From where on a strategy numbers its groups of devices.
    (tf.distribute.MirroredStrategy, "_collective_key_base"),
)


def xla_product(a, b, over=(1, 0)):
    """A product of two matrices in float32, whatever they are; for XLA alone.

    Args:
        a: Matrix.
        b: Matrix of the same dtype.
        over: The axis of each that is summed over.

    Returns:
        float32 matrix.
    """
    axes = DotDimensionNumbers(
        lhs_contracting_dimensions=[over[0]], rhs_contracting_dimensions=[over[1]]
    )
    return xla_dot_v2(
        lhs=a,
        rhs=b,
        dimension_numbers=axes.SerializeToString(),
        precision_config="",
        preferred_element_type=tf.float32,
    )


def check():
    """See that every private name is there and as expected.

    Raises:
        ImportError: naming the first that is not, the versions at hand and those supported.
    """
    for problem in _problems():
        raise ImportError(_refusal(problem))


def _problems():
    """What is not as expected, each in words."""
    for rows, exact in ((_CALLED, False), (_REPLACED, True)):
        for owner, name, parameters in rows:
            where = sys.modules[owner] if isinstance(owner, str) else owner
            if not hasattr(where, name):
                yield f"{_full(owner, name)} is missing"
            elif not _takes(getattr(where, name), parameters.split(), exact):
                found = ", ".join(inspect.signature(getattr(where, name)).parameters)
                expected = ", ".join(parameters.split())
                yield f"{_full(owner, name)} takes ({found}), expected ({expected})"
    for owner, name, called in _CALLS:
        if not hasattr(owner, name):
            yield f"{_full(owner, name)} is missing"
        elif called not in _names(_code(getattr(owner, name))):
            yield f"{_full(owner, name)} does not use {called}"
    for owner, names in _ATTRIBUTES:
        for name in names.split():
            if not hasattr(owner, name) and not _assigns(owner, name):
                yield f"{_full(owner, name)} is missing"


def _full(owner, name):
    if isinstance(owner, str):
        return f"{owner}.{name}"
    if inspect.ismodule(owner):
        return f"{owner.__name__}.{name}"
    return f"{owner.__module__}.{owner.__qualname__}.{name}"


def _takes(function, expected, exact):
    """Whether a function's parameters are those expected, or begin with them."""
    parameters = list(inspect.signature(function).parameters.values())
    more = parameters[len(expected) :]
    optional = all(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in more
    )
    return [p.name for p in parameters[: len(expected)]] == expected and (
        not more if exact else optional
    )


def _code(value):
    """The code of a function or property, within what wraps it; `None` if it has none."""
    if isinstance(value, property):
        value = value.fget
    value = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
    return getattr(value, "__code__", None)


def _names(code):
    """Names and strings in a code and those within it."""
    if code is None:
        return set()
    found, left = set(code.co_names), list(code.co_consts)
    while left:
        each = left.pop()
        if isinstance(each, tuple):
            left += each
        elif isinstance(each, str):
            found.add(each)
        elif inspect.iscode(each):
            found |= _names(each)
    return found


def _assigns(owner, name):
    """Whether a method of a class, or of one that it inherits from, assigns an attribute."""
    codes = [_code(value) for each in owner.__mro__ for value in vars(each).values()]
    codes = [code for code in codes if code is not None]
    while codes:
        code = codes.pop()
        codes += [each for each in code.co_consts if inspect.iscode(each)]
        if name in code.co_names and any(
            each.opname == "STORE_ATTR" and each.argval == name
            for each in dis.get_instructions(code)
        ):
            return True
    return False


check()
