"""AOTInductor: a package of native code, compiled for this kind of machine when it was exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lissom.errors import ArtifactError
from lissom.logs import quiet_libraries
from lissom.optional import version
from lissom.runtime.base import Runtime
from lissom.runtime.machine import isa_flags
from lissom.runtime.pytorch import answer_request

PACKAGE_FILE = "model.pt2"


class AotInductor(Runtime):
    """A package loaded into this process; it is code, and opened only after its hash was checked."""

    name = "aotinductor"
    thread_safe = False

    def _open_impl(self) -> None:
        torch.set_num_threads(self.threads)
        path = self.artifact.file(PACKAGE_FILE)
        self._check_machine()
        try:
            with quiet_libraries():
                self.model: Any = torch._inductor.aoti_load_package(str(path))
        except RuntimeError as exc:
            raise ArtifactError(f"torch cannot open {path}: {str(exc).splitlines()[0]}") from exc

    def _check_machine(self) -> None:
        made_on = self.artifact.manifest.made_on.get("isa", [])
        if missing := [flag for flag in made_on if flag not in isa_flags()]:
            raise ArtifactError(
                f"{self.artifact.name!r} was compiled for a processor with {', '.join(missing)}, "
                "which this one has not",
                hint="export it again on this machine",
            )
        built, here = self.artifact.manifest.tools.get("torch", ""), version("torch")
        if built and built != here:
            raise ArtifactError(
                f"{self.artifact.name!r} was compiled for torch {built}, found {here}",
                hint=f"pip install torch=={built.partition('+')[0]}, or export it again",
            )

    def _infer_impl(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return answer_request(self.model, self.signature, inputs)

    def close(self) -> None:
        """Free the package; its code stays in the process."""
        self.model = None
