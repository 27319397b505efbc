"""Every fault point, and where it is proven. `test_registry` holds this against what the code declares."""

from __future__ import annotations

STARTING = {
    "commit:migrate:before": 1,
    "commit:migrate:after": 1,
    "commit:server.begin:before": 1,
    "commit:server.begin:after": 1,
    "commit:sweep.extend:before": 1,
    "commit:sweep.extend:after": 1,
}
"""Points before the server answers → how many turns of each are killed at."""

SERVER = {
    "commit:runners.register:before": 1,
    "commit:runners.register:after": 1,
    "commit:runners.heartbeat:before": 1,
    "commit:runners.heartbeat:after": 1,
    "commit:store.add:before": 2,
    "commit:store.add:after": 2,
    "store.sync:before": 2,
    "store.sync:after": 1,
    "commit:runs.submit:before": 1,
    "commit:runs.submit:after": 1,
    "commit:place:before": 3,
    "commit:place:after": 3,
    "commit:runners.events:before": 4,
    "commit:runners.events:after": 4,
    "logs.append:before": 2,
    "logs.append:after": 2,
}
"""The same on the way of a run through the server. A job's first event and its last are commits of one name."""

RUNNER = {
    "runner.identity:before": 2,
    "runner.identity:after": 2,
    "runner.spec:before": 1,
    "runner.spec:after": 1,
    "runner.spawn:before": 1,
    "runner.spawn:after": 1,
    "runner.started": 1,
    "runner.ship:before": 1,
    "runner.ship:after": 1,
    "runner.exited": 1,
    "store.put:before": 1,
    "store.put:after": 1,
    "runner.saved": 1,
    "runner.forget:before": 1,
    "runner.forget:after": 1,
}
"""The same for the runner."""

COMMAND = {
    "store.put:before": 1,
    "store.put:after": 1,
    "statcache.flush:before": 1,
    "statcache.flush:after": 1,
}
"""The same for the command line, which ships the code."""

ELSEWHERE = {
    "commit:runs.stop": "not on the way of a run that ends by itself; test_stop",
    "commit:sweep.shift": "only where the clock was set; tests/integration/server",
    "commit:sweep": "only where a deadline passes; test_clock",
    "commit:unsatisfiable": "only for a job that no runner can run",
    "commit:runners.missing": "only for what a runner lost without a word; tests/integration/server",
    "commit:tags.set": "after a run",
    "commit:tags.delete": "after a run",
    "commit:runs.delete": "after a run",
    "commit:runs.upload": "only where a run is made of a person's files; one transaction, and safe to send twice",
    "commit:repositories.register": "only where a repository is made known before its first run",
    "commit:store.asked": "only for a pack that was not asked about for long; tests/integration/server/test_catalog",
    "commit:heal.begin": "only in a repair; tests/integration/server/test_repair_disturbed.py ends one at every step",
    "commit:heal.drop": "only in a repair; tests/integration/server/test_repair_disturbed.py ends one at every step",
    "commit:heal.doubt": "only in a repair beside saves; tests/integration/server/test_repair_beside_saves.py",
    "commit:heal.list": "only in a repair; tests/integration/server/test_repair_disturbed.py ends one at every step",
    "commit:heal.correct": "only in a repair; tests/integration/server/test_repair_disturbed.py ends one at every step",
    "commit:heal.take_up": "only in a repair; tests/integration/server/test_repair_disturbed.py ends one at every step",
    "commit:power_cut.forget": "only after a power cut; tests/integration/server/test_power_cut.py",
    "commit:attempts.problem": "only while something keeps a job from saving; test_store_full",
    "commit:leases.take": "only while garbage is collected; test_gc",
    "commit:leases.keep": "only while garbage is collected for minutes; tests/integration/server/test_named_leases",
    "commit:leases.release": "only while garbage is collected; test_gc",
    "commit:gc.sweep": "only while garbage is collected; test_gc",
    "commit:gc.condemn": "only while garbage is collected; test_gc",
    "commit:gc.move": "only while garbage is collected; test_gc",
    "commit:gc.forget": "only after a repair, when nobody relies on what it took out; one statement",
    "commit:gc.adopt": "only while garbage is collected; test_gc",
    "commit:gc.remove": "only while garbage is collected; test_gc",
    "store.anew": "only after an fsync that failed; tests/integration/snapshots/test_failed_fsync.py",
    "commit:retention.set": "only when somebody changes the rules; one row",
    "commit:retention.thin": "only for snapshots that the rules let go; test_gc",
    "commit:metrics.scan": "only when somebody looks at the metrics of a run",
    "runner.orphaned": "only for an attempt that the server does not know",
    "commit:secrets.set": "before a run",
    "commit:secrets.delete": "before a run",
    "commit:secrets.pin": "only for a job with secrets; test_secrets",
    "environment-complete": "only jobs with requirements; tests/integration/runner",
    "input-complete": "only large inputs; test_inputs",
    "input-layers": "only large inputs; test_inputs",
    "input-removed": "only where the cache of inputs is full; tests/unit/runner/test_input_cache",
    "input-uncovered": "only where an input is lost after a boot; tests/integration/runner/inputs kills at it",
}
"""Points that no plain run reaches (without `:before` and `:after`), and why that is right."""


def turns(points: dict[str, int]) -> list[str]:
    """`name:n` for each turn to kill at, as DSTACK_FAULT takes it."""
    return [f"{name}:{turn}" for name, count in points.items() for turn in range(1, count + 1)]
