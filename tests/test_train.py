"""The training loop: resume to the bit, checkpoints that cannot be mistaken, errors, schedules."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bitline.methods.plain import Plain
from bitline.train import (
    Adam,
    AdamW,
    CheckpointError,
    Constant,
    Cosine,
    NonFiniteLoss,
    OneCycle,
    Sgd,
    Step,
    TrainConfig,
    checkpoint,
    train,
)

TASK = '''
import os, signal, sys
import torch
from torch import nn
from bitline.train import Adam, TrainConfig, train

SAMPLES, BATCH = 48, 8
DATA = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(1))

def network(hidden=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 3))

class Batches:
    """Shuffled by epoch, augmented from the global random state; may kill its own process."""
    def __init__(self, die_at=None):
        self.die_at, self.fetched = die_at, 0
    def __call__(self, epoch):
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
        for index in order.split(BATCH):
            self.fetched += 1
            if self.fetched == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            x = DATA[index]
            yield x + 0.1 * torch.randn_like(x), (x.sum(1) > 0).long() + (x[:, 0] > 1).long(), index

CONFIG = TrainConfig(
    epochs=5, lr=0.02, optimizer=Adam(), accumulate=2, clip=1.0, checkpoint_every=2, log_every=4, seed=3
)
VALIDATE = lambda model: {"noise": float(torch.rand(())), "loss": float(model(DATA).square().mean())}
'''
exec(compile(TASK, "task", "exec"))
STEPS = 15  # 5 epochs of 6 batches, two a step


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    model = network()
    history = train(model, Batches(), config=CONFIG, out=folder, validate=VALIDATE)
    assert history.steps == STEPS
    assert history.resumed is None
    return weights(model), history, (folder / "log.jsonl").read_bytes()


def finished_as_if_nothing_happened(folder, uninterrupted, config=CONFIG):
    model = network()
    history = train(model, Batches(), config=config, out=folder, validate=VALIDATE)
    state, whole, log = uninterrupted
    assert equal(weights(model), state)
    assert history.records == whole.records
    assert history.steps == STEPS
    assert (folder / "log.jsonl").read_bytes() == log
    return history


def script(folder: Path, change: str, die_at: str) -> subprocess.CompletedProcess:
    run = f"train(network(), Batches({die_at}), config=CONFIG, out={str(folder)!r}, validate=VALIDATE)"
    code = "\n".join([TASK, textwrap.dedent(change), run])
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, timeout=120)


def test_kill_9_in_mid_epoch_then_resume(tmp_path, uninterrupted):
    assert script(tmp_path, "", "die_at=23").returncode == -signal.SIGKILL
    history = finished_as_if_nothing_happened(tmp_path, uninterrupted)
    assert history.resumed == 8  # 6 batches to count an epoch, then 16: in mid-epoch


def test_kill_9_while_writing_a_checkpoint(tmp_path, uninterrupted):
    """The process dies with the new tensors in place and the JSON that names them written but not renamed."""
    change = """
    from pathlib import Path
    replace = Path.replace
    def dying(self, target):
        if Path(target).name == "latest.json" and (Path(target).parent / "previous.json").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)
    Path.replace = dying
    """
    assert script(tmp_path, change, "").returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("step-*.safetensors"))) == 2
    assert list(tmp_path.glob("*.partial"))
    finished_as_if_nothing_happened(tmp_path, uninterrupted)
    assert not list(tmp_path.glob("*.partial"))
    assert len(list(tmp_path.glob("step-*.safetensors"))) <= 2


class Stop(Exception):
    pass


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("fetched", [1, 6, 7, 12, 13, 29])
def test_resume_from_anywhere(tmp_path, uninterrupted, every, fetched):
    def stopping(epoch):
        source = Batches()
        for position, batch in enumerate(source(epoch)):
            if epoch * 6 + position == fetched:
                raise Stop
            yield batch

    config = CONFIG.model_copy(update={"checkpoint_every": every})
    with pytest.raises(Stop):
        train(network(), stopping, config=config, out=tmp_path, validate=VALIDATE)
    finished_as_if_nothing_happened(tmp_path, uninterrupted)


def test_dying_in_validation_after_the_last_step_of_an_epoch(tmp_path, uninterrupted):
    calls = []

    def dying(model):
        calls.append(1)
        if len(calls) == 3:
            raise Stop
        return VALIDATE(model)

    with pytest.raises(Stop):
        train(
            network(), Batches(), config=CONFIG.model_copy(update={"checkpoint_every": 3}), out=tmp_path, validate=dying
        )
    finished_as_if_nothing_happened(tmp_path, uninterrupted)


def test_a_finished_run_is_only_loaded(tmp_path, uninterrupted):
    finished_as_if_nothing_happened(tmp_path, uninterrupted)
    model = network()
    history = train(model, Batches(die_at=1), config=CONFIG, out=tmp_path)
    assert equal(weights(model), uninterrupted[0])
    assert history.resumed == STEPS
    again = train(model, Batches(), config=CONFIG, out=tmp_path, resume=False)
    assert again.resumed is None


def test_ctrl_c_finishes_the_step_saves_and_raises(tmp_path, uninterrupted):
    class Interrupted(Plain):
        def before_step(self, model, progress):
            if progress.step == 6:
                os.kill(os.getpid(), signal.SIGINT)

    config = CONFIG.model_copy(update={"checkpoint_every": 1000})
    with pytest.raises(KeyboardInterrupt):
        train(network(), Batches(), config=config, method=Interrupted(), out=tmp_path, validate=VALIDATE)
    assert json.loads((tmp_path / "latest.json").read_text())["step"] == 7
    record = json.loads((tmp_path / "latest.json").read_text())
    with pytest.raises(CheckpointError, match=r"method\.class was 'Interrupted', is 'Plain'"):
        train(network(), Batches(), config=config, out=tmp_path)
    record["method"] = {"class": "Plain", "kind": "plain"}
    (tmp_path / "latest.json").write_text(json.dumps(record))
    assert finished_as_if_nothing_happened(tmp_path, uninterrupted).resumed == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_global_random_state_is_left_alone():
    network()
    after = torch.rand(1)
    train(network(), Batches(), config=TrainConfig(steps=2))
    assert torch.rand(1) == after


# ------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def stopped(tmp_path):
    train(network(), Batches(), config=TrainConfig(steps=4, checkpoint_every=2), out=tmp_path)
    return tmp_path


def again(folder, model=None, **change):
    config = TrainConfig(**({"steps": 4, "checkpoint_every": 2} | change))
    return train(model or network(), Batches(), config=config, out=folder)


def newest(folder):
    return folder / json.loads((folder / "latest.json").read_text())["file"]


def test_truncated_and_altered_checkpoints(stopped):
    file = newest(stopped)
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match=rf"{file.name} is truncated: {len(whole) - 10} bytes.*previous\.json"):
        again(stopped)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{file.name} was altered"):
        again(stopped)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{file.name}.* is missing"):
        again(stopped)
    (stopped / "latest.json").write_bytes((stopped / "previous.json").read_bytes())
    assert again(stopped).resumed == 2
    latest = stopped / "latest.json"
    latest.write_text(latest.read_text()[:50])
    with pytest.raises(CheckpointError, match=r"latest\.json is truncated or altered"):
        again(stopped)
    latest.write_text('{"format": 99}')
    with pytest.raises(CheckpointError, match="format 99; this version reads 1"):
        again(stopped)


def test_checkpoint_of_another_model_macro_or_run(stopped):
    model = network(hidden=11)
    before = weights(model)
    with pytest.raises(CheckpointError, match=r"another model: 0\.bias is float32\[10\], wanted float32\[11\]"):
        again(stopped, model)
    assert equal(weights(model), before)
    with pytest.raises(CheckpointError, match=r"it lacks 5\.bias, 5\.weight"):
        again(stopped, nn.Sequential(*network(), nn.Linear(3, 3)))
    model = network()
    model.fingerprint = "another"
    with pytest.raises(CheckpointError, match="another macro: fingerprint None, this model has 'another'"):
        again(stopped, model)
    model = network()
    before = weights(model)
    with pytest.raises(CheckpointError, match=r"config\.lr was 0\.1, is 0\.2.*resume=False"):
        again(stopped, model, lr=0.2)
    assert equal(weights(model), before)
    assert again(stopped, log_every=3).resumed == 4


def test_load_gives_the_weights_alone(stopped):
    model = network()
    record = checkpoint.load(stopped, model)
    trained = network()
    train(trained, Batches(), config=TrainConfig(steps=4))
    assert equal(weights(model), weights(trained))
    assert record["step"] == 4
    assert checkpoint.load(stopped / "nowhere", model) is None


@pytest.mark.parametrize("optimizer", [Sgd(), Sgd(momentum=0.0), Sgd(nesterov=True), Adam(), AdamW()])
def test_every_optimizer_resumes(tmp_path, optimizer):
    config = TrainConfig(steps=6, lr=0.01, optimizer=optimizer, checkpoint_every=4)
    whole = network()
    train(whole, Batches(), config=config)

    class Stopping(Plain):
        def before_step(self, model, progress):
            if progress.step == 5:
                raise Stop

    Stopping.__name__ = "Plain"  # another method's checkpoint would be refused
    with pytest.raises(Stop):
        train(network(), Batches(), config=config, method=Stopping(), out=tmp_path)
    model = network()
    assert train(model, Batches(), config=config, out=tmp_path).resumed == 4
    assert equal(weights(model), weights(whole))


def test_tied_weights(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3))
        model[2].weight = model[0].weight
        return model

    train(tied(), Batches(), config=TrainConfig(steps=2), out=tmp_path)
    model = tied()
    checkpoint.load(tmp_path, model)
    assert model[2].weight is model[0].weight


# ------------------------------------------------------------------------------------------------------------ errors


def test_non_finite_loss_names_step_and_samples(tmp_path):
    def poisoned(epoch):
        for k, (x, y, index) in enumerate(Batches()(epoch)):
            yield (x * math.nan if epoch == 1 and k == 2 else x), y, index

    model = nn.Linear(6, 3)
    index = list(Batches()(1))[2][2].tolist()
    with pytest.raises(NonFiniteLoss, match=rf"nan at step 8 \(epoch 1\), on samples {', '.join(map(str, index))}"):
        train(model, poisoned, config=TrainConfig(epochs=2), out=tmp_path)
    assert torch.isfinite(model.weight).all()


def test_unwritable_folder_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    fetched = Batches()
    with pytest.raises(OSError, match=r"output folder .*file/out cannot be written .*nothing was trained"):
        train(network(), fetched, config=TrainConfig(steps=2), out=tmp_path / "file" / "out")
    assert fetched.fetched == 0


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"epochs": 1, "steps": 1},
        {"steps": 1, "lr": -1},
        {"steps": 1, "lrr": 1},
        {"steps": 1, "optimizer": {"kind": "lion"}},
    ],
)
def test_bad_configs(bad):
    with pytest.raises(ValidationError):
        TrainConfig(**bad)


def test_other_errors(tmp_path):
    one = TrainConfig(steps=1)
    with pytest.raises(ValueError, match="no trainable parameter"):
        train(nn.ReLU(), Batches(), config=one)
    with pytest.raises(ValueError, match=r"'head\.\*' matches no parameter"):
        train(network(), Batches(), config=TrainConfig(steps=1, no_decay=("head.*",)))
    with pytest.raises(ValueError, match="needs a CUDA device"):
        train(network(), Batches(), config=TrainConfig(steps=1, amp="fp16"))
    with pytest.raises(TypeError, match="walked once"):
        train(network(), Batches()(0), config=one)
    with pytest.raises(RuntimeError, match="epoch 0: there are none"):
        train(network(), [], config=one)
    with pytest.raises(ValueError, match="label_smoothing"):
        train(network(), Batches(), config=TrainConfig(steps=1, label_smoothing=0.1), loss=nn.functional.nll_loss)
    config = TrainConfig(steps=5, checkpoint_every=3)
    with pytest.raises(NonFiniteLoss):
        train(network(), lambda e: [(x * (math.nan if k == 4 else 1), y) for k, (x, y, _) in enumerate(Batches()(e))],
              config=config, out=tmp_path)  # fmt: skip
    with pytest.raises(RuntimeError, match="epoch 0 has 2 batches, the checkpoint saw 3"):
        train(network(), lambda e: list(Batches()(e))[:2], config=config, out=tmp_path)


# ------------------------------------------------------------------------------------------------- loop, method, log


def test_the_method_is_asked_at_each_point():
    seen = []

    class Spy(Plain):
        def begin(self, model, batches):
            seen.append(("begin", len(list(batches(0)))))

        def measure(self, model, batches):
            seen.append(("measure", len(list(batches(0)))))

        def before_step(self, model, progress):
            seen.append(("step", progress.step, progress.total))

        def loss(self, model, x, y, index, criterion):
            seen.append(("loss", index.tolist()[0]))
            return super().loss(model, x, y, index, criterion)

        def end(self, model):
            seen.append(("end",))

    train(network(), Batches(), config=TrainConfig(steps=2, accumulate=2), method=Spy())
    first = [index[0].item() for _, _, index in Batches()(0)]
    expected = [("begin", 6), ("measure", 6), ("step", 0, 2), ("loss", first[0]), ("loss", first[1])]
    assert seen == [*expected, ("step", 1, 2), ("loss", first[2]), ("loss", first[3]), ("end",)]


def test_accumulation_equals_one_large_batch():
    x, y = DATA, (DATA[:, 0] > 0).long()
    small, large = nn.Linear(6, 3), nn.Linear(6, 3)
    large.load_state_dict(small.state_dict())
    config = TrainConfig(epochs=3, log_every=1)
    parts = [(x[a:b], y[a:b]) for a, b in ((0, 20), (20, 40), (40, 48))]
    a = train(small, parts, config=config.model_copy(update={"accumulate": 3}))
    b = train(large, [(x, y)], config=config)
    assert torch.allclose(small.weight, large.weight, atol=1e-6)
    assert [v for _, v in a.series("loss")] == pytest.approx([v for _, v in b.series("loss")])


@pytest.mark.parametrize("own_generator", [False, True])
def test_a_shuffling_loader_is_deterministic_and_counted(tmp_path, own_generator):
    def loader():
        generator = torch.Generator() if own_generator else None
        return DataLoader(TensorDataset(DATA, (DATA[:, 0] > 0).long()), 8, shuffle=True, generator=generator)

    seen = []

    class Spy(Plain):
        def loss(self, model, x, y, index, criterion):
            seen.append(index)
            return super().loss(model, x, y, index, criterion)

        def before_step(self, model, progress):
            if progress.step == self.stop:
                raise Stop

        stop: int = 1000

    Spy.model_fields["stop"].exclude = True
    Spy.model_rebuild(force=True)
    config = TrainConfig(epochs=3, lr=0.01, checkpoint_every=1)
    whole, model = network(), network()
    train(whole, loader(), config=config, method=Spy())
    assert torch.equal(torch.cat(seen[:6]), torch.arange(48))
    with pytest.raises(Stop):
        train(network(), loader(), config=config, method=Spy(stop=9), out=tmp_path)
    assert train(model, loader(), config=config, method=Spy(), out=tmp_path).resumed == 9
    assert equal(weights(whole), weights(model))


def test_no_weight_decay_on_scales_biases_and_norms():
    model = network()
    model.scale = nn.Parameter(torch.ones(()))
    groups = TrainConfig(steps=1, no_decay=("4.*",)).build_optimizer(model).param_groups
    decayed = [p for group in groups for p in group["params"] if group["weight_decay"] > 0]
    assert [id(p) for p in decayed] == [id(model[0].weight)]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_penalties_of_modules_join_the_loss():
    class Penalised(nn.Linear):
        def penalty(self):
            return 3 * self.bias.square().sum()

    model = nn.Sequential(Penalised(6, 3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1.0)
    history = train(model, Batches(), config=TrainConfig(steps=1, log_every=1))
    assert history.records[0]["loss"] == pytest.approx(math.log(3) + 9, rel=1e-5)


def test_amp_bf16_and_clipping():
    history = train(network(), Batches(), config=TrainConfig(steps=12, lr=0.05, amp="bf16", clip=0.5, log_every=1))
    assert len(history.series("gradient")) == 12
    assert history.records[-1]["loss"] < history.records[0]["loss"]


def test_frozen_norms_learn_no_statistics_and_normalise_by_those_there_are():
    def run(**config):
        model, seen = network(), []

        class Watched(Plain):
            def before_step(self, model, progress):
                seen.append((model[1].running_mean.clone(), model[1].training))

        settings = CONFIG.model_copy(update={"epochs": None, "steps": 10, **config})
        train(model, Batches(), config=settings, method=Watched(), progress=False)
        return seen, model

    seen, model = run(frozen_norms=0.3)
    assert [training for _, training in seen] == [True] * 7 + [False] * 3
    means = [mean for mean, _ in seen] + [model[1].running_mean]
    assert [torch.equal(a, b) for a, b in pairwise(means)] == [False] * 7 + [True] * 3
    assert model[1].training == model.training  # as the rest of the network again
    free, other = run()
    assert all(training for _, training in free)
    assert equal({"mean": free[7][0]}, {"mean": seen[7][0]})
    assert not torch.equal(other[0].weight, model[0].weight)


def test_log_and_events(tmp_path):
    pytest.importorskip("tensorboardX")
    train(
        network(),
        Batches(),
        config=TrainConfig(epochs=2, log_every=4),
        out=tmp_path,
        validate=lambda m: {"bad": math.nan},
    )
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 6, 6, 8, 12, 12]
    assert lines[2] == {"step": 6, "epoch": 0, "validate/bad": None}
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))


def test_without_tensorboardx_a_line_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    train(network(), Batches(), config=TrainConfig(steps=2), out=tmp_path)
    assert [r.message for r in caplog.records] == ["no TensorBoard event files: pip install tensorboardX"]


@pytest.mark.parametrize("schedule", [Constant(), Cosine(), Step(), OneCycle(start=0.04, end=0.0)])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_schedules(schedule, warmup):
    schedule = schedule.model_copy(update={"warmup": warmup})
    factors = [schedule.factor(step, 1000) for step in range(1000)]
    assert all(0 <= f <= 1 + 1e-12 for f in factors)
    if warmup:
        assert factors[0] < 0.02
        assert factors[99] == pytest.approx(0.04 if isinstance(schedule, OneCycle) else 1)
    first, last = {"constant": (1, 1), "cosine": (1, 0), "step": (1, 0.01), "one_cycle": (0.04, 0)}[schedule.kind]
    assert factors[round(warmup * 1000)] == pytest.approx(first)
    assert factors[-1] == pytest.approx(last, abs=1e-4)
    assert schedule.factor(2000, 1000) == pytest.approx(last, abs=1e-9)
    if isinstance(schedule, Step):
        changes = [k for k in range(1, 1000) if factors[k] != factors[k - 1] and k > warmup * 1000]
        assert changes == ([500, 750] if not warmup else [550, 775])
