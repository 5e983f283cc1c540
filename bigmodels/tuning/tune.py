"""Search the settings of a task for those that do best on validation data."""

import math
import os
import pathlib
import shutil
import sys
import tempfile

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
from bigmodels.tasks.settings import command_line, flat_settings, with_settings
from bigmodels.tuning import search

TUNERS = tuple(search.ORACLES)
_TRIALS = 10
# By how a metric's name ends: which way is better, where its task does not say.
_DIRECTIONS = {
    "min": ("loss", "error", "perplexity", "distance", "per_character", "mae", "mse", "rmse",
            "wer", "cer"),
    "max": ("accuracy", "score", "precision", "recall", "auc", "f1", "bleu", "covered",
            "confidence", "psnr", "ssim"),
}  # fmt: skip


def tune(
    task,
    workdir,
    settings=None,
    tuner="random",
    trials=None,
    hours=None,
    objective=None,
    direction=None,
    verbose=1,
    workers=None,
    worker=None,
    timeout=120.0,
):
    """Train a task with many settings and say which did best.

    Every trial is an ordinary run in `workdir/trials/`. Run again with the same arguments, it
    continues an unfinished search: finished trials are kept, those that were in flight go on after
    their last finished epoch. With a larger `trials` or `hours` it continues a finished one.

    Several processes search together if TF_CONFIG, Slurm, `workers` or keras-tuner's own
    KERASTUNER_TUNER_ID, _ORACLE_IP and _ORACLE_PORT say so: each calls this with the same
    arguments, the first hands out trials, and the others run them, each on its own machine's
    devices. They share a disk.

    Args:
        task: Name of a task.
        workdir: The search's directory.
        settings: Dotted names to values for all trials: `{"epochs": 3, "early_stopping": 2}`. One
            that the task's `search_space` would vary is not varied.
        tuner: "random", "hyperband", "bayesian" or "grid". For hyperband `epochs` is what the best
            are trained for; a grid takes at most three values of each range of numbers.
        trials: How many trials at most. By default 10 for random and bayesian, one pass of
            hyperband, or the whole grid; none if `hours` is given.
        hours: No trial begins after so many hours of searching; those that run are finished.
        objective: `SPLIT.METRIC` of the result, for example "validation.accuracy"; by default the
            task's own. Not of the test split.
        direction: "min" or "max"; by default as the metric's name says.
        verbose: 0 for silence, 1 for a line a trial on stderr.
        workers: Addresses of all processes, if there are several; see
            `bigmodels.distribute.strategy`.
        worker: Which of them this process is.
        timeout: Seconds without a sign of life after which another process counts as lost.

    Returns:
        The content of `result.json`; on processes that only run trials `None`.

    Raises:
        ValueError: naming the argument or setting that does not fit; nothing was trained or
            written then.
        FloatingPointError: if no trial finished.
        TimeoutError: if another process is lost.
        OSError: if the process that hands out trials cannot listen at its address.
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
    ours = _Search(task, settings, config, space, plan, trials, hours, workdir, say)
    known = ours.check(role)
    if (result := ours.finished()) is not None:
        say(f"{ours.run.path} is finished already; more trials or hours would continue it.")
        return None if role.kind == "worker" else result
    with search.playing(role):
        data = task.load_data(config)
        say(f"Loaded and checked {config.dataset}.")
        if not known and role.kind != "worker":
            _check_metric(task, config, data, objective)
        del data  # Each trial loads it anew, as a run does.
        return (ours.help if role.kind == "worker" else ours.lead)(role, timeout)


def _check(tuner, trials, hours, timeout, config):
    check_choice("tuner", tuner, TUNERS)
    for name, value in (("trials", trials), ("hours", hours), ("timeout", timeout)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}: {value!r}, expected a positive number")
    if config.strategy == "multi_worker":
        raise ValueError(
            "strategy: 'multi_worker', but a trial trains on one machine; several processes run "
            "a trial each"
        )
    if tuner == "hyperband" and config.stop_after is not None:
        raise ValueError(f"stop_after: {config.stop_after}, but hyperband itself sets it")


def _objective(task, name, direction):
    """An objective's name and direction, checked."""
    split, _, metric = name.partition(".")
    if split == "test":
        raise ValueError(
            f"objective: {name!r}: settings chosen by the test split would make it worthless as a "
            f"measure of unseen data; use validation.{metric or 'loss'}"
        )
    if split not in ("train", "validation") or not metric:
        raise ValueError(f"objective: {name!r}, expected validation.METRIC or train.METRIC")
    if direction is None and metric in task.metrics:
        direction = task.metrics[metric].better
    if direction is None:
        direction = next((d for d, ends in _DIRECTIONS.items() if metric.endswith(ends)), None)
        if direction is None:
            raise ValueError(f"direction: {name} does not say which way is better; give min or max")
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction: {direction!r} is not one of min, max")
    return name, direction


def _check_metric(task, config, data, objective):
    """See that results will have the objective, by measuring one batch with an untrained model."""
    split, _, metric = objective.partition(".")
    model = task.build_model(config, data)
    task.compile_model(model, config, 1)
    found = model.evaluate(data.validation.take(1), return_dict=True, verbose=0)
    if metric not in found and objective != task.objective:
        # Not one of Keras'; the task's own may take a while.
        same = dict.fromkeys(("train", "validation", "test"), found)
        evaluation = task.evaluate(model, data, config, same)
        found = found | evaluation.metrics.get(split, {})
        if metric not in found:
            hint = did_you_mean(f"{split}.{metric}", [f"{split}.{name}" for name in found])
            raise ValueError(
                f"objective: {objective!r}, but of {split} {task.name} measures "
                f"{', '.join(found)}{hint}"
            )
    keras.utils.clear_session()


class _Search:
    """One search: what lies in its directory, and what a process does with it."""

    def __init__(self, task, settings, config, space, plan, trials, hours, workdir, say):
        self.task, self.settings, self.config = task, settings, config
        self.space, self.plan, self.say = space, plan, say
        self.budget = {"trials": trials, "hours": hours}
        self.run = RunDirectory(workdir)
        self.split, _, self.metric = plan["objective"].partition(".")

    def check(self, role):
        """See that the directory is free, or holds this very search; whether it does."""
        known = (self.run.path / "search.json").exists()
        if known or role.kind != "worker":  # The chief may be making it just now.
            self.run.check_is("search", "search.json", self.plan)
        return known

    def finished(self):
        """The result, if there is one and the budget has not grown since."""
        if not self.run.has_result():
            return None
        result = self.run.read_json("result.json")
        for name, now in self.budget.items():
            before = result["budget"].get(name)
            if before is not None and (now is None or now > before):
                return None
        return result

    def lead(self, role, timeout):
        """Search, alone or through others, and write down what came of it."""
        self.run.path.mkdir(parents=True, exist_ok=True)
        if not (self.run.path / "search.json").exists():
            self.run.write_json("search.json", self.plan | {"versions": versions()})
        self.oracle = self._oracle(self.run.path)
        most = f", at most {self.oracle.max_trials} trials" if self.oracle.max_trials else ""
        most += f", {self.space.size} combinations" if self.plan["tuner"] == "grid" else ""
        self.say(
            f"A {self.plan['tuner']} search for the {self.plan['direction']}imum of "
            f"{self.plan['objective']} over {self.plan['searched']}{most}."
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
        """Run trials that another process hands out."""
        # What keras-tuner writes on a worker is of no use to anyone.
        with tempfile.TemporaryDirectory(prefix="bigmodels-worker-") as own:
            oracle = self._oracle(pathlib.Path(own))
            tuner = search.Tuner(oracle, self.space, self._run_trial, role, own)
            try:
                search.search(tuner, oracle, role, timeout)
            except TimeoutError:
                if self.finished() is None:  # Else it came too late to be of help.
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
            # keras-tuner's own number, unless that were most of the trials.
            usual = 3 * len(self.space.searched)
            options["num_initial_points"] = min(usual, max(3, (trials or 3 * usual) // 3))
        oracle = search.ORACLES[tuner](
            objective=keras_tuner.Objective(self.plan["objective"], self.plan["direction"]),
            seed=self.config.seed + 1,  # keras-tuner takes 0 for none.
            max_consecutive_failed_trials=math.inf,
            run=RunDirectory(path / "keras_tuner"),
            hours=hours,
            on_begin=self._begun,
            on_end=self._ended,
            **options,
        )
        oracle.max_trials = trials
        return oracle

    def _settings(self, trial):
        """What is particular to a trial."""
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
                shutil.rmtree(path, ignore_errors=True)  # A kill's leavings.
                if earlier := trial.hyperparameters.values.get("tuner/trial_id"):
                    self._take_over(self._path(earlier), path, config)
            result = train(self.task.name, path, settings, verbose=0)
            score = result[self.split][self.metric]
            if not math.isfinite(score):
                raise FloatingPointError(f"{self.plan['objective']} is {score}")
        except (ValueError, FloatingPointError, tf.errors.ResourceExhaustedError) as error:
            # The trial's own fault: data and objective have been checked before.
            reason = " ".join(str(error).split())[:500]
            (self.run.path / "failed").mkdir(exist_ok=True)
            RunDirectory(self.run.path / "failed").write_text(f"{path.name}.txt", reason + "\n")
            raise search.FailedTrialError(reason) from error
        return score

    def _take_over(self, earlier, path, config):
        """Begin a run where another, of the same settings but fewer epochs, has ended."""
        new = RunDirectory(path.with_name(f".{path.name}"))
        shutil.rmtree(new.path, ignore_errors=True)
        new.create(self.task, config)
        for name in ("checkpoints", "logs", "samples"):
            shutil.copytree(earlier / name, new.path / name, dirs_exist_ok=True)
        shutil.copy(earlier / "metrics.jsonl", new.path)
        os.replace(new.path, path)

    def _path(self, trial_id):
        return self.run.path / "trials" / f"{int(trial_id):04d}"

    def _begun(self, trial, again):
        self.say(
            f"Trial {self._path(trial.trial_id).name} {'goes on' if again else 'begins'}: "
            f"{_spoken(self._settings(trial))}"
        )

    def _ended(self, trial):
        row = self._row(trial)
        line = f"Trial {row['trial']} {row['status']}: {_spoken(row['settings'])}: "
        if row["status"] == "failed":
            self.say(f"{line}{row['reason']}. The search goes on.")
            return
        (best,) = self.oracle.get_best_trials(1)
        self.say(
            f"{line}{self.plan['objective']} {row['score']:.4g}. Best so far: "
            f"{best.score:.4g} (trial {self._path(best.trial_id).name})."
        )

    def _row(self, trial):
        """What the result says of a trial."""
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
            why = f"; the last failure: {reasons[-1]}" if reasons else ""
            raise FloatingPointError(f"none of {len(rows)} trials finished{why}")
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
            drawn["What mattered"] = importance
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


def _spoken(settings):
    return ", ".join(f"{name}={value}" for name, value in settings.items())
