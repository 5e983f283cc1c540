"""Hyperparameter search over the settings of a task."""

import math
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import keras_tuner
import tensorflow as tf

from bigmodels import tasks
from bigmodels.commands.train import train
from bigmodels.messages import check_choice, did_you_mean
from bigmodels.reports import plots, report
from bigmodels.reports.pages import words
from bigmodels.runs import atomic
from bigmodels.runs.directory import RunDirectory, plain, versions
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import command_line, flat_settings, with_settings
from bigmodels.tuning import search

TUNERS = tuple(search.ORACLES)
_TRIALS = 10
# Direction by the end of a metric's name, for metrics whose task does not define it.
_DIRECTIONS = {
    "min": ("loss", "error", "perplexity", "distance", "per_character", "mae", "mse", "rmse",
            "wer", "cer"),
    "max": ("accuracy", "score", "precision", "recall", "auc", "f1", "bleu", "covered",
            "confidence", "psnr", "ssim"),
}  # fmt: skip


def tune(
    task: str | Task,
    workdir: str | os.PathLike,
    settings: dict[str, Any] | None = None,
    tuner: str = "random",
    trials: int | None = None,
    hours: float | None = None,
    objective: str | None = None,
    direction: str | None = None,
    verbose: int = 1,
    workers: Sequence[str] | None = None,
    worker: int | None = None,
    timeout: float = 120.0,
) -> dict | None:
    """Search the settings of a task for those with the best validation score.

    Every trial is an ordinary run in `workdir/trials/`. Called again with the same arguments, it
    continues an unfinished search: finished trials are reused, interrupted ones continue from their
    last checkpoint. With larger `trials` or `hours` it continues a finished search.

    Several processes search together if TF_CONFIG, Slurm, `workers`, or keras-tuner's own
    KERASTUNER_TUNER_ID, _ORACLE_IP and _ORACLE_PORT define them. Each calls this function with the
    same arguments; the first assigns the trials, and the others run them on the devices of their
    machine. They need a shared file system.

    Args:
        task: Name of a task, or a `bigmodels.tasks.record.Task` of your own.
        workdir: The search's directory.
        settings: Settings of all trials, by dotted name: `{"epochs": 3, "early_stopping": 2}`.
            Settings given here are not searched.
        tuner: "random", "hyperband", "bayesian" or "grid". For hyperband `epochs` is the largest
            number of epochs of a trial; a grid has at most three values of each numeric range.
        trials: Largest number of trials. By default 10 for random and bayesian, one pass of
            hyperband, or the whole grid; unlimited if `hours` is given.
        hours: Hours of searching after which no new trial starts; running trials are finished.
        objective: `SPLIT.METRIC` of the result, for example "validation.accuracy"; the task's own
            by default. The test split is not allowed.
        direction: "min" or "max"; derived from the metric by default.
        verbose: 0 for silence, 1 for a line per trial on stderr.
        workers: Addresses of all processes, if there are several; see
            `bigmodels.distribute.strategy`.
        worker: Index of this process among the workers.
        timeout: Seconds without a sign of life after which another process counts as lost.

    Returns:
        The content of `result.json`; `None` on processes that only run trials.

    Raises:
        ValueError: naming the argument or setting that does not fit, before anything is trained or
            written.
        FloatingPointError: if no trial finished.
        TimeoutError: if another process is lost.
        OSError: if the process that assigns the trials cannot listen at its address.

    Example:

    >>> settings = {"epochs": 1, "steps_per_epoch": 2, "model.filters": "4"}
    >>> result = tune("image_classification", "runs/search", settings, trials=1, verbose=0)
    >>> result["best"]["trial"]
    '0000'
    """
    task = tasks.get(task)
    settings = dict(settings or {})
    config = with_settings(task.config(), settings)
    task.check(config)
    _check(tuner, trials, hours, timeout, config)
    objective, direction = _objective(task, objective or task.objective, direction)
    space = search.Space(task.search_space, settings, flat_settings(config), tuner == "grid")
    if not space.searched:
        raise ValueError("set: every setting that could be searched is fixed")
    plan = {
        "task": task.name,
        "tuner": tuner,
        "objective": objective,
        "direction": direction,
        "searched": ", ".join(space.searched),
        "config": plain(config),
    }
    role = search.role(workers, worker)
    say = (lambda line: print(line, file=sys.stderr)) if verbose else (lambda line: None)
    this = _Search(task, settings, config, space, plan, trials, hours, workdir, say)
    exists = this.check(role)
    if (result := this.finished()) is not None:
        say(f"{this.run.path} is finished already; more trials or hours would continue it.")
        return None if role.kind == "worker" else result
    with search.playing(role):
        data = task.load_data(config)
        say(f"Loaded and checked {config.dataset}.")
        if not exists and role.kind != "worker":
            _check_metric(task, config, data, objective)
        del data  # Each trial loads its data itself, as any run does.
        return (this.help if role.kind == "worker" else this.lead)(role, timeout)


def _check(tuner, trials, hours, timeout, config):
    check_choice("tuner", tuner, TUNERS)
    for name, value in (("trials", trials), ("hours", hours), ("timeout", timeout)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}: {value!r}, expected a positive number")
    if config.strategy == "multi_worker":
        raise ValueError(
            "strategy: 'multi_worker', but a trial trains on one machine; with several workers "
            "each runs trials of its own"
        )
    if config.budget is not None:
        raise ValueError(
            f"budget: {config.budget!r}, but all trials of a search train equally long; use hours"
        )
    if tuner == "hyperband" and config.stop_after is not None:
        raise ValueError(f"stop_after: {config.stop_after}, but hyperband sets it itself")


def _objective(task, name, direction):
    """The checked name and direction of an objective."""
    split, _, metric = name.partition(".")
    if split == "test":
        raise ValueError(
            f"objective: {name!r}, but after a search by the test split its metrics no longer "
            f"estimate the performance on unseen data; use validation.{metric or 'loss'}"
        )
    if split not in ("train", "validation") or not metric:
        raise ValueError(f"objective: {name!r}, expected validation.METRIC or train.METRIC")
    if direction is None and metric in task.metrics:
        direction = task.metrics[metric].better
    if direction is None:
        direction = next((d for d, ends in _DIRECTIONS.items() if metric.endswith(ends)), None)
        if direction is None:
            raise ValueError(f"direction: not known for {name}; give min or max")
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction: {direction!r} is not one of min, max")
    return name, direction


def _check_metric(task, config, data, objective):
    """Check that the objective exists, by evaluating an untrained model on one batch."""
    split, _, metric = objective.partition(".")
    model = task.build_model(config, data)
    task.compile_model(model, config, 1)
    metrics = model.evaluate(data.validation.take(1), return_dict=True, verbose=0)
    if metric not in metrics and objective != task.objective:
        # Not a Keras metric. Those of the task come last, as they may take a while.
        measured = dict.fromkeys(("train", "validation", "test"), metrics)
        evaluation = task.evaluate(model, data, config, measured)
        metrics = metrics | evaluation.metrics.get(split, {})
        if metric not in metrics:
            hint = did_you_mean(f"{split}.{metric}", [f"{split}.{name}" for name in metrics])
            raise ValueError(
                f"objective: {objective!r}, but the {split} metrics of {task.name} are "
                f"{', '.join(metrics)}{hint}"
            )
    keras.utils.clear_session()


class _Search:
    """One search: its directory, and the work of a process in it."""

    def __init__(self, task, settings, config, space, plan, trials, hours, workdir, say):
        self.task, self.settings, self.config = task, settings, config
        self.space, self.plan, self.say = space, plan, say
        self.budget = {"trials": trials, "hours": hours}
        self.run = RunDirectory(workdir)
        self.split, _, self.metric = plan["objective"].partition(".")

    def check(self, role):
        """Check that the directory is free or holds this search; return whether it does."""
        exists = (self.run.path / "search.json").exists()
        if exists or role.kind != "worker":  # For a worker: the chief may be about to write it.
            self.run.check_is("search", "search.json", self.plan)
        return exists

    def finished(self):
        """The result, or `None` if there is none or the budget is now larger."""
        if not self.run.has_result():
            return None
        result = self.run.read_json("result.json")
        for name, now in self.budget.items():
            before = result["budget"].get(name)
            if before is not None and (now is None or now > before):
                return None
        return result

    def lead(self, role, timeout):
        """Search, alone or with workers, and write the result."""
        self.run.path.mkdir(parents=True, exist_ok=True)
        if not (self.run.path / "search.json").exists():
            self.run.write_json("search.json", self.plan | {"versions": versions()})
        self.oracle = self._oracle(self.run.path)
        limit = f", at most {self.oracle.max_trials} trials" if self.oracle.max_trials else ""
        limit += f", {self.space.size} combinations" if self.plan["tuner"] == "grid" else ""
        self.say(
            f"{self.plan['tuner'].capitalize()} search for the {self.plan['direction']}imum of "
            f"{self.plan['objective']} over {self.plan['searched']}{limit}."
        )
        if self.space.left:
            self.say(f"Fixed, so not searched: {', '.join(self.space.left)}.")
        tuner = search.Tuner(self.oracle, self.space, self._run_trial, role, self.run.path)
        self.oracle.reload()
        if self.oracle.trials:
            ended = len(self.oracle.end_order)
            self.say(f"Continuing {self.run.path}: {ended} of its trials have ended.")
        search.search(tuner, self.oracle, role, timeout)
        return self._finish()

    def help(self, role, timeout):
        """Run trials that the chief assigns."""
        # keras-tuner writes files on workers that are not needed.
        with tempfile.TemporaryDirectory(prefix="bigmodels-worker-") as own:
            oracle = self._oracle(pathlib.Path(own))
            tuner = search.Tuner(oracle, self.space, self._run_trial, role, own)
            try:
                search.search(tuner, oracle, role, timeout)
            except TimeoutError:
                if self.finished() is None:  # Otherwise the chief has ended, as all is done.
                    raise

    def _oracle(self, path):
        tuner, trials, hours = self.plan["tuner"], self.budget["trials"], self.budget["hours"]
        options = {}
        if trials is None and hours is None and tuner in ("random", "bayesian"):
            trials = _TRIALS
        if tuner == "hyperband":
            endless = trials is not None or hours is not None
            options["hyperband_iterations"] = 0 if endless else 1
            options["max_epochs"] = self.config.epochs
        if tuner == "bayesian":
            # keras-tuner's default, but at most a third of the trials.
            default = 3 * len(self.space.searched)
            options["num_initial_points"] = min(default, max(3, (trials or 3 * default) // 3))
        oracle = search.ORACLES[tuner](
            objective=keras_tuner.Objective(self.plan["objective"], self.plan["direction"]),
            seed=self.config.seed + 1,  # keras-tuner treats 0 as no seed.
            max_consecutive_failed_trials=math.inf,
            run=RunDirectory(path / "keras_tuner"),
            hours=hours,
            on_begin=self._report_start,
            on_end=self._report_end,
            **options,
        )
        oracle.max_trials = trials
        return oracle

    def _settings(self, trial):
        """The settings that a trial searches."""
        settings = self.space.settings(trial.hyperparameters)
        epochs = trial.hyperparameters.values.get("tuner/epochs", self.config.epochs)
        return settings | ({"stop_after": epochs} if epochs < self.config.epochs else {})

    def _run_trial(self, trial):
        path = self._path(trial.trial_id)
        settings = self.settings | self._settings(trial)
        keras.utils.clear_session()
        try:
            config = with_settings(self.task.config(), settings)
            if not (path / "config.json").exists():
                shutil.rmtree(path, ignore_errors=True)  # Left incomplete by a kill.
                if earlier := trial.hyperparameters.values.get("tuner/trial_id"):
                    self._take_over(self._path(earlier), path, config)
            result = train(self.task.name, path, settings, verbose=0)
            score = result[self.split][self.metric]
            if not math.isfinite(score):
                raise FloatingPointError(f"{self.plan['objective']} is {score}")
        except (ValueError, FloatingPointError, tf.errors.ResourceExhaustedError) as error:
            # Caused by the trial's settings, as data and objective have been checked before.
            reason = " ".join(str(error).split())[:500]
            (self.run.path / "failed").mkdir(exist_ok=True)
            RunDirectory(self.run.path / "failed").write_text(f"{path.name}.txt", reason + "\n")
            raise search.FailedTrialError(reason) from error
        return score

    def _take_over(self, earlier, path, config):
        """Start a run from the end of another with the same settings and fewer epochs."""
        new = RunDirectory(path.with_name(f".{path.name}"))
        shutil.rmtree(new.path, ignore_errors=True)
        new.create(self.task, config)
        for name in ("checkpoints", "logs", "samples"):
            shutil.copytree(earlier / name, new.path / name, dirs_exist_ok=True)
        shutil.copy(earlier / "metrics.jsonl", new.path)
        os.replace(new.path, path)

    def _path(self, trial_id):
        return self.run.path / "trials" / f"{int(trial_id):04d}"

    def _report_start(self, trial, again):
        self.say(
            f"Trial {self._path(trial.trial_id).name} {'continues' if again else 'starts'}: "
            f"{_as_text(self._settings(trial))}"
        )

    def _report_end(self, trial):
        row = self._row(trial)
        line = f"Trial {row['trial']} {row['status']}: {_as_text(row['settings'])}: "
        if row["status"] == "failed":
            self.say(f"{line}{row['reason']}. The search continues.")
            return
        (best,) = self.oracle.get_best_trials(1)
        self.say(
            f"{line}{self.plan['objective']} {row['score']:.4g}. Best so far: "
            f"{best.score:.4g} (trial {self._path(best.trial_id).name})."
        )

    def _row(self, trial):
        """A trial's row in the result."""
        run = RunDirectory(self._path(trial.trial_id))
        states = {"COMPLETED": "finished", "FAILED": "failed"}
        history = run.history()
        row = {
            "trial": run.path.name,
            "run": str(run.path),
            "status": states.get(trial.status, "unfinished"),
            "score": None,
            "epochs": len(history),
            "seconds": round(sum(epoch["seconds"] for epoch in history), 3),
            "settings": self._settings(trial),
        }
        if row["status"] == "finished":
            row["score"] = run.read_json("result.json")[self.split][self.metric]
        elif row["status"] == "failed":
            reason = self.run.path / "failed" / f"{run.path.name}.txt"
            row["reason"] = reason.read_text().strip() if reason.exists() else "unknown"
        return row

    def _finish(self):
        rows = [self._row(trial) for _, trial in sorted(self.oracle.trials.items())]
        scored = [row for row in rows if row["status"] == "finished"]
        if not scored:
            reasons = [row["reason"] for row in rows if "reason" in row]
            reason = f"; the last failure: {reasons[-1]}" if reasons else ""
            raise FloatingPointError(f"none of {len(rows)} trials finished{reason}")
        sign = {"min": 1, "max": -1}[self.plan["direction"]]
        scored.sort(key=lambda row: sign * row["score"])
        rest = [row for row in rows if row not in scored]
        best = scored[0]
        command = command_line(*RunDirectory(best["run"]).load_config())
        result = {name: self.plan[name] for name in ("task", "tuner", "objective", "direction")}
        result |= {
            "dataset": self.config.dataset,
            "seed": self.config.seed,
            "seconds": round(self.oracle.seconds, 3),
            "budget": self.budget,
            "best": {name: best[name] for name in ("trial", "run", "score", "settings")}
            | {"command": command},
            "trials": scored + rest,
        }
        with atomic.atomic_path(self.run.path / "model.keras") as temporary:
            shutil.copyfile(pathlib.Path(best["run"]) / "model.keras", temporary)
        drawn = {
            "Settings and score": plots.parallel_coordinates(
                [row["settings"] for row in scored],
                [row["score"] for row in scored],
                self.space.searched,
                self.plan["objective"],
                self.plan["direction"] == "max",
            )
        }
        importance = plots.importance(
            [row["settings"] for row in scored],
            [row["score"] for row in scored],
            self.space.searched,
        )
        if importance is not None:
            drawn["Importance of the settings"] = importance
        page = report.render_search(
            f"{words(self.task.name).capitalize()}: search on {self.config.dataset}", result, drawn
        )
        self.run.write_text("report.html", page)
        self.run.write_json("result.json", result)
        self.say(
            f"Best: trial {best['trial']}, {self.plan['objective']} {best['score']:.4g}: {command}"
        )
        self.say(f"Done: {self.run.path / 'report.html'}")
        return result


def _as_text(settings):
    return ", ".join(f"{name}={value}" for name, value in settings.items())
