"""`dstack completion`: what a shell has to be told to complete `dstack` command lines."""

from __future__ import annotations

import sys

import click

SHELLS = {
    "bash": """\
# Completion of dstack for bash. Put into ~/.bashrc:   eval "$(dstack completion bash)"
_dstack() {
    local IFS=$'\\n'
    COMPREPLY=($(dstack __complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
complete -o default -F _dstack dstack
""",
    "zsh": """\
# Completion of dstack for zsh. Put into ~/.zshrc:   eval "$(dstack completion zsh)"
_dstack() {
    local -a names shown
    local name about
    while IFS=$'\\t' read -r name about; do
        names+=("$name")
        shown+=("$name${about:+  -- $about}")
    done < <(dstack __complete zsh "${(j: :)words[1,CURRENT]}" 2>/dev/null)
    if (( $#names )); then
        compadd -Q -l -d shown -a names
    else
        _files
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _dstack dstack
""",
    "fish": """\
# Completion of dstack for fish. Put into ~/.config/fish/config.fish:   dstack completion fish | source
complete -c dstack -f -a '(dstack __complete fish (commandline -cp) 2>/dev/null)'
""",
}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the code that makes SHELL complete commands, options, workflows, variables, runs and tags.

    For bash, in ~/.bashrc:  eval "$(dstack completion bash)"

    For zsh, in ~/.zshrc:  eval "$(dstack completion zsh)"

    For fish, in ~/.config/fish/config.fish:  dstack completion fish | source
    """
    sys.stdout.write(SHELLS[shell])
    sys.stdout.flush()
