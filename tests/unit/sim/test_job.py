"""What is kept of a live request."""

from __future__ import annotations

from prfaas.sim.engine import Task
from prfaas.sim.job import Job


def test_a_job_that_has_ended_names_its_tasks_no_more() -> None:
    job = Job(0, 100, 5, ())
    job.prefill = Task(job, 1, prefill=True, output=0, kv_tokens=0)
    job.decodes[1] = Task(job, 1, prefill=False, output=5, kv_tokens=105)
    job.forget()
    assert job.prefill is None
    assert not job.decodes
