# shellcheck shell=bash
# Completion of the overlay commands for bash. `module load overlay` reads this file; a
# shell without modules can do the same: . share/bash-completion/completions/overlay
# All names begin with _overlay: by that the module takes them back.
# Made by `make completions` from tools/completion.bash and the parsers of the commands.

# Print the site's and the user's names of one section of overlay.ini(5), one a line.
_overlay_names() {
    local tree config file line section
    tree=${BASH_SOURCE[0]%/share/bash-completion/completions/*}
    config=${OVERLAY_CONFIG:-}
    if [[ -z $config ]]; then
        config=$tree/etc/overlay.ini
        if [[ -e $tree/.installed && (-e ${tree%/*}/etc/overlay.ini || -e ${tree%/*}/etc/overlay.d) ]]; then
            config=${tree%/*}/etc/overlay.ini
        fi
    fi
    for file in "$config" "${config%/*}"/overlay.d/*.ini \
        "${XDG_CONFIG_HOME:-$HOME/.config}/overlay/overlay.ini"; do
        [[ -f $file && -r $file ]] || continue
        section=
        while IFS= read -r line || [[ -n $line ]]; do
            case $line in
                '['*) section=${line#'['} section=${section%%]*} ;;
                [[:space:]\#\;]*) ;;
                *=*)
                    line=${line%%=*}
                    line=${line%"${line##*[![:space:]]}"}
                    # Of other letters some are code for compgen, and for the line itself.
                    [[ $section != "$1" || $line = default || $line = *[![:alnum:]._+@%:,-]* ]] ||
                        printf '%s\n' "$line"
                    ;;
            esac
        done <"$file"
    done
}

# Add the files with one of some endings, and all directories, to COMPREPLY.
_overlay_files() {
    local cur=$1 ending
    shift
    compopt -o filenames 2>/dev/null
    for ending in "$@"; do
        mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -X "!*.$ending" -- "$cur")
    done
    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -d -- "$cur")
}

# Say of a command ($1), and the word before ($2), in the variables of _overlay: its options,
# the kind of what an option wants here, the words of its first argument, the kind of the others.
_overlay_options() {
    case $1 in
        # @commands@
    esac
}

# Add what is of one of these kinds, or one of these words, to COMPREPLY.
_overlay_kind() {
    local cur=$1
    case $2 in
        overlays) _overlay_files "$cur" ext3 img sqsh squashfs sqfs sfs ;;
        ext3) _overlay_files "$cur" ext3 img ;;
        images)
            _overlay_files "$cur" sif
            mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W "$(_overlay_names images)" -- "$cur")
            ;;
        templates) mapfile -t COMPREPLY < <(compgen -W "$(_overlay_names templates)" -- "$cur") ;;
        directories) _overlay_files "$cur" ;;
        files) compopt -o default 2>/dev/null ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$2" -- "$cur") ;;
    esac
}

_overlay() {
    local cur=$2 prev=$3 command=${1##*/} options="" kind=none first="" others="" place
    COMPREPLY=()
    if [[ $command = run-overlay ]]; then
        for ((place = 1; place < COMP_CWORD; place++)); do
            if [[ ${COMP_WORDS[place]} = -- ]]; then
                # The command inside: names of files, as readline completes them.
                compopt -o default 2>/dev/null
                return
            fi
        done
    fi
    # NAME:ro comes as three words: behind the colon stands how it is opened.
    place=$COMP_CWORD
    [[ ${COMP_WORDS[place]} = : ]] || place=$((COMP_CWORD - 1))
    if [[ ${COMP_WORDS[place]} = : ]]; then
        [[ $cur != : ]] || cur=
        prev=${COMP_WORDS[place - 2]}
        [[ $prev != = ]] || prev=${COMP_WORDS[place - 3]}
        _overlay_options "$command" "$prev"
        [[ $kind != overlays || $command != @(mount|run)-overlay ]] || _overlay_kind "$cur" "ro rw"
        return
    fi
    # --overlay=NAME does, too.
    if [[ $cur = = && $prev = --* ]]; then
        cur=
    elif [[ $prev = = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    _overlay_options "$command" "$prev"
    if [[ $kind != none ]]; then
        _overlay_kind "$cur" "$kind"
    elif [[ $cur = -* || -z $first$others ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    elif [[ -n $first && $COMP_CWORD -eq 1 ]]; then
        _overlay_kind "$cur" "$first"
    else
        _overlay_kind "$cur" "$others"
    fi
}

complete -F _overlay @programs@
