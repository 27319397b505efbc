"""`dstack run --plan`: what would run and in which order, what would be reused and from where, what would be sent."""

from __future__ import annotations

import sys

from dstack.cli.render import ago, count, diagnostics_text, size_words, write_json
from dstack.client.sources import SHOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dstack.client.planned import Plan, PlannedBegin, PlannedPolicy, PlannedStep

MOST_DRAWN = 60
"""Steps of a graph that is drawn: a larger one says more as the list of its steps."""


def show(plan: Plan, *, sent: int, as_json: bool, given: Mapping[str, str]) -> int:
    """Show a plan; nothing runs. `sent` are the bytes of code that the server did not have, `given` says of names with
    values that are not the shell's, where they come from."""
    for step in plan.get("steps", []):
        if env := step.get("env"):
            step["env"] = {name: _from(value, given) for name, value in env.items()}
    code = plan.get("code")
    if code is not None:
        code["sent"] = sent
    if as_json:
        write_json([plan])
    else:
        sys.stderr.write(diagnostics_text(plan.get("warnings", [])))
        sys.stdout.write(plan_text(plan))
        sys.stdout.flush()
    return 0


def _from(value: str, given: Mapping[str, str]) -> str:
    """The server is told of values that never show by their names only, and takes them for the shell's."""
    for name, origin in given.items():
        value = value.replace(f"${name} of your shell", f"({origin})")
    return value


def plan_text(plan: Plan) -> str:
    steps = plan.get("steps", [])
    parts = [_summary(plan)]
    if 1 < len(steps) <= MOST_DRAWN:
        parts.append("".join(f"{line}\n" for line in _graph(plan)))
    return "\n".join([*parts, *(_step_text(step) for step in steps)])


def _summary(plan: Plan) -> str:
    actions = [step.get("action", "") for step in plan.get("steps", [])]
    told = [f"{actions.count('run')} to run"]
    told += [f"{actions.count(action)} {word}" for action, word in _ACTIONS.items() if action in actions]
    lines = [f"{plan.get('workflow')}: {count(len(actions), 'step')}, {', '.join(told)}"]
    code = plan.get("code")
    if code is not None:
        sent = code.get("sent", 0)
        new = f"{size_words(sent)} of it new to the server" if sent else "which the server has already"
        lines.append(f"code: {count(code.get('files', 0), 'file')}, {size_words(code.get('size', 0))}, {new}")
    return "\n".join(lines) + "\n"


_ACTIONS = {"reuse": "reused", "skip": "skipped"}


def _graph(plan: Plan) -> list[str]:
    """The steps as a tree, each above what it needs; what was drawn before is only named."""
    by_name: dict[str, PlannedStep] = {}
    for step in plan.get("steps", []):
        by_name[_key(step)] = step
    lines: list[str] = []
    drawn: set[str] = set()
    # (name, what stands before its own line, what stands before the lines below it)
    waiting = [(plan.get("workflow", ""), "", "")]
    while waiting:
        name, before, below = waiting.pop()
        step = by_name.get(name)
        if step is None:
            continue
        needs = [need for need in step.get("needs", []) if need in by_name]
        if name in drawn and needs:
            lines.append(f"{before}{name} (above)")
            continue
        drawn.add(name)
        lines.append(f"{before}{_headline(step)}")
        last = len(needs) - 1
        branches = [
            (need, f"{below}{'└' if at == last else '├'}─ ", f"{below}{' ' if at == last else '│'}  ")
            for at, need in enumerate(needs)
        ]
        waiting.extend(reversed(branches))
    return lines


def _key(step: PlannedStep) -> str:
    """The step as `needs` of others name it."""
    name, tag = step.get("name", ""), step.get("tag")
    return f"{name}:{tag}" if step.get("action") == "reuse" and tag else name


def _headline(step: PlannedStep) -> str:
    name, tag = step.get("name", ""), step.get("tag")
    match step.get("action"):
        case "reuse":
            return f"{name}: reuse from {step.get('from')}" + (f" (tag {tag})" if tag else "")
        case "skip":
            return f"{name}: skip, {step.get('why')}"
        case _:
            return f"{name}: run"


def _step_text(step: PlannedStep) -> str:
    if step.get("action") == "reuse":
        facts = [("artifacts", ", ".join(step.get("artifacts", [])))]
        return "\n".join([_headline(step), *_lines(facts)]) + "\n"
    jobs = step.get("jobs", 1)
    facts = [
        ("provider", step.get("provider", "")),
        ("jobs", str(jobs) if jobs > 1 else ""),
        ("after", ", ".join(step.get("needs", []))),
        ("needs", _needs(step)),
        ("python", step.get("environment", "")),
        ("artifacts", ", ".join(step.get("artifacts", []))),
        *_policy_facts(step.get("policy") or {}),
    ]
    facts += [("reused", f"{item['job']} from {item['from']}") for item in step.get("reused", [])]
    facts += [("begins", _begin(item)) for item in step.get("begins", [])]
    facts += [("env", f"{name}={value}") for name, value in step.get("env", {}).items()]
    for variable, about in step.get("variables", {}).items():
        facts.append(("variable", f"{variable} = {_value(about.get('value'))}  ({about.get('source', '')})"))
    lines = [_headline(step), *_lines(facts)]
    for command in step.get("commands", []):
        lines += [f"  {'$' if at == 0 else ' ':<10} {line}" for at, line in enumerate(command.splitlines())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """A variable's value as its jobs get it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


_INSTEAD = {"empty": ", which holds no file", "lost": ", which is not whole in the store any more"}


def _instead(item: PlannedBegin) -> str:
    why = item.get("instead")
    return f": snapshot {item['manifest_id'][:SHOWN]}, not its last{_INSTEAD.get(why, '')}" if why else ""


def _begin(item: PlannedBegin) -> str:
    """The snapshot that a job begins with."""
    files, size = count(item["files"], "file"), size_words(item["size"])
    return (
        f"{item['job']} with {item['path']} of {item['from']} as of {ago(item['at'])} ({files}, {size}){_instead(item)}"
    )


def _lines(facts: list[tuple[str, str]]) -> Iterator[str]:
    return (f"  {title:<10} {value}" for title, value in facts if value)


def _needs(step: PlannedStep) -> str:
    misfit = step.get("misfit")
    return step.get("requirements", "") + (f"; no runner has that: {misfit}" if misfit else "")


def _policy_facts(policy: PlannedPolicy) -> list[tuple[str, str]]:
    retry, timeout = policy.get("retry"), policy.get("timeout")
    told = ""
    if retry:
        times = count(retry.get("max", 0), "time")
        told = f"at most {times}, from {retry.get('backoff', 0):g} s on: {', '.join(retry.get('on', []))}"
    failure = [
        words
        for key, words in (("fail_fast", "stops its other jobs"), ("continue_on_failure", "counts as a success"))
        if policy.get(key)
    ]
    return [
        ("if", policy.get("condition") or ""),
        ("timeout", f"{timeout:g} s" if timeout else ""),
        ("retry", told),
        ("a failure", " and ".join(failure)),
    ]
