"""Jobs: very many inputs of one task, worked off while nobody waits. `client.jobs` of either client.

>>> job = client.jobs.create("embed", job_id="news", pooling="mean")
>>> job.upload(open("news.txt"))
>>> job.seal()
>>> for result in job.results():
...     print(result.index, result.result.tensor.shape)

Stopped anywhere and run again, this goes on: `create` finds the job of that name, `upload` passes over what the service
has, and the results are there for a day after the job has ended.
"""

from xlmstream.jobs.asyncio_jobs import AsyncJob
from xlmstream.jobs.blocking_jobs import Job
from xlmstream.jobs.values import JobItem, JobResult, JobState

__all__ = ["AsyncJob", "Job", "JobItem", "JobResult", "JobState"]
