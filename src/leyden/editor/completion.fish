# What leyden, and python -m leyden.VERB, can go on with in fish: leyden completion fish | source
function __leyden
    set -l line (commandline -cp)
    set -l words (string match -v -r '^\w+=' -- (commandline -opc))
    if test (path basename -- $words[1]) = leyden
        $words[1] completion fish "$line" 2>/dev/null
    else
        $words[1] -I -m leyden.completion fish "$line" 2>/dev/null
    end
end
complete -c leyden -f -a '(__leyden)'
for program in python python3
    complete -c $program -n 'string match -q "* -m leyden*" -- (commandline -cp)' -f -a '(__leyden)'
end
