"""Export a trained run to a format that runs without this package."""

import dataclasses
import importlib
import inspect
import json
import os
import pathlib
import tempfile
import zipfile

import keras
import numpy as np
import tensorflow as tf

from bigmodels import extras
from bigmodels.messages import check_choice
from bigmodels.runs import atomic
from bigmodels.runs.directory import RunDirectory

# Largest difference between an exported file and Keras, relative to the largest value if that is
# above 1; runtimes sum in other orders. Pixels may differ by one level.
TOLERANCE = 1e-4

_METADATA = "metadata.json"


def export(
    workdir: str | os.PathLike,
    format: str = "saved_model",
    output: str | os.PathLike | None = None,
    signature: str | None = None,
) -> dict:
    """Export a run's model, and compare its outputs with those of Keras.

    The exported model computes in float32, also after a training in mixed precision.

    Args:
        workdir: Directory of a trained run.
        format: `saved_model` (TensorFlow, TensorFlow Serving), `onnx` (ONNX Runtime and others) or
            `litert` (formerly TensorFlow Lite).
        output: For `saved_model` a directory, in which a new numbered version is made; otherwise a
            file, `.onnx` or `.tflite`, which is replaced. By default in `export` in the run's
            directory.
        signature: The only signature to export; by default all that the format supports (for ONNX
            the first of them).

    Returns:
        A dict: `task`, `format`, `path`, `bytes`, `signatures` (for each its `inputs` and `outputs`
        by name, with `dtype` and `shape`, in which `None` is any size), `max_difference` (the
        largest difference from Keras for an example) and `tolerance`.

    Raises:
        ValueError: if the run is not finished, the format or signature is unknown, the format does
            not support the signature, or a package is not installed.
        FloatingPointError: if the outputs differ from those of Keras; the file is then deleted.

    Example:

    >>> settings = {"epochs": 1, "steps_per_epoch": 2, "model.filters": "4"}
    >>> _ = bigmodels.train("image_classification", "runs/digits", settings, verbose=0)
    >>> exported = export("runs/digits", output="digits", signature="probabilities")
    >>> exported["path"], list(exported["signatures"])
    ('digits/1', ['probabilities'])
    """
    check_choice("format", format, tuple(FORMATS))
    write, load, default, packages = FORMATS[format]
    _check_installed(format, packages)
    run = RunDirectory(workdir)
    task, config = run.load_config()
    model = run.load_model()
    _use_plain_arithmetic(model)
    predictor = task.predictor(model, config)
    signatures = _choose(predictor.signatures(), format, signature)
    metadata = {"task": task.name, **predictor.metadata()}
    path = _target(run.path, default, output)
    with atomic.atomic_path(path) as temporary:
        try:
            write(signatures, metadata, temporary)
            exported = load(temporary, signatures)
        except Exception as error:
            # Converters and runtimes raise errors of many types.
            reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"format: {format} cannot hold this model: {reason}") from error
        difference = max(_difference(name, s, exported[name]) for name, s in signatures.items())
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return {
        "task": task.name,
        "format": format,
        "path": str(path),
        "bytes": sum(file.stat().st_size for file in files),
        "signatures": {
            name: {"inputs": inputs, "outputs": outputs}
            for name, (_, inputs, outputs) in exported.items()
        },
        "max_difference": difference,
        "tolerance": TOLERANCE,
    }


def _check_installed(format, packages):
    with extras.require_extra(f"format: {format}", "export"):
        for package in packages:
            importlib.import_module(package)


def _use_plain_arithmetic(model):
    """Compute in float32 and without cuDNN; the weights stay as they are."""
    for layer in model._flatten_layers():
        layer.dtype_policy = "float32"
        if hasattr(layer, "use_cudnn"):
            # On a GPU Keras would export cuDNN's LSTM, which runs on no other device.
            layer.use_cudnn = False


def _choose(signatures, format, signature):
    everything = format == "saved_model"
    supported = {name: s for name, s in signatures.items() if everything or s.portable}
    if signature is None:
        # An ONNX file holds a single function.
        return dict(list(supported.items())[:1]) if format == "onnx" else supported
    check_choice("signature", signature, tuple(signatures))
    if signature not in supported:
        raise ValueError(
            f"signature: {signature!r} needs strings, image files, random numbers or loops, which "
            f"{format} does not support; use --format=saved_model, or the signature "
            f"{' or '.join(supported)}"
        )
    return {signature: signatures[signature]}


def _target(run, default, output):
    path = run / "export" / default if output is None else pathlib.Path(output)
    suffix = pathlib.Path(default).suffix
    if output is None:
        path.parent.mkdir(exist_ok=True)
    elif path.suffix != suffix and suffix:
        raise ValueError(f"output: {str(path)!r}, expected a file name that ends in {suffix}")
    elif not path.absolute().parent.is_dir():
        raise ValueError(f"output: {str(path)!r}, but {str(path.parent)!r} is not a directory")
    if suffix:
        if path.is_dir():
            raise ValueError(f"output: {str(path)!r} is a directory, expected a file")
        return path
    if path.exists() and not path.is_dir():
        raise ValueError(f"output: {str(path)!r} is a file, expected a directory")
    path.mkdir(exist_ok=True)
    # TensorFlow Serving serves the highest version, and loads new ones while it runs.
    versions = [int(p.name) for p in path.iterdir() if p.name.isdecimal()]
    return path / str(1 + max(versions, default=0))


def _difference(name, signature, exported):
    """The largest difference from Keras for the example, in the units of the outputs."""
    run, _, _ = exported
    expected = signature.function(*map(tf.constant, signature.example))
    arguments = inspect.signature(signature.function).parameters
    actual = run(**dict(zip(arguments, signature.example, strict=True)))
    largest = 0.0
    for output, value in expected.items():
        a, b = (_pixels(output, np.asarray(v)) for v in (actual[output], value))
        if a.shape != b.shape:
            difference, allowed = np.inf, 0.0
        elif b.dtype.kind in "OS":
            difference, allowed = float(np.sum(a != b)), 0.0
        else:
            difference = float(np.max(np.abs(a.astype("float64") - b.astype("float64"))))
            is_float = b.dtype.kind == "f"
            allowed = TOLERANCE * max(1.0, float(np.abs(b).max())) if is_float else 1.0
        if not difference <= allowed:  # NaN does not pass either.
            raise FloatingPointError(
                f"signature: the output {output!r} of {name!r} differs from that of Keras by "
                f"{difference:.2g}, more than {allowed:.2g}; nothing was written"
            )
        largest = max(largest, difference)
    return largest


def _pixels(name, values):
    """Decode outputs of encoded images, as files with slightly different pixels differ widely."""
    if not name.endswith("_bytes"):
        return values
    return np.stack([tf.io.decode_image(v, expand_animations=False) for v in values])


def _spec(dtype, shape):
    sizes = [size if isinstance(size, int) and size >= 0 else None for size in shape]
    return {"dtype": dtype, "shape": sizes}


def _write_saved_model(signatures, metadata, path):
    archive = keras.export.ExportArchive()
    for name, signature in signatures.items():
        archive.add_endpoint(name, signature.function, list(signature.inputs))
    archive.write_out(str(path), verbose=False)
    # The directory of a SavedModel that TensorFlow ignores.
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / _METADATA).write_text(json.dumps(metadata), encoding="utf-8")


def _load_saved_model(path, signatures):
    loaded = tf.saved_model.load(str(path))

    def runner(name):
        function = loaded.signatures[name]
        described = function.structured_input_signature[1], function.structured_outputs
        return function, *(
            {n: _spec(s.dtype.name, s.shape) for n, s in sorted(specs.items())}
            for specs in described
        )

    return {name: runner(name) for name in signatures}


def _write_onnx(signatures, metadata, path):
    import onnx
    import tf2onnx

    (signature,) = signatures.values()
    function = tf.function(signature.function, input_signature=signature.inputs, autograph=False)
    model, _ = tf2onnx.convert.from_function(function, signature.inputs)
    for tensor in (*model.graph.input, *model.graph.output):
        for axis, size in enumerate(tensor.type.tensor_type.shape.dim):
            if size.dim_param:  # Any size; the converter only numbers these dimensions.
                size.dim_param = f"{tensor.name}_{axis}" if axis else "batch"
    properties = {name: json.dumps(value) for name, value in metadata.items()}
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)


def _load_onnx(path, signatures):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs, outputs = (
        # "tensor(float)" is what NumPy calls float32.
        {v.name: _spec({"float": "float32"}.get(v.type[7:-1], v.type[7:-1]), v.shape) for v in all}
        for all in (session.get_inputs(), session.get_outputs())
    )

    def run(**values):
        return dict(zip(outputs, session.run(list(outputs), values), strict=True))

    (name,) = signatures
    return {name: (run, inputs, outputs)}


def _write_litert(signatures, metadata, path):
    def fixed(signature):
        if not signature.fixed_in_litert:
            return signature
        pairs = zip(signature.inputs, signature.example, strict=True)
        inputs = tuple(tf.TensorSpec(np.shape(example), spec.dtype) for spec, example in pairs)
        return dataclasses.replace(signature, inputs=inputs)

    with tempfile.TemporaryDirectory() as directory:
        source = pathlib.Path(directory)
        _write_saved_model({name: fixed(s) for name, s in signatures.items()}, metadata, source)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=list(signatures)
        )
        path.write_bytes(converter.convert())
    # TensorFlow Lite's metadata tools attach files in the same way: as a ZIP archive.
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_METADATA, json.dumps(metadata))


def _load_litert(path, signatures):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))

    def runner(name):
        run = interpreter.get_signature_runner(name)
        return run, *(
            {
                n: _spec(np.dtype(d["dtype"]).name, d["shape_signature"].tolist())
                for n, d in details.items()
            }
            for details in (run.get_input_details(), run.get_output_details())
        )

    return {name: runner(name) for name in signatures}


# For each format: functions to write and to load it, the default file name, required packages.
FORMATS = {
    "saved_model": (_write_saved_model, _load_saved_model, "saved_model", ()),
    "onnx": (_write_onnx, _load_onnx, "model.onnx", ("tf2onnx", "onnx", "onnxruntime")),
    "litert": (_write_litert, _load_litert, "model.tflite", ("ai_edge_litert.interpreter",)),
}
