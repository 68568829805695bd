"""Completion of words in bash, zsh and fish: `eval "$(oodgan --shell-completion bash)"`.

The shell calls `oodgan --complete "LINE"`; groups and keys are completed by Hydra.
"""

from __future__ import annotations

from oodgan.command.keys import choices
from oodgan.command.usage import config_folders, stage_names
from oodgan.errors import UserError, unknown

_BASH = """\
_oodgan() {
    local line="${COMP_LINE:0:$COMP_POINT}" candidates
    candidates="$(oodgan --complete "$line" 2>/dev/null)"
    local word="${line##* }"
    local cut="${word%"${word##*[=:]}"}"   # bash begins a new word at = and :
    local IFS=$'\\n'
    COMPREPLY=($(compgen -W "$candidates" -- "$word"))
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != *[=./] ]] && compopt +o nospace
}
complete -o nospace -o default -F _oodgan oodgan
"""

_ZSH = """\
_oodgan() {
    local -a candidates
    candidates=("${(@f)$(oodgan --complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$candidates" ]]; then compadd -S '' -- $candidates; else _files; fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u; }
compdef _oodgan oodgan
"""

_FISH = """\
complete -c oodgan -f -a '(oodgan --complete (commandline -cp) 2>/dev/null; or __fish_complete_path (commandline -ct))'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """Return the script for a shell to evaluate; Hydra's `install=bash` is accepted too.

    Raises:
        UserError: another shell.
    """
    name = shell.removeprefix("install=")
    if name not in SCRIPTS:
        raise unknown("shell", name, SCRIPTS)
    return SCRIPTS[name]


def complete(line: str) -> list[str]:
    """Return the completions of the last word of a command line."""
    words = line.split()[1:]
    last = "" if line.endswith(" ") or not words else words.pop()
    if not any(word in stage_names() for word in words):
        return [word for word in (*stage_names(), "--help", "--version", "--shell-completion") if word.startswith(last)]
    stage = next(word for word in words if word in stage_names())
    key, equals, value = last.partition("=")
    known = choices(key)
    if equals and known:
        return [f"{key}={word}" for word in known if word.startswith(value)]
    return _of_hydra(stage, [word for word in words if word != stage and "=" in word], last)


def _of_hydra(stage: str, words: list[str], last: str) -> list[str]:
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    conf = next((f for f in config_folders() if (f / "config.yaml").is_file()), None)
    if conf is None:
        raise UserError("no conf/ folder: the installation is incomplete")
    hydra = Hydra.create_main_hydra2(task_name="oodgan", config_search_path=create_config_search_path(str(conf)))
    try:
        asked = " ".join([f"stage={stage}", *words, last]) + ("" if last else " ")
        completions = BashCompletion(hydra.config_loader)._query(config_name="config", line=asked)
    except HydraException:  # the words before are already invalid
        return []
    finally:
        GlobalHydra.instance().clear()
    return [word for word in completions if not word.startswith(("hydra", "stage"))]
