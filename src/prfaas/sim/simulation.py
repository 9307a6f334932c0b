"""The driver in simulated time: carries the scheduler's commands out on engines and lines.

Theory of operation. What happens (arrivals, a prefill's end, a transfer's arrival, tokens,
failures, alarms) is told to the one `Scheduler`, and the commands it answers with become work on
`Engine` and `Line`. Nothing here decides anything. Prefix caches belong to clusters (the paper's
hybrid prefix cache pool): a prefill leaves its prompt's blocks in its cluster, a hand-off leaves
them in the decode engine's cluster, and an arriving request is told what each cluster holds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from math import inf

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Policy
from prfaas.policies.views import Costs, PrefillLearner
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import Entry
from prfaas.scheduler.scheduler import Scheduler
from prfaas.sim.clock import PRIORITY_ALARM, PRIORITY_FAULT, Clock
from prfaas.sim.engine import Engine, Task
from prfaas.sim.job import Job
from prfaas.sim.metrics import Recorder
from prfaas.sim.network import Network
from prfaas.sim.pools import pools_of
from prfaas.sim.world import Outage, World
from prfaas.workload.prefix_cache import PrefixCache
from prfaas.workload.requests import Workload

Log = Callable[[float, Entry], None]


class Simulation:
    """One run.

    Args:
        costs: what the scheduler is told of engines and KV sizes (None: the truth).
        learner: told how long prefills took.
        log: receives every event and command with its time.
    """

    def __init__(
        self,
        world: World,
        workload: Workload,
        policy: Policy,
        config: SchedulerConfig,
        *,
        costs: Costs | None = None,
        learner: PrefillLearner | None = None,
        deadline_s: float | None = None,
        log: Log | None = None,
    ) -> None:
        self.clock = Clock()
        self.world = world
        self.policy_name = policy.name
        self.scheduler = Scheduler(
            world.topology, policy, config, costs=costs or world.costs, learner=learner
        )
        self.recorder = Recorder(workload)
        self._workload = workload
        self._deadline_s = deadline_s
        self._log = log
        self._jobs: dict[str, Job] = {}
        self._cluster_of = world.topology.cluster_of
        self._models = {model.name: model for model in world.engines}
        self.engines = {
            m.name: Engine(
                m.name,
                self.clock,
                self,
                max_batch=m.max_batch,
                step_seconds=m.step_seconds,
                kv_tokens=m.kv_tokens,
            )
            for m in world.engines
        }
        self._network = Network(
            self.clock, world, self._cluster_of, self._tell, self._arrived_over_line
        )
        self.lines = self._network.lines
        self._caches = {name: PrefixCache(size) for name, size in world.cache_blocks.items()}
        self._engines_of = {
            name: [spec.name for spec in world.topology.engines if spec.cluster == name]
            for name in self._caches
        }
        self.pools = pools_of(world, workload.block_tokens)
        self._alarm = 0
        self._carry_out: dict[type, Callable[..., None]] = {
            c.StartPrefill: self._start_prefill,
            c.StartDecode: self._start_decode,
            c.CancelPrefill: self._cancel_prefill,
            c.CancelTransfer: self._cancel_transfer,
            c.CancelDecode: self._cancel_decode,
            c.FailRequest: self._fail_request,
            c.ChangeRole: lambda command: None,
            c.SetTimer: self._set_timer,
        }
        for outage in world.outages:
            self.clock.at(outage.at, self._engine_dies, outage, PRIORITY_FAULT)

    def run(self, until: float = inf, on_progress: Callable[[int], None] | None = None) -> None:
        """To the last answer, or to time ``until``. ``on_progress(arrived)``: now and then,
        and at the end."""
        collecting = gc.isenabled()
        # Nothing here forms cycles that die: the collector would only walk live requests.
        gc.disable()
        try:
            self._run(until, on_progress)
        finally:
            if collecting:
                gc.enable()

    def _run(self, until: float, on_progress: Callable[[int], None] | None) -> None:
        clock, arrivals = self.clock, self._workload.arrivals
        count = len(arrivals)
        arrived = 0
        next_arrival = arrivals[0] if count else inf
        while True:
            at = clock.next_at
            if next_arrival <= at:
                if next_arrival > until or next_arrival == inf:
                    break
                clock.now = next_arrival
                self._arrive(arrived)
                arrived += 1
                next_arrival = arrivals[arrived] if arrived < count else inf
                if on_progress is not None and arrived & 1023 == 0:
                    on_progress(arrived)
            elif at > until or (arrived == count and not self._jobs):
                break
            else:
                clock.run_next()
        if on_progress is not None:
            on_progress(arrived)
        for engine in self.engines.values():
            engine.settle()

    def _tell(self, event: e.AnyEvent) -> None:
        now = self.clock.now
        commands = self.scheduler.handle(event, now=now)
        if self._log is not None:
            self._log(now, event)
            for command in commands:
                self._log(now, command)
        carry_out = self._carry_out
        for command in commands:
            carry_out[type(command)](command)

    # -- what happens ---------------------------------------------------------------------------

    def _arrive(self, index: int) -> None:
        workload = self._workload
        blocks = workload.blocks[index] if workload.blocks else ()
        prompt = workload.prompts[index]
        request_id = str(index)
        self._jobs[request_id] = Job(index, prompt, workload.outputs[index], blocks)
        cached: dict[str, int] = {}
        resumable: Mapping[str, int] = {}
        if workload.held:
            known, (held_of, resumable) = self.engines, workload.held[index]
            cached = {name: held for name, held in held_of.items() if name in known}
        if blocks:
            for name, cache in self._caches.items():
                held = cache.match(blocks) * workload.block_tokens
                if held:
                    held = min(held, prompt - 1)
                    cached.update(dict.fromkeys(self._engines_of[name], held))
        fetch_s = self.pools.count(cached, blocks, prompt)
        self._tell(
            e.RequestArrived(
                request_id,
                prompt,
                workload.outputs[index],
                cached,
                None if self._deadline_s is None else self.clock.now + self._deadline_s,
                resumable,
                fetch_s=fetch_s,
            )
        )

    def prefill_seconds(self, engine: Engine, task: Task) -> float:
        """The engine takes a prompt up: what its cluster holds by now need not be computed."""
        job = task.job
        assert isinstance(job, Job)
        held = 0
        if self._workload.held:
            held = min(self._workload.held[job.index].cached.get(engine.name, 0), job.prompt - 1)
        cache = self._caches.get(self._cluster_of[engine.name])
        if cache is not None:
            held = min(cache.match(job.blocks) * self._workload.block_tokens, job.prompt - 1)
        reach = self.pools.fetch(engine.name, job.blocks, job.prompt, self.clock.now)
        if reach.blocks:
            held = min(reach.blocks * self._workload.block_tokens, job.prompt - 1)
        seconds = reach.fetch_s + self.world.costs.prefill_s(engine.name, job.prompt - held)
        self.recorder.prefill(job.index, self.clock.now, seconds, held)
        start = job.transfer
        if task is job.prefill and start is not None:
            self._network.open(start, held, seconds)
        return seconds

    def prefill_done(self, engine: Engine, task: Task) -> None:
        """Its blocks are cached; with a hand-off within the cluster that is there at once."""
        job = task.job
        assert isinstance(job, Job)
        cache = self._caches.get(self._cluster_of[engine.name])
        if cache is not None:
            cache.insert(job.blocks)
        self.pools.computed(engine.name, job.blocks)
        start = job.transfer
        if task is not job.prefill or start is None:
            return  # Direct: the first token follows.
        job.prefill = None
        self._network.produced(start)
        self._tell(e.PrefillCompleted(start.request_id, start.attempt))
        if self._network.line_of(start) is None:
            self._transferred(start)

    def _arrived_over_line(self, key: tuple[str, int]) -> None:
        start = self._jobs[key[0]].transfer
        assert start is not None
        self._transferred(start)

    def _transferred(self, start: c.StartPrefill) -> None:
        job = self._jobs.get(start.request_id)
        if job is None or job.transfer is not start:
            return
        cluster = self._cluster_of[start.decode_engine]
        if cluster in self._caches and cluster != self._cluster_of[start.engine]:
            self._caches[cluster].insert(job.blocks)
        self.pools.handed_over(
            start.engine, start.decode_engine, job.blocks, start.from_token, start.to_token
        )
        self.recorder.transferred(job.index, self.clock.now)
        self._tell(e.TransferCompleted(start.request_id, start.attempt))

    def first_token(self, engine: Engine, task: Task) -> None:
        """See `EngineListener`."""
        job = task.job
        assert isinstance(job, Job)
        self.recorder.first_token(job.index, self.clock.now)
        self._tell(e.FirstToken(str(job.index), task.attempt))

    def decode_done(self, engine: Engine, task: Task) -> None:
        """See `EngineListener`."""
        job = task.job
        assert isinstance(job, Job)
        request_id = str(job.index)
        self._jobs.pop(request_id).forget()
        conversed = self._workload.conversed
        self.pools.answered(engine.name, conversed[job.index] if conversed else job.blocks)
        self.recorder.completed(job.index, self.clock.now)
        self._tell(e.RequestCompleted(request_id, task.attempt))

    # -- what is to be done ---------------------------------------------------------------------

    def _start_prefill(self, command: c.StartPrefill) -> None:
        job = self._jobs[command.request_id]
        task = Task(job, command.attempt, prefill=True, output=0, kv_tokens=0)
        job.prefill, job.transfer = task, command
        self.engines[command.engine].submit(task)

    def _start_decode(self, command: c.StartDecode) -> None:
        job = self._jobs[command.request_id]
        direct = command.transfer_id is None
        self.recorder.routed(job.index, command.route, command.attempt)
        task = Task(
            job,
            command.attempt,
            prefill=direct,
            output=job.output,
            kv_tokens=job.prompt + job.output,
            load_s=0.0 if direct else self._models[command.engine].load_s(job.prompt),
        )
        job.decodes[command.attempt] = task
        self.engines[command.engine].submit(task)

    def _cancel_prefill(self, command: c.CancelPrefill) -> None:
        job = self._jobs[command.request_id]
        if job.prefill is not None:
            self.engines[command.engine].cancel(job.prefill)
            job.prefill = None

    def _cancel_transfer(self, command: c.CancelTransfer) -> None:
        job = self._jobs[command.request_id]
        start, job.transfer = job.transfer, None
        if start is not None:
            self._network.cancel(start)

    def _cancel_decode(self, command: c.CancelDecode) -> None:
        job = self._jobs[command.request_id]
        task = job.decodes.pop(command.attempt, None)
        if task is not None:
            self.engines[command.engine].cancel(task)

    def _fail_request(self, command: c.FailRequest) -> None:
        self._jobs.pop(command.request_id).forget()
        self.recorder.failed(command.kind)

    def _set_timer(self, command: c.SetTimer) -> None:
        self._alarm += 1
        self.clock.at(command.at, self._ring, self._alarm, PRIORITY_ALARM)

    def _ring(self, alarm: int) -> None:
        if alarm == self._alarm:
            self._tell(e.TimerFired())

    # -- failures ---------------------------------------------------------------------------------

    def _engine_dies(self, outage: Outage) -> None:
        self.engines[outage.engine].fail()
        self.pools.restarted(outage.engine)
        self.clock.at(self.clock.now + outage.for_s, self._engine_returns, outage, PRIORITY_FAULT)
        self._tell(e.EngineDown(outage.engine, "outage"))

    def _engine_returns(self, outage: Outage) -> None:
        self._tell(e.EngineUp(outage.engine))
