"""What of a dataset's samples counts: joints outside of the image, cameras left out and samples that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hand_unc_ros.data.samples import Sample, SampleSource
from hand_unc_ros.errors import DatasetError


@dataclass
class Coverage:
    """Counts over samples.

    samples, views: that were read.  annotated: their 2D joints, and outside: those of them that lie outside of the
    image and so are masked.  hidden: views of which all annotated joints do.  without_image: views without one.
    left_out: cameras that the dataset lists for a sample without an annotation.  unreadable: samples that cannot be
    read, first_error: why the first of them cannot.
    """

    samples: int = 0
    views: int = 0
    annotated: int = 0
    outside: int = 0
    hidden: int = 0
    without_image: int = 0
    left_out: int = 0
    unreadable: int = 0
    first_error: str = field(default='', repr=False)

    def add(self, sample: Sample) -> None:
        """Count a sample that was read."""
        self.samples += 1
        self.left_out += len(sample.left_out)
        for view in sample.views:
            annotated, inside = int(view.annotated.sum()), int(view.in_image.sum())
            self.views += 1
            self.annotated += annotated
            self.outside += annotated - inside
            self.hidden += annotated > 0 and inside == 0
            self.without_image += view.image is None

    def add_unreadable(self, error: DatasetError) -> None:
        """Count a sample that cannot be read."""
        self.unreadable += 1
        self.first_error = self.first_error or str(error)

    def __str__(self) -> str:
        parts = [f'{self.outside} of {self.annotated} 2D joints lie outside of the image and are masked'
                 f' ({self.hidden} of {self.views} views show no joint)']
        if self.without_image:
            parts.append(f'{self.without_image} views have no image')
        if self.left_out:
            parts.append(f'{self.left_out} cameras without an annotation are left out')
        if self.unreadable:
            parts.append(f'{self.unreadable} of {self.samples + self.unreadable} samples cannot be read, the first'
                         f' because {self.first_error}')
        return '; '.join(parts)


def coverage_of(source: SampleSource, indices: Iterable[int]) -> Coverage:
    """The counts over these samples; images are not read."""
    coverage = Coverage()
    for index in indices:
        try:
            coverage.add(source[index])
        except DatasetError as error:
            coverage.add_unreadable(error)
    return coverage
