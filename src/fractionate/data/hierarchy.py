"""Synthetic classes under superclasses, with an oracle teacher whose knowledge can be cut level by level.

Following the synthetic data of Tang et al. (arXiv 2002.03532): super-class bases, class bases around them, examples around
class bases, then a sum of sines element by element. Sizes, radii and waves are our reconstruction; the paper's could not be read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.data.bundled import data_sets
from fractionate.data.examples import Examples
from fractionate.data.sampling import draw_seed
from fractionate.errors import ConfigError
from fractionate.theory.cells import Cell, as_cell
from fractionate.theory.teacher_signal import TeacherSignal


@dataclass(frozen=True)
class Hierarchy:
    """A distribution of examples over `superclasses` × `classes_each` classes in `features` dimensions.

    - super-class basis: a random direction of length 1
    - class basis: its super-class basis + `class_radius` · noise
    - latent example: its class basis + `example_radius` · noise (noise: normal, length about 1)
    - input: Σ_{j<waves} sin((j + 1) · √features · latent + j²), element by element (MMoE's waves, Ma et al. 2018)

    A smaller `class_radius` draws the classes of a superclass together (more to know on the domain level); a larger
    `example_radius` makes examples unlike each other (more to know on the instance level). `seed` draws the bases.
    """

    superclasses: int = 4
    classes_each: int = 3
    features: int = 16
    class_radius: float = 0.6
    example_radius: float = 1.0
    waves: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.superclasses, self.classes_each, self.features, self.waves)
        if min(sizes) < 1 or self.classes < 2 or not min(self.class_radius, self.example_radius) > 0:
            raise ConfigError(
                "there is no such hierarchy", expected="two classes or more, sizes and radii above 0", got=repr(self)
            )

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.superclasses * self.classes_each

    @property
    def superclass(self) -> tuple[int, ...]:
        """The superclass of each class."""
        return tuple(c // self.classes_each for c in range(self.classes))

    @property
    def bases(self) -> Float[Tensor, "classes features"]:
        """The class bases."""
        generator = torch.Generator().manual_seed(draw_seed("hierarchy", self.seed))
        above: Tensor = torch.randn(self.superclasses, self.features, generator=generator)
        above = torch.nn.functional.normalize(above, dim=1).repeat_interleave(self.classes_each, dim=0)
        noise = torch.randn(self.classes, self.features, generator=generator) / self.features**0.5
        bases: Tensor = above + self.class_radius * noise
        return bases

    def _latent(self, examples: int, seed: int) -> tuple[Float[Tensor, "examples features"], Int[Tensor, "examples"]]:
        generator = torch.Generator().manual_seed(draw_seed("examples", self.seed, seed))
        labels = torch.randint(self.classes, (examples,), generator=generator)
        noise = torch.randn(examples, self.features, generator=generator) / self.features**0.5
        return self.bases[labels] + self.example_radius * noise, labels

    def draw(self, examples: int, *, seed: int) -> Examples:
        """Labelled examples; the same for the same seed."""
        latent, labels = self._latent(examples, seed)
        inputs = sum(
            (torch.sin((j + 1) * self.features**0.5 * latent + j**2) for j in range(self.waves)),
            start=torch.zeros_like(latent),
        )
        names = tuple(f"{s}.{c % self.classes_each}" for c, s in enumerate(self.superclass))
        return Examples(inputs, labels, names, name="hierarchy")

    def oracle(self, examples: int, *, seed: int, knows: Cell | str = "kd", sharpness: float = 1.0) -> TeacherSignal:
        """What a teacher that sees the latent examples says about `draw(examples, seed=seed)`.

        Its logits are `sharpness` · log p(class | latent), exact for sharpness 1. `knows` cuts its knowledge: the logits are the
        log of that cell's target, so `class-mean` knows no example apart and `ls` no class apart; above that level every cell has
        the same target, and the true share of the levels above is exactly 0.
        """
        latent, labels = self._latent(examples, seed)
        distance = torch.cdist(latent.double(), self.bases.double()).square()
        logits = -distance * self.features / (2 * self.example_radius**2)
        whole = TeacherSignal(sharpness * torch.log_softmax(logits, dim=1), labels)
        if as_cell(knows) == as_cell("kd"):
            return TeacherSignal(whole.logits.float(), labels)
        return TeacherSignal(as_cell(knows).target(whole).clamp_min(1e-30).log().float(), labels)


@data_sets.register("hierarchy")
def hierarchy(
    examples: int = 4000,
    *,
    superclasses: int = 4,
    classes_each: int = 3,
    features: int = 16,
    class_radius: float = 0.6,
    example_radius: float = 1.0,
    waves: int = 1,
    seed: int = 0,
) -> Examples:
    """Synthetic classes under superclasses, named superclass.class (following Tang et al., arXiv 2002.03532): see `Hierarchy`.

    Args:
        examples: How many are drawn.
        superclasses: Groups of classes, of `classes_each` classes.
        features: Numbers of an input.
        class_radius: How far apart the classes of a superclass lie, next to a distance of about 1.4 between superclasses.
        example_radius: How far apart the examples of a class lie.
        waves: Sines in the sum that makes inputs of latent examples; more of them are harder to learn.
        seed: Of the classes and of the examples.

    Raises:
        ConfigError: for sizes below 1, radii that are not above 0, and less than two classes.
    """
    world = Hierarchy(superclasses, classes_each, features, class_radius, example_radius, waves, seed)
    if not isinstance(examples, int) or examples < 1:
        raise ConfigError("examples is a count", expected="1 or more", got=repr(examples))
    return world.draw(examples, seed=seed)
