"""What a run tells: report.json for programs, report.md and report.html for people, and the judgement of `expect`."""

from distill.report.document import SCHEMA, Expectation, Report, judge
from distill.report.machine import machine, versions
from distill.report.reading import reading_help

__all__ = ["SCHEMA", "Expectation", "Report", "judge", "machine", "reading_help", "versions"]
