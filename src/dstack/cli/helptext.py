"""The text of `dstack --help`. Written by scripts/generate_help.py from dstack.cli.commands."""

HELP = """\
Usage: dstack COMMAND [ARGUMENTS]...

  CI/CD for training models: runs the workflows of .dstack/workflows.yaml,
  saves their artifacts while they run, and reuses them by tag.

Commands:
  init        Propose the first workflows of a project.
  run         Run a workflow and follow its output.
  runs        List runs, or show one with its jobs. Also: ps, status.
  logs        Show a run's output from its first line.
  stop        Stop a run.
  resume      Go on where a run ended, as a new run.
  restart     Run a job again and what comes after it, as a new run.
  explain     Say why a run waits, or why it failed.
  metrics     Show what a run's jobs have logged: loss, accuracy, …
  compare     Show what sets runs apart.
  artifacts   List, read, download and upload what runs save.
  lineage     Show where a run's inputs come from, and who used its artifacts.
  open        Open the folder with a run's results.
  tag         Give a run's artifacts a name to refer to them by.
  untag       Remove a tag, or all tags of a run.
  tags        List, set and remove tags.
  secrets     Set, list and delete values that never show.
  workflows   List the workflows of this repository.
  validate    Check the workflow files of this repository.
  schema      Print the JSON Schema of the workflow files, for editors.
  rm          Delete runs with their logs.
  prune       List the finished runs without a tag, and delete them.
  du          Show what takes space.
  gc          Free what nothing refers to any more.
  retention   Show and set how long snapshots and runs are kept.
  verify      Check that what was saved is all there and right.
  config      Set the server that commands use, as named profiles.
  doctor      Look for what keeps runs from working here.
  completion  Make a shell complete what you type.
  server      Start, show or stop the local server.
  runners     List the runners: what they have, and how many jobs they hold.
  runner      Run jobs on this machine for a server.

Options:
  --version   Show the version.
  -h, --help  Show this text.

Help on one command: dstack COMMAND --help
"""
