"""YAML text → checked workflows (`load`), and a workflow's name with arguments → the plan of a run (`plan`).

Pure: files, tags and newest runs are handed in. Imports pydantic only through the providers that are handed in.

| Module | Is | Imports of this package |
|---|---|---|
| `diagnostics` | positioned messages | – |
| `expressions` | `${{ name }}` | – |
| `syntax` | what the YAML parser says, in sentences | diagnostics |
| `aliases` | which `*name` brought a value | – |
| `nodes` | a file as a tree with positions | aliases, expressions |
| `composing` | YAML text → tree, within limits | nodes, syntax |
| `variables` | the variables file | nodes |
| `binding` | tree and variables → plain data | variables |
| `dependencies` | what dependencies say, and their order | nodes |
| `sentences` | what pydantic says, in sentences | – |
| `checking` | plain data → a provider's `Config` | binding, sentences |
| `patterns` | what `code: {exclude}` leaves out | nodes |
| `model` | workflows and plans | dependencies, patterns, variables |
| `provider_names` | how a workflow names its provider | nodes |
| `own_providers` | the providers file | checking, dependencies |
| `folded` | texts that were meant as lists | nodes |
| `braces` | `{{ name }}` without its `$` | variables |
| `collector` | pausing Python's collector | – |
| `loading` | `load` | all above |
| `options` | words of the command line | model, checking |
| `inputs` | what earlier runs bring | model |
| `context` | what providers may look at | checking |
| `outputs` | what workflows say that they write | checking |
| `adhoc` | workflows of the command line | loading, options |
| `checkup` | `check_code`, `Contents` | planning |
| `planning` | `plan` | all above |
"""

from dstack.workflows.checkup import Contents, check_code
from dstack.workflows.diagnostics import Diagnostic, Invalid, UnknownTag, render, warning
from dstack.workflows.loading import load
from dstack.workflows.model import PlannedStep, ReusedInput, RunPlan, StepPolicy, Workflow, Workflows
from dstack.workflows.planning import plan

__all__ = [
    "Contents",
    "Diagnostic",
    "Invalid",
    "PlannedStep",
    "ReusedInput",
    "RunPlan",
    "StepPolicy",
    "UnknownTag",
    "Workflow",
    "Workflows",
    "check_code",
    "load",
    "plan",
    "render",
    "warning",
]
