"""Which integers are used, chosen for the machine that will run the model.

    x86       activations uint8 with a zero point, weights int8, which ONNX Runtime and OpenVINO fuse. Without
              VNNI two products can overflow 16 bits, so that weights are held to 7 bits.
    arm       the same; its dot product adds up in 32 bits.
    tensorrt  activations and weights int8 around zero; biases stay float32.

Weights have one scale for each output channel and are symmetric: a zero point of a weight would cost a sum
over the activations in every product.
"""

from __future__ import annotations

import platform
from typing import NamedTuple

from lissom.recipe import QuantizeConfig
from lissom.runtime.machine import has_vnni, machine

_X86, _ARM = ("x86_64", "AMD64"), ("aarch64", "arm64")


class Scheme(NamedTuple):
    """How numbers become integers.

    Attributes:
        target: x86, arm or tensorrt.
        symmetric: True when activations are int8 around zero, else uint8 with a zero point.
        reduce_range: True when weights are held to 7 bits.
        per_channel: True when a weight has one scale for each output channel.
        here: True when this machine is one of the target, so that what is measured here holds there.
    """

    target: str
    symmetric: bool
    reduce_range: bool
    per_channel: bool
    here: bool

    @property
    def exact(self) -> bool:
        """True when models are judged by exact integer arithmetic instead of that of this machine.

        Without VNNI products saturate here, which says nothing of a machine where they do not.
        """
        return not self.here or self.target == "tensorrt" or not (self.reduce_range or has_vnni())

    @property
    def weight_steps(self) -> int:
        """Largest integer of a weight."""
        return 64 if self.reduce_range else 127


def scheme_of(config: QuantizeConfig) -> Scheme:
    """The scheme that a stage asks for; what it leaves open follows the target."""
    here = "x86" if platform.machine() in _X86 else "arm" if platform.machine() in _ARM else "x86"
    target = here if config.target == "auto" else config.target
    reduce_range = config.reduce_range
    if reduce_range is None:
        reduce_range = target == "x86" and here == "x86" and not has_vnni()
    present = bool(machine()["gpus"]) if target == "tensorrt" else target == here
    return Scheme(target, target == "tensorrt", reduce_range, config.per_channel, present)
