"""A scaling curve of language models: four sizes, a fitted law, and a fifth that it predicts.

    tools/corpus corpora/docs
    tools/bench scaling --dataset=text:corpora/docs/corpus.jsonl --workdir=runs/scaling

Each size is trained on a number of tokens in proportion to its parameters, by `bigmodels-train`, in
a run directory of its own. The prediction for the largest is written before it is trained. The
parameters that count are those that multiply a token: the blocks and the output layer, which shares
its weights with the embedding. The same command again goes on where it was, and repeats no finished
run.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HEAD = 16  # Width of an attention head.
# What all sizes share; --model replaces it.
MODEL = ("recipe=modern", "tie_embeddings=true", "dropout_rate=0")


def arguments():
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="text:FILE.jsonl, or any other text")
    add("--workdir", type=pathlib.Path, required=True, help="directory of the runs")
    add(
        "--sizes",
        default="48x2,64x2,80x3,96x4,144x4",
        help="WIDTHxBLOCKS of each model; the law of all but the last predicts the last",
    )
    add("--tokens_per_parameter", type=float, default=10)
    add("--vocab_size", type=int, default=2048)
    add("--length", type=int, default=128, help="tokens of a window")
    add("--batch_size", type=int, default=8, help="windows of a batch")
    add("--epochs", type=int, default=4, help="parts of a training, with a checkpoint after each")
    add("--evaluation_tokens", type=int, default=300_000)
    add("--learning_rate", type=float, default=1e-2)
    add("--model", nargs="*", default=MODEL, metavar="NAME=VALUE", help="model settings of all")
    add("--set", nargs="*", default=[], metavar="NAME=VALUE", help="further settings of all")
    add("--seed", type=int, default=1)
    add(
        "--only", type=int, help="train only so many sizes, the smallest first, and predict nothing"
    )
    return parser.parse_args()


def parameters(width, blocks, vocab_size):
    """Weights of the matrices that multiply a token."""
    return 12 * blocks * width**2 + vocab_size * width


def command(given, size, *more):
    """The command that trains a size."""
    width, blocks = map(int, size.split("x"))
    tokens = given.tokens_per_parameter * parameters(width, blocks, given.vocab_size)
    steps = round(tokens / (given.batch_size * given.length * given.epochs))
    settings = [
        "model.kind=transformer",
        f"model.embedding_dim={width}",
        f"model.num_layers={blocks}",
        f"model.num_heads={max(1, width // HEAD)}",
        f"model.feed_forward_dim={8 * width // 3}",  # With SwiGLU as many weights as 4 * width.
        f"steps_per_epoch={max(1, steps)}",
        "data.tokens=subwords",
        f"data.vocab_size={given.vocab_size}",
        f"data.length={given.length}",
        f"data.evaluation_tokens={given.evaluation_tokens}",
        *(f"model.{setting}" for setting in given.model),
        *given.set,
    ]
    return [
        *(sys.executable, "-m", "bigmodels", "train", "--task=text_generation"),
        f"--dataset={given.dataset}",
        f"--workdir={given.workdir / size}",
        f"--epochs={given.epochs}",
        f"--batch_size={given.batch_size}",
        f"--learning_rate={given.learning_rate}",
        f"--seed={given.seed}",
        *(word for setting in settings for word in ("--set", setting)),
        *more,
    ]


def run(words):
    """The result of a command, from its last line."""
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def row(size, result):
    """A line of the table."""
    validation = result["validation"]
    return (
        f"{size:>9} {result['parameters']:>12,} {result['throughput'] * result['seconds']:>13,.0f}"
        f" {result['training_flops'] or 0:>11.3g} {validation['loss']:>8.4f}"
        f" {validation['bits_per_byte']:>9.4f} {result['seconds']:>8.0f}"
    )


def main():
    """Train, fit, predict, train the last, print."""
    given = arguments()
    given.workdir.mkdir(parents=True, exist_ok=True)
    *sizes, last = given.sizes.split(",")
    print(f"{'size':>9} {'parameters':>12} {'tokens':>13} {'operations':>11} {'loss':>8}", end="")
    print(f" {'bits/byte':>9} {'seconds':>8}", flush=True)
    for size in [*sizes, last][: given.only] if given.only else sizes:
        print(row(size, run(command(given, size))), flush=True)
    if given.only:
        return
    runs = [given.workdir / size for size in sizes]
    stored = given.workdir / f"prediction_{last}.json"
    if not stored.exists():
        dry = ("--dry_run", "--predict_from=" + ",".join(map(str, runs)))
        text = json.dumps(run(command(given, last, *dry)), indent=2)
        stored.with_suffix(".partial").write_text(text + "\n")
        stored.with_suffix(".partial").replace(stored)
    predicted = json.loads(stored.read_text())
    print(f"\n{predicted['scaling_law']}")
    if "extrapolation" in predicted:
        print(predicted["extrapolation"])
    result = run(command(given, last))
    print(row(last, result))
    for name in ("loss", "bits_per_byte"):
        value, measured = predicted[f"predicted_{name}"], result["validation"][name]
        low, high = predicted[f"predicted_{name}_interval"]
        print(
            f"{name}: predicted {value:.4f} ({low:.4f} to {high:.4f}), measured {measured:.4f}, "
            f"error {value / measured - 1:+.2%}"
        )
    page = given.workdir / "compare.html"
    words = [sys.executable, "-m", "bigmodels", "compare", *map(str, runs)]
    run([*words, str(given.workdir / last), f"--output={page}"])
    print(f"Page: {page}")


if __name__ == "__main__":
    main()
