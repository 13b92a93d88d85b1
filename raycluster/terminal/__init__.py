"""Results become what people see: tables and progress on a terminal, plain lines elsewhere, or one JSON document."""

from raycluster.terminal.cluster import show_check
from raycluster.terminal.costs import show_bill, show_comparison, show_waste
from raycluster.terminal.datasets import (
    show_collected,
    show_dataset,
    show_datasets,
    show_hits,
    show_maintained,
    show_quarantine,
    show_rollback,
)
from raycluster.terminal.doctor import show_diagnosis
from raycluster.terminal.jobs import (
    show_job,
    show_jobs,
    show_line,
    show_outcome,
    show_sending,
    show_sent,
    show_stopped,
    show_warnings,
    show_ways,
)
from raycluster.terminal.logs import show_logs
from raycluster.terminal.resources import show_models, show_validation
from raycluster.terminal.runs import Live, plan_document, show_plan, show_run, show_runs, show_summary
from raycluster.terminal.screen import err, out, print_json, show_error, table, when
from raycluster.terminal.tender import show_tender

__all__ = [
    "Live",
    "err",
    "out",
    "plan_document",
    "print_json",
    "show_bill",
    "show_check",
    "show_collected",
    "show_comparison",
    "show_dataset",
    "show_datasets",
    "show_diagnosis",
    "show_error",
    "show_hits",
    "show_job",
    "show_jobs",
    "show_line",
    "show_logs",
    "show_maintained",
    "show_models",
    "show_outcome",
    "show_plan",
    "show_quarantine",
    "show_rollback",
    "show_run",
    "show_runs",
    "show_sending",
    "show_sent",
    "show_stopped",
    "show_summary",
    "show_tender",
    "show_validation",
    "show_warnings",
    "show_waste",
    "show_ways",
    "table",
    "when",
]
