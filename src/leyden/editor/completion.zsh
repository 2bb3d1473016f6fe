# What leyden, and python -m leyden.VERB, can go on with in zsh: eval "$(leyden completion zsh)"
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_leyden() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX" program=${~words[1]}
    local -a call found more
    if [[ ${program:t} == leyden ]]; then
        call=($program completion)
    elif [[ $line == *' -m leyden'* ]]; then
        call=($program -I -m leyden.completion)
    else
        _python 2>/dev/null || _default
        return
    fi
    found=(${(f)"$($call zsh $line 2>/dev/null)"})
    more=(${(M)found:#*[=./]})  # these go on without a space
    found=(${found:#*[=./]})
    (( $#more )) && compadd -S '' -- $more
    (( $#found )) && compadd -- $found
    (( $#more + $#found ))
}
compdef _leyden leyden python python3
