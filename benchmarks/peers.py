"""This library and its peers against plain torch; a peer that is not installed, or does not run, says so."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.fused import BASE, NOISY
from benchmarks.timing import side_by_side, table
from bitline.macro import Macro
from bitline.networks import ResNet
from bitline.nn import calibrate, convert
from bitline.train import constrain

EIGHT = BASE | {
    "rows": 256,
    "inputs": {"kind": "unsigned", "bits": 8, "digit_bits": 8},
    "weights": {"kind": "differential", "bits": 8, "cell_bits": 7},
    "converter": {"bits": 8, "range": {"kind": "calibrated"}},
}
MACROS = {
    "8-bit inputs at once, 256 rows, 8-bit ADC": EIGHT,
    "8-bit inputs at once, 256 rows, 8-bit ADC, read noise": EIGHT | {"converter": EIGHT["converter"] | {"noise": 0.3}},
    "4-bit serial, 64 rows, 6-bit ADC": BASE,
    "4-bit serial, 64 rows, 6-bit ADC, read noise": NOISY,
}
STEPS = 2**8 - 2  # the levels that aihwkit and lightning count for 8 bits
Case = tuple[nn.Module, Callable[[], object]]  # a network, and what follows its backward pass


def run() -> str:
    """ResNet20, batch 64, every layer converted: forward in eval mode, and a training step (forward, backward, SGD)."""
    torch.manual_seed(0)
    plain = ResNet(depth=20).build()
    x, y = torch.rand(64, 3, 32, 32), torch.randint(0, 10, (64,))
    cases = {"plain torch fp32": _sgd(copy.deepcopy(plain))}
    for name, config in MACROS.items():
        cases[f"bitline, {name}"] = _sgd(calibrate(convert(plain, Macro.model_validate(config)), [x]))

    @torch.no_grad()
    def forward(case: Case) -> None:
        case[0].eval()(x)

    def train(case: Case) -> None:
        net, step = case
        net.zero_grad()
        cross_entropy(net.train()(x), y).backward()
        step()
        constrain(net)

    absent = []
    for name, (source, build) in PEERS.items():
        try:
            case = build(copy.deepcopy(plain))
            train(case)  # first: input ranges that are learned start from a batch
            forward(case)
            cases[name] = case
        except ModuleNotFoundError as error:
            absent.append(f"| {name} | not installed: `pip install {source}` ({error}) | – | – |")
        except Exception as error:
            absent.append(f"| {name} | did not run: {' '.join(repr(error).split())} | – | – |")

    def timed(what: str, action: Callable[[Case], None]) -> str:
        turns = {name: (lambda case=case: action(case)) for name, case in cases.items()}
        return "\n".join([table(side_by_side(turns, rounds=3, warm=1), what), *absent])

    return timed("forward", forward) + "\n\n" + timed("training step", train)


def _sgd(net: nn.Module) -> Case:
    return net, torch.optim.SGD(net.parameters(), lr=1e-3).step


def _aihwkit(net: nn.Module, config: str) -> Case:
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.optim import AnalogSGD
    from aihwkit.simulator import configs

    rpu = getattr(configs, config)()
    rpu.forward.inp_res = rpu.forward.out_res = 1 / STEPS
    model = convert_to_analog(net, rpu)
    optimiser = AnalogSGD(model.parameters(), lr=1e-3)  # where the C++ tile computes its weights' gradient
    optimiser.regroup_param_groups(model)
    return model, optimiser.step


def _lightning(net: nn.Module) -> Case:
    from aihwkit_lightning.nn.conversion import convert_to_analog
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig

    rpu = TorchInferenceRPUConfig()
    rpu.forward.inp_res = rpu.forward.out_res = STEPS
    rpu.forward.out_bound, rpu.forward.out_noise = 12.0, 0.06  # aihwkit's defaults
    rpu.pre_post.input_range.enable, rpu.pre_post.input_range.init_from_data = True, 1
    return _sgd(convert_to_analog(net, rpu))


def _crosssim(net: nn.Module) -> Case:
    from simulator import CrossSimParameters
    from simulator.algorithms.dnn.torch.convert import from_torch, synchronize

    params = CrossSimParameters()
    params.core.rows_max, params.core.weight_bits, params.xbar.device.cell_bits = 1152, 8, 7
    params.core.mapping.inputs.mvm.min, params.core.mapping.inputs.mvm.max = -4.0, 4.0
    params.xbar.dac.mvm.model, params.xbar.dac.mvm.bits = "SignMagnitudeDAC", 8
    params.xbar.adc.mvm.bits, params.xbar.adc.mvm.adc_range_option = 8, "MAX"
    params.xbar.adc.mvm.model = "SignMagnitudeADC"
    model, step = _sgd(from_torch(net, params))
    return model, lambda: (step(), synchronize(model))


PEERS: dict[str, tuple[str, Callable[[nn.Module], Case]]] = {
    "aihwkit, C++ tile, its output noise": ("aihwkit", lambda net: _aihwkit(net, "InferenceRPUConfig")),
    "aihwkit, torch tile, its output noise": ("aihwkit", lambda net: _aihwkit(net, "TorchInferenceRPUConfig")),
    "aihwkit-lightning, output noise in training": ("aihwkit-lightning", _lightning),
    "CrossSim, 8-bit ADC": ("git+https://github.com/sandialabs/cross-sim", _crosssim),
}
