"""The stage that distils."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lissom.recipe.training import OptimizationConfig


class DistillConfig(OptimizationConfig):
    """Train a student on the labels and on what one or several teachers answer."""

    consumes = ("torch",)
    stage: Literal["distill"] = Field("distill", description="Kind of the stage.")

    learning_rate: float = Field(0.05, gt=0, le=100, description="Peak learning rate.")
    kind: Literal["kd", "dkd", "dist", "hint"] = Field(
        "kd",
        description="kd: softened answers, arXiv 1503.02531. dkd: the right class and the others apart, "
        "arXiv 2203.08679. dist: correlations, arXiv 2205.10536. hint: kd and features of a layer, "
        "arXiv 1412.6550.",
    )
    teacher: str | tuple[str, ...] = Field(
        description="Name of the stage whose model teaches, or a list of names: the mean of their softened "
        "answers teaches."
    )
    teacher_weights: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="Weight of each of several teachers in the mean; default: equal."
    )
    temperature: float = Field(
        4.0, gt=0, le=100, description="Softens both answers; 1 leaves them as they are."
    )
    alpha: float = Field(
        0.7, ge=0, le=1, description="Weight of the teacher; 1 - alpha is that of the labels."
    )
    target_weight: float = Field(
        1.0, ge=0, le=1000, description="dkd: weight of the right class, alpha of the paper."
    )
    non_target_weight: float = Field(
        2.0, ge=0, le=1000, description="dkd: weight of the other classes, beta of the paper, where 1 to 8."
    )
    inter_weight: float = Field(
        1.0, ge=0, le=1000, description="dist: weight of the correlation over the classes of a sample."
    )
    intra_weight: float = Field(
        1.0, ge=0, le=1000, description="dist: weight of the correlation over the samples of a class."
    )
    student_layer: str | None = Field(
        None, description="hint: name of the module of the student whose output is led."
    )
    teacher_layer: str | None = Field(
        None, description="hint: name of the module of the teacher whose output leads."
    )
    hint_weight: float = Field(
        1.0,
        ge=0,
        le=10_000,
        description="hint: weight of the distance of the features, beside the rest; a large one drowns it.",
    )
    baseline: bool = Field(
        True,
        description="Train the same student without a teacher too, and report whether the teacher helped.",
    )

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the stages whose models teach."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher

    @property
    def sources(self) -> dict[str, str]:
        """Role and name of every stage that this one reads: teacher, or teacher-1, teacher-2 and so on."""
        names = self.teachers
        roles = ["teacher"] if len(names) == 1 else [f"teacher-{place + 1}" for place in range(len(names))]
        return super().sources | dict(zip(roles, names, strict=True))

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Self:
        layers = ("student_layer", "teacher_layer")
        own = {
            "dkd": ("target_weight", "non_target_weight"),
            "dist": ("inter_weight", "intra_weight"),
            "hint": (*layers, "hint_weight"),
        }
        for kind, names in own.items():
            for name in names if kind != self.kind else ():
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"kind {self.kind} does not take {name!r}, which is of {kind}")
        if self.kind == "hint" and not (self.student_layer and self.teacher_layer):
            raise ValueError("kind hint needs student_layer and teacher_layer, names of modules")
        if self.kind == "hint" and len(self.teachers) > 1:
            raise ValueError("kind hint leads by the features of one teacher: name one")
        if self.kind == "dkd" and self.augment.mixes:
            raise ValueError("kind dkd needs one right class a sample: leave out mixup and cutmix")
        return self

    @model_validator(mode="after")
    def _every_teacher_is_named_once(self) -> Self:
        if not self.teachers:
            raise ValueError("teacher is an empty list: name the stage whose model teaches")
        for name in self.teachers:
            if self.teachers.count(name) > 1:
                raise ValueError(f"teacher names {name!r} twice; teacher_weights makes one count more")
        if self.teacher_weights is not None and len(self.teacher_weights) != len(self.teachers):
            raise ValueError(
                f"teacher_weights has {len(self.teacher_weights)} values for {len(self.teachers)} teachers"
            )
        return self
