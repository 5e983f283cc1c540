"""Finished runs of text models of different sizes, written without training any."""

from bigmodels import tasks
from bigmodels.runs.directory import RunDirectory, plain
from bigmodels.tasks.settings import with_settings

SETTINGS = {
    "model.kind": "transformer",
    "model.embedding_dim": 8,
    "model.num_heads": 2,
    "model.feed_forward_dim": 8,
    "data.tokens": "bytes",
    "data.length": 16,
    "batch_size": 2,
    "epochs": 1,
    "strategy": "one_device",
}


def loss_at(compute):
    """A known law: E = 2, exponent 0.25, a term of 2 at 1e9."""
    return 2 + 2 * (1e9 / compute) ** 0.25


def write_run(path, compute, layers, finished=True, **changes):
    """A run of a Transformer with so many layers, on the law."""
    task = tasks.get("text_generation")
    settings = SETTINGS | {"model.num_layers": layers} | changes
    config = with_settings(task.config(), settings)
    run = RunDirectory(path)
    path.mkdir(parents=True)
    stored = {"task": task.name, "config": plain(config), "versions": {}, "machine": {}}
    run.write_json("config.json", stored | {"imports": []})
    if not finished:
        return path
    loss = loss_at(compute)
    metrics = {"loss": loss, "bits_per_byte": loss / 0.7, "accuracy": 0.5}
    run.write_json(
        "result.json",
        {
            **{"task": task.name, "dataset": config.dataset, "seed": 0, "steps": 10},
            **{"parameters": 1000 * layers, "seconds": 10.0, "throughput": 100.0 * layers},
            **dict.fromkeys(("train", "validation", "test"), metrics),
            "training_flops": compute,
        },
    )
    return path


def write_runs(directory):
    """Four of them, over three decades of compute."""
    sizes = {1: 1e9, 2: 1e10, 3: 1e11, 4: 1e12}
    return [write_run(directory / f"{layers}", c, layers) for layers, c in sizes.items()]
