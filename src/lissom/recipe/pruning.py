"""The stage that prunes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lissom.recipe.stage import StageConfig
from lissom.recipe.training import Optimization


class PruneConfig(StageConfig):
    """Remove parts of a model: channels, heads and units, whole blocks, ranks, or single weights."""

    libraries = ("torch", "lightning", "torchmetrics", "kornia")
    consumes = ("torch",)
    stage: Literal["prune"] = Field("prune", description="Kind of the stage.")

    method: Literal["width", "depth", "low-rank", "magnitude", "2:4"] = Field(
        "width",
        description="width: channels, attention heads, recurrent units. depth: residual blocks and layers. "
        "low-rank: two thin layers for one. magnitude: single weights become zero. 2:4: two of four do.",
    )
    ratio: float = Field(0.5, ge=0, lt=1, description="Share that is removed of what `of` names.")
    of: Literal["parts", "macs", "parameters", "latency"] = Field(
        "parts",
        description="parts: channels of every group, blocks, squared singular values, weights. macs: "
        "multiply-adds. parameters. latency: on `runtime`, measured.",
    )
    runtime: str | None = Field(
        None, description="of latency: where it is measured; default: the first that works."
    )
    importance: Literal["l1", "l2", "batch-norm", "lamp", "taylor", "activation"] = Field(
        "l2",
        description="width: what ranks the parts. l1, l2: norm of the weights. batch-norm: its scale. "
        "lamp: norm over that of all larger ones. taylor: weight times gradient. activation: mean size of "
        "what a part gives. The last two look at the calibrate split.",
    )
    ranking: Literal["local", "global", "isomorphic"] = Field(
        "local",
        description="width, magnitude: rank within each group, over all, or over groups of the same shape.",
    )
    round_to: int = Field(8, ge=1, le=256, description="Kept channels and ranks are a multiple of this.")
    exclude: tuple[str, ...] = Field((), description="Names of modules that are kept as they are.")
    steps: int = Field(
        1, ge=1, le=100, description="Prune in so many steps, with the training of `tune` between them."
    )
    schedule: Literal["linear", "cubic"] = Field(
        "cubic", description="How the share grows with the steps; cubic removes most at the beginning."
    )
    tune: Optimization | None = Field(None, description="Training before every step but the first.")
    group_norm: float = Field(
        0.0,
        ge=0,
        description="width: train by `tune` before the first step too, with this times the norms of the "
        "groups added to the loss, so that whole groups become small.",
    )

    @property
    def trains(self) -> bool:
        """True when there is training between the steps."""
        return self.tune is not None

    @model_validator(mode="after")
    def _fields_fit_the_method(self) -> Self:
        wide = {"importance", "group_norm"} if self.method != "width" else set()
        if self.method not in ("width", "magnitude"):
            wide.add("ranking")
        if self.method in ("magnitude", "2:4") and self.of != "parts":
            raise ValueError(f"method {self.method}: zeros save no {self.of}; leave `of` out")
        if self.method == "2:4" and self.ratio != 0.5:
            raise ValueError("method 2:4 removes one half of the weights: leave `ratio` out")
        for name in sorted(wide & self.model_fields_set):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"method {self.method} does not take {name!r}")
        if self.runtime is not None and self.of != "latency":
            raise ValueError("runtime is where latency is measured: set of: latency, or leave it out")
        if self.steps > 1 and self.tune is None:
            raise ValueError("several steps need training between them: give tune, such as {epochs: 3}")
        if self.tune is not None and self.steps == 1 and not self.group_norm:
            raise ValueError("tune trains between steps: set steps above 1")
        if self.group_norm and self.tune is None:
            raise ValueError("group_norm is added to the loss of a training: give tune, such as {epochs: 3}")
        return self
