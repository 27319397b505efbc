"""What shells complete. Written by scripts/generate_help.py from the commands themselves."""

# fmt: off
# ruff: noqa: E501
# Command → its options: (spellings, kind of their value or empty, what they do).
OPTIONS: dict[str, tuple[tuple[tuple[str, ...], str, str], ...]] = {
    'init': (
        (('-y', '--yes'), '', 'Write what is proposed without a question'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'runs': (
        (('-a', '--all'), '', 'All runs there are, of all repositories'),
        (('-n', '--last'), 'files', 'The newest N instead of 10, and the unfinished'),
        (('--diff',), '', 'What the code of RUN had beyond its commit, as `git diff` shows it'),
        (('--json',), '', 'A list of objects, newest first'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'logs': (
        (('-f', '--follow'), '', 'Go on until the run ends'),
        (('--json',), '', "JSON lines: jobs' changes, and what they wrote as text"),
        (('-s', '--since'), 'files', 'From that time on: 5m, 2h, 1d, or 2022-07-01T12:00'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'stop': (
        (('-y', '--yes'), '', 'Do not ask'),
        (('--abort',), '', 'At once, without saving what its jobs have written'),
        (('--json',), '', 'The run as it is now, in a list'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'resume': (
        (('-d', '--detach'), '', 'Submit and return at once'),
        (('-t', '--tag'), 'files', 'Tag it when it is done'),
        (('--set',), 'files', 'Change a variable'),
        (('--with-local-changes',), '', 'Use the code and workflow files as they are here now'),
        (('--fresh',), '', 'Begin without the last snapshots'),
        (('--plan',), '', 'Show what is reused and what starts from where; run nothing'),
        (('--json',), '', "Print data as JSON; a job's output goes to stderr"),
        (('-e', '--env'), 'files', "A value for the jobs; without one, the shell's own"),
        (('--env-file',), 'files', 'Such values from a file'),
        (('--repo',), 'files', "The repository, where it is not this folder's"),
        (('-y', '--yes'), '', 'Ship the code without a question, however much it is'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'restart': (
        (('-d', '--detach'), '', 'Submit and return at once'),
        (('-t', '--tag'), 'files', 'Tag it when it is done'),
        (('--set',), 'files', 'Change a variable'),
        (('--with-local-changes',), '', 'Use the code and workflow files as they are here now'),
        (('--fresh',), '', 'Begin without the last snapshots'),
        (('--plan',), '', 'Show what is reused and what starts from where; run nothing'),
        (('--json',), '', "Print data as JSON; a job's output goes to stderr"),
        (('-e', '--env'), 'files', "A value for the jobs; without one, the shell's own"),
        (('--env-file',), 'files', 'Such values from a file'),
        (('--repo',), 'files', "The repository, where it is not this folder's"),
        (('-y', '--yes'), '', 'Ship the code without a question, however much it is'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'explain': (
        (('--json',), '', 'The same as an object in a list'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'metrics': (
        (('--job',), 'files', 'Of this job only'),
        (('--plot',), '', 'Draw each metric'),
        (('--json',), '', 'A list of objects with up to 1,000 points each'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'compare': (
        (('--json',), '', 'The same as an object in a list'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'artifacts': (
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'artifacts list': (
        (('-l', '--files'), '', 'List the files in the artifacts, too'),
        (('--all-versions',), '', 'Every snapshot there is, or every version of PATH'),
        (('--at',), 'files', 'As it was then: 5m or 2h ago, a time, or a snapshot'),
        (('--json',), '', 'A list of objects, newest first'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'artifacts download': (
        (('-o', '--output'), 'files', 'Into this folder (default: ./RUN or ./TAG)'),
        (('--at',), 'files', 'As it was then: 5m or 2h ago, a time, or a snapshot'),
        (('-f', '--force'), '', 'Overwrite files that differ'),
        (('--json',), '', 'What was downloaded, as a list of objects'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'artifacts cat': (
        (('--at',), 'files', 'As it was then: 5m or 2h ago, a time, or a snapshot'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'artifacts cp': (
        (('--at',), 'files', 'As it was then: 5m or 2h ago, a time, or a snapshot'),
        (('-f', '--force'), '', 'Overwrite files that differ'),
        (('--json',), '', 'What was copied, as a list of one object'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'artifacts diff': (
        (('--json',), '', 'A list of objects: `path`, `change`, `before`, `after`'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'artifacts log': (
        (('--json',), '', 'A list of objects, newest first'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'artifacts upload': (
        (('-t', '--tag'), 'files', 'Give what is uploaded this tag, too'),
        (('-w', '--workflow'), 'workflow', 'The workflow it counts as (default: upload)'),
        (('--json',), '', 'The run, in a list'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'lineage': (
        (('--json',), '', 'The links, as a list of objects'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'open': (
        (('--path',), '', 'Only print where the folder is'),
        (('--json',), '', 'The artifacts, each with the `target` it lies in; opens nothing'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'tag': (
        (('-n', '--name'), 'tag', 'The same as the second argument'),
        (('-f', '--force'), '', 'Also a run that did not succeed; its artifacts show as partial'),
        (('--json',), '', 'The tags that were set, one per workflow'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'untag': (
        (('-w', '--workflow'), 'workflow', 'Only of this workflow'),
        (('--json',), '', 'The tags that were removed'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'tags': (
        (('-a', '--all'), '', 'Of all repositories, not only the one you are in'),
        (('--json',), '', 'A list of objects, newest first'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'tags list': (
        (('-a', '--all'), '', 'Of all repositories, not only the one you are in'),
        (('--json',), '', 'A list of objects, newest first'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'secrets': (
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'secrets list': (
        (('--repo',), 'files', 'The folder that holds .dstack/ (default: from here upwards)'),
        (('--json',), '', 'A list of objects; no value is ever in it'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'secrets add': (
        (('-y', '--yes'), '', 'Overwrite one that exists'),
        (('--repo',), 'files', 'The folder that holds .dstack/ (default: from here upwards)'),
        (('--json',), '', 'A list of objects; no value is ever in it'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'secrets update': (
        (('--repo',), 'files', 'The folder that holds .dstack/ (default: from here upwards)'),
        (('--json',), '', 'A list of objects; no value is ever in it'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'secrets delete': (
        (('-y', '--yes'), '', 'Do not ask'),
        (('--repo',), 'files', 'The folder that holds .dstack/ (default: from here upwards)'),
        (('--json',), '', 'A list of objects; no value is ever in it'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'workflows': (
        (('--repo',), 'files', 'The folder that holds .dstack/ (default: from here upwards)'),
        (('--json',), '', 'A list of objects, with the variables of each'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'validate': (
        (('--repo',), 'files', 'The folder that holds .dstack/ (default: from here upwards)'),
        (('--json',), '', 'The diagnostics as a list of objects'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'schema': (
        (('-o', '--output'), 'files', 'Write it to a file'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'rm': (
        (('-a', '--all'), '', 'All finished runs of this repository without a tag'),
        (('-f', '--force'), '', 'Also runs that have a tag; their tags go with them'),
        (('-y', '--yes'), '', 'Do not ask'),
        (('--json',), '', 'What became of each run, as a list of objects'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'prune': (
        (('-y', '--yes'), '', 'Delete them; without it they are only listed'),
        (('-a', '--all'), '', 'Of all repositories, not only the one you are in'),
        (('--before',), 'files', 'Only those submitted before: 12h, 30d, 4w ago, or 2022-07-01'),
        (('--json',), '', 'The runs, and with -y what became of each'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'du': (
        (('-n', '--runs'), 'files', 'How many of the largest runs'),
        (('--json',), '', 'A list of objects: `kind`, `size`, …; runs last'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'gc': (
        (('-y', '--yes'), '', 'Free it; without it nothing is changed'),
        (('--grace',), 'files', 'Leave what was saved, or asked about by who saves, in the last TIME (24h): no save under way may have begun before that'),
        (('--despite-damage',), '', 'Also free what only damaged folders could still name'),
        (('--json',), '', 'What is freed and why, as one object'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'retention': (
        (('--json',), '', 'The rules as one object'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'retention set': (
        (('--json',), '', 'The rules as one object'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'verify': (
        (('-a', '--all'), '', 'Check the whole store, also against its catalog'),
        (('--quick',), '', 'Do not read the data: is it there, as long as it was, with its index?'),
        (('--repair',), '', 'Take out what is damaged, so that saving it again brings it back'),
        (('--rebuild-index',), '', 'Make the catalog of the whole store again from the packs'),
        (('--json',), '', 'What was found and done, as a list of objects'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'config': (
        (('--server',), 'files', 'https://HOST, http://HOST:PORT, unix:/path/to/socket, or `local`'),
        (('--token',), 'files', 'What the server knows you by; asked for in a terminal'),
        (('--project',), 'files', 'The project there; by default `main`'),
        (('--no-verify',), '', "Do not check the server's certificate"),
        (('-f', '--force'), '', 'Replace a profile without a question'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'config list': (
        (('--json',), '', 'A list of objects, without the tokens'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'config delete': (
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'doctor': (
        (('--json',), '', 'A list of objects: `name`, `status`, `text`, `fix`'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'completion': (
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'server': (
        (('--json',), '', 'The server as one object in a list'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'server start': (
        (('--foreground',), '', 'Become the server instead of starting one'),
        (('--json',), '', 'The server as one object in a list'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'server status': (
        (('--json',), '', 'The server as one object in a list; empty when none runs'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'server stop': (
        (('--timeout',), 'files', 'Seconds to wait for its end'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'server move-store': (
        (('--keep',), '', 'Leave the packs where they were, too'),
        (('--json',), '', 'What was moved, as one object in a list'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
    'runner': (
        (('--server',), 'files', 'Work for this server instead of the one of this home'),
        (("-h", "--help"), "", "Show the command's help."),
    ),
}
# Command → the kinds of its arguments; the last one may come again where it ends in `*`.
ARGUMENTS: dict[str, tuple[str, ...]] = {
    'init': ('',),
    'runs': ('run',),
    'logs': ('run', ''),
    'stop': ('run',),
    'resume': ('run',),
    'restart': ('run', ''),
    'explain': ('run',),
    'metrics': ('run', '*'),
    'compare': ('run*',),
    'artifacts list': ('run-or-tag', 'workflow'),
    'artifacts download': ('run-or-tag', '*'),
    'artifacts cat': ('run-or-tag',),
    'artifacts cp': ('run-or-tag', ''),
    'artifacts diff': ('', ''),
    'artifacts log': ('run-or-tag',),
    'artifacts upload': ('*',),
    'lineage': ('run-or-tag',),
    'open': ('run',),
    'tag': ('run', 'tag'),
    'untag': ('tag-or-run',),
    'secrets add': ('', ''),
    'secrets update': ('', ''),
    'secrets delete': ('',),
    'schema': ('choice:workflows,variables,providers',),
    'rm': ('run*',),
    'retention set': ('*',),
    'verify': ('run-or-tag',),
    'config': ('profile',),
    'config delete': ('profile',),
    'completion': ('choice:bash,zsh,fish',),
    'server move-store': ('',),
}
PROVIDERS: tuple[str, ...] = ('bash', 'curl', 'python', 'torchrun')
PROVIDER_OPTIONS: tuple[str, ...] = ('requirements', 'env', 'artifact', 'working-dir', 'interruptible', 'cpu', 'memory', 'gpu', 'gpu-name', 'gpu-memory', 'shm-size', 'dep', 'deps', 'depends-on', 'ports', 'nnodes', 'logdir')
