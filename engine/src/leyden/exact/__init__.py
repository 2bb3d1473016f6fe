"""The memory of a process: what a run must keep, so that it resumes to the same bits."""

from leyden.exact.mark import mark as mark
