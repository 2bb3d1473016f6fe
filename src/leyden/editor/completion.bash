# What leyden, and python -m leyden.VERB, can go on with in bash: eval "$(leyden completion bash)"
_leyden() {
    local line=${COMP_LINE:0:COMP_POINT} program=${1/#\~/$HOME} typed=$2 word
    # -I: nothing of the folder where one is runs at a TAB.
    case ${program##*/} in
        leyden) set -- "$program" completion ;;
        *) [[ $line == *' -m leyden'* ]] || return
           set -- "$program" -I -m leyden.completion ;;
    esac
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <("$@" bash "$line" "$typed" 2>/dev/null)
    [[ ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
}
complete -o default -F _leyden leyden python python3
