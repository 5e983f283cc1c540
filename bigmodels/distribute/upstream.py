"""Every private name of Keras and TensorFlow that the package uses, and a check that they fit.

Private names may change with any version, often without an error: a method that Keras no longer
calls simply does not run, and replicas drift apart. So they are all imported here and nowhere else,
and checked once, when this module is imported. The checks create no tensors, as TensorFlow must not
have started before a strategy over several workers is created.
"""

import dis
import inspect
import sys

import keras
import tensorflow as tf

# As in setup.cfg.
SUPPORTED = "keras >=3.15,<3.17 and tensorflow >=2.21,<2.23"


def _refusal(what):
    return (
        f"bigmodels needs {SUPPORTED}, as it uses private names of theirs; "
        f"in Keras {keras.__version__} with TensorFlow {tf.__version__} {what}"
    )


try:
    # Shape inference without running anything; and a tensor's mask, which Keras stores as an
    # attribute of the tensor.
    from keras.src.backend import compute_output_spec, get_keras_mask, set_keras_mask

    # Holds the generator that layers without a seed draw from; its state goes into checkpoints;
    # and how many layers of a name there are ("object_name_uids").
    from keras.src.backend.common import global_state

    # Keras' overrides for `tf.distribute` of the methods of `BaseOptimizer` below.
    from keras.src.backend.tensorflow.optimizer import TFOptimizer

    # The source of batches in `fit`; `resume` lets it begin within an epoch.
    from keras.src.backend.tensorflow.trainer import TFEpochIterator

    # The steps of `Loss.__call__` between a loss's values and its reduction.
    from keras.src.losses.loss import apply_mask, squeeze_or_expand_to_same_rank

    # The base class of Keras' own losses, to tell them from others.
    from keras.src.losses.losses import LossFunctionWrapper

    # The class of `Model(inputs, outputs)`.
    from keras.src.models.functional import Functional

    # Used with `TFOptimizer` and with `global_state`.
    from keras.src.optimizers.base_optimizer import BaseOptimizer
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

    # How Keras recognises kinds of data.
    from keras.src.trainers import data_adapters

    # The containers of compiled losses and metrics.
    from keras.src.trainers.compile_utils import CompileLoss, CompileMetrics, get_loss

    # How Keras slices and splits arrays, and its adapters for data.
    from keras.src.trainers.data_adapters import array_slicing
    from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
    from keras.src.trainers.data_adapters.data_adapter import DataAdapter

    # Keras' default name for a layer.
    from keras.src.utils.naming import to_snake_case

    # The seed of `keras.utils.set_random_seed`.
    from keras.src.utils.rng_utils import get_random_seed

    # XLA operations: cuDNN kernels, and products of half precision accumulated in float32.
    from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_custom_call_v2, xla_dot_v2
    from tensorflow.compiler.xla.xla_data_pb2 import DotDimensionNumbers

    # Data sets with attributes for their batch size and, below, their seed.
    from tensorflow.python.data.ops.batch_op import _BatchDataset

    # A data set around another one, for operations without a public function.
    from tensorflow.python.data.ops.dataset_ops import UnaryUnchangedStructureDataset
    from tensorflow.python.data.ops.shuffle_op import _ShuffleDataset

    # `MultiWorkerMirroredStrategy` uses one CPU device of each worker; our subclass uses all.
    from tensorflow.python.distribute.collective_all_reduce_strategy import (
        CollectiveAllReduceExtended,
    )
    from tensorflow.python.distribute.collective_util import Options
    from tensorflow.python.distribute.distribute_lib import Strategy

    # A variable with a copy on each device.
    from tensorflow.python.distribute.values import DistributedVariable

    # Whether `enable_op_determinism` was called.
    from tensorflow.python.framework.config import is_op_determinism_enabled

    # Whether XLA will compile a graph.
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

# Functions that we call: the owner (a module by its name), the name, and the parameters that we
# rely on. Further parameters must have defaults.
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
    # All layers in a model; some are changed while a step is traced.
    (_Layer, "_flatten_layers", "self"),
    # Used by `keras.Model.fit`, `train_step` and pickling.
    (_Model, "_assert_compile_called", "self method_name"),
    (_Model, "_compute_loss", "self x y y_pred sample_weight training"),
    (_Model, "_symbolic_build", "self iterator data_batch"),
    (_Model, "_unpickle_model", "bytesio"),
    # Combines all the masks given to attention.
    (
        _Attention,
        "_compute_attention_mask",
        "self query value query_mask value_mask key_mask attention_mask use_causal_mask",
    ),
    # The parts of a data set, searched for a shuffle without a seed.
    (_Dataset, "_inputs", "self"),
    (_Dataset, "_functions", "self"),
    # A replica's own copy of a variable.
    (DistributedVariable, "_get_on_device_or_primary", "self"),
    # An epoch's batches; `resume` counts them from where a run continues.
    (TFEpochIterator, "_get_iterator", "self"),
    # The number of a variable, from Keras' variable or TensorFlow's.
    (BaseOptimizer, "_get_variable_index", "self variable"),
)  # fmt: skip

# Methods that we replace: Keras or TensorFlow calls them with exactly these arguments.
_REPLACED = (
    (_Model, "_aggregate_additional_loss", "self loss"),
    (_Model, "_make_function", "self step_function"),
    (_Model, "_maybe_symbolic_build", "self iterator data_batch"),
    # The statistics of a batch, here computed over all replicas.
    (_BatchNorm, "_moments", "self inputs mask"),
    (TFEpochIterator, "_enumerate_iterator", "self"),
    (CompileLoss, "build", "self y_true y_pred"),
    (CollectiveAllReduceExtended, "_initialize_local_devices", "self cluster_resolver "
     "worker_device"),
    # We sum gradients before `apply`, so Keras' own summation must not run.
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
    # What counts as a matrix, and how it is orthogonalised and scaled.
    (keras.optimizers.Muon, "_should_use_adamw", "self variable"),
    (keras.optimizers.Muon, "lr_adjust", "self x"),
    (keras.optimizers.Muon, "zeropower_via_newtonschulz5", "self x steps"),
    # If a subclass of attention overrides one of these, Keras computes it.
    (
        _Attention,
        "_compute_attention",
        "self query key value attention_mask training return_attention_scores use_causal_mask",
    ),
    (_Attention, "_compute_causal_mask", "self query value"),
    (_Attention, "_masked_softmax", "self attention_scores attention_mask"),
)  # fmt: skip

# `(owner, method, name)`: the method must use the name. If Keras no longer called a method that we
# replace, ours would silently not run.
_CALLS = (
    (_BatchNorm, "call", "_moments"),
    (_Model, "compute_loss", "_aggregate_additional_loss"),
    (_Model, "evaluate", "_maybe_symbolic_build"),
    (_Model, "evaluate", "_use_cached_eval_dataset"),  # Marks an evaluation within `fit`.
    (_Model, "fit", "_maybe_symbolic_build"),
    (_Model, "fit", "_use_cached_eval_dataset"),
    (_Model, "make_test_function", "_make_function"),
    (_Model, "make_train_function", "_make_function"),
    (CompileLoss, "call", "_flat_losses"),
    (TFEpochIterator, "__iter__", "_enumerate_iterator"),
    (keras.optimizers.Muon, "build", "_should_use_adamw"),
    (keras.optimizers.Muon, "_apply_weight_decay", "_should_use_adamw"),
    (keras.optimizers.Muon, "_muon_update_step", "lr_adjust"),
    (keras.optimizers.Muon, "_muon_update_step", "zeropower_via_newtonschulz5"),
    (TFOptimizer, "_backend_update_step", "_all_reduce_sum_gradients"),
    (BaseOptimizer, "_backend_apply_gradients", "_apply_weight_decay"),
    (BaseOptimizer, "_backend_apply_gradients", "_backend_increment_gradient_accumulators"),
    (BaseOptimizer, "_backend_apply_gradients", "_backend_update_step"),
    (BaseOptimizer, "_backend_apply_gradients", "_overwrite_model_variables_with_average_value"),
)

# Attributes that we read or set. Most exist only in instances, so the class must have them or
# assign them in one of its methods.
_ATTRIBUTES = (
    # The number of workers, for which 1 is assumed if the attribute is missing.
    (CollectiveAllReduceExtended, "_num_workers"),
    # Compiled losses and metrics, and the strategy in which a model was created.
    (_Model, "_compile_loss _compile_metrics _distribute_strategy _loss_tracker"),
    (CompileLoss, "Loss _flat_losses _metrics _user_loss"),
    (CompileLoss.Loss, "loss path _replace"),
    (LossFunctionWrapper, "fn _fn_kwargs"),
    (keras.metrics.MeanMetricWrapper, "_fn _fn_kwargs"),
    # A layer's added losses, generators, variables and sublayers, and the shapes it was built for.
    (
        _Layer,
        "_build_shapes_dict _call_has_training_arg _layers _losses _non_trainable_variables "
        "_seed_generators _trainable_variables",
    ),
    (_BatchNorm, "_reduction_axes"),
    # These decide whether attention uses our kernel.
    (
        _Attention,
        "_activity_regularizer _dropout _dropout_layer _flash_attention _sliding_window "
        "_use_bias _use_gate",
    ),
    (BaseOptimizer, "_trainable_variables"),
    # The position in an epoch, and its data.
    (TFEpochIterator, "_distributed_dataset _num_batches _steps_seen"),
    (TFEpochIterator, "data_adapter steps_per_epoch steps_per_execution"),
    (ArrayDataAdapter, "_inputs _num_samples"),
    (DataAdapter, "batch_size get_tf_dataset num_batches on_epoch_begin on_epoch_end"),
    (array_slicing, "TensorflowSparseWrapper"),
    # For finding seeds and batch sizes, and for timing a data set.
    (_Dataset, "_flat_structure _variant_tensor"),
    (_BatchDataset, "_batch_size"),
    (_ShuffleDataset, "_seed _seed2"),
    # The first number of a strategy's device groups.
    (tf.distribute.MirroredStrategy, "_collective_key_base"),
)


def xla_product(a: tf.Tensor, b: tf.Tensor, over: tuple[int, int] = (1, 0)) -> tf.Tensor:
    """Multiply two matrices of any float dtype with a float32 result; works only within XLA.

    Args:
        a: Matrix.
        b: Matrix of the same dtype.
        over: The axis of `a` and the axis of `b` to sum over.

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


def check() -> None:
    """Check that every private name exists and is as expected.

    Raises:
        ImportError: naming the first one that is not, with the installed and supported versions.
    """
    for problem in _problems():
        raise ImportError(_refusal(problem))


def _problems():
    """Descriptions of all names that are not as expected."""
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
    """Whether a function has the expected parameters; if not `exact`, also optional ones more."""
    parameters = list(inspect.signature(function).parameters.values())
    more = parameters[len(expected) :]
    optional = all(
        p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in more
    )
    return [p.name for p in parameters[: len(expected)]] == expected and (
        not more if exact else optional
    )


def _code(value):
    """The code object of a function or property without its decorators; `None` if it has none."""
    if isinstance(value, property):
        value = value.fget
    value = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
    return getattr(value, "__code__", None)


def _names(code):
    """Names and strings in a code object and those nested in it."""
    if code is None:
        return set()
    names, constants = set(code.co_names), list(code.co_consts)
    while constants:
        constant = constants.pop()
        if isinstance(constant, tuple):
            constants += constant
        elif isinstance(constant, str):
            names.add(constant)
        elif inspect.iscode(constant):
            names |= _names(constant)
    return names


def _assigns(owner, name):
    """Whether a method of a class, or of one that it inherits from, assigns an attribute."""
    codes = [_code(value) for cls in owner.__mro__ for value in vars(cls).values()]
    codes = [code for code in codes if code is not None]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if inspect.iscode(constant)]
        if name in code.co_names and any(
            instruction.opname == "STORE_ATTR" and instruction.argval == name
            for instruction in dis.get_instructions(code)
        ):
            return True
    return False


check()
