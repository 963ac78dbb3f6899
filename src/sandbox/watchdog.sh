# Outlives the process that made a sandbox, so that nothing is left behind however that process ended:
# waits until standard input is closed, then ends every process that works under the directory $1
# and removes the directory.
trap '' HUP INT TERM
while read -r _; do :; done
directory=$1

# PostgreSQL's processes, and the clients that we start, have their working directory under it.
processes() {
    ls -ld /proc/[0-9]*/cwd 2>/dev/null | while read -r line; do
        link=${line##* /proc/}
        case $link in
        *" -> $directory" | *" -> $directory"/*) echo "${link%%/*}" ;;
        esac
    done
}

# $1: a signal, sent twenty times a second to what is left, for five seconds at most.
# $2: sent once before.
end() {
    tries=0
    found=$(processes)
    [ -z "$found" ] || [ -z "$2" ] || kill -s "$2" $found 2>/dev/null
    while [ -n "$found" ] && [ $tries -lt 100 ]; do
        kill -s "$1" $found 2>/dev/null
        sleep 0.05
        tries=$((tries + 1))
        found=$(processes)
    done
}

# An immediate shutdown lets the servers release their shared memory; a paused one has to go on first.
end CONT QUIT
end KILL

# The file is left behind by a server that was killed, and so is the segment of System V shared memory
# that line 7 names (key, id).
for pidfile in "$directory"/*/postmaster.pid; do
    [ -f "$pidfile" ] || continue
    segment=$(sed -n '7s/^ *[0-9]* *\([0-9]*\) *$/\1/p' "$pidfile")
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
done
rm -rf "$directory"
