"""Studies of how people judge reconstructions: a web page that collects votes, and the votes as judgments."""

from dreamsim_guidance.study.exporter import Made, make_study
from dreamsim_guidance.study.page import Page
from dreamsim_guidance.study.reader import Outcome, read_study
from dreamsim_guidance.study.record import Study, read_record

__all__ = ["Made", "Outcome", "Page", "Study", "make_study", "read_record", "read_study"]
