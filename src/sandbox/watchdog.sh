# Outlives the process that made a sandbox, so that nothing is left behind however that process ended:
# waits until standard input is closed, then ends every process that works under the directory $1
# and removes the directory.
trap '' HUP INT TERM
while read -r _; do :; done
[ -d "$1" ] || exit 0

# PostgreSQL's processes, and the clients that we start, have their working directory under $1.
signal() {
    found=1
    for link in /proc/[0-9]*/cwd; do
        case $(readlink "$link" 2>/dev/null) in
        "$1" | "$1"/*)
            pid=${link#/proc/}
            kill -s "$2" "${pid%/cwd}" 2>/dev/null && found=0
            ;;
        esac
    done
    return $found
}

# An immediate shutdown lets the servers release their shared memory; five seconds are plenty for it.
signal "$1" QUIT
signal "$1" CONT
tries=0
while [ $tries -lt 50 ] && signal "$1" 0; do
    sleep 0.1
    tries=$((tries + 1))
done
while signal "$1" KILL; do sleep 0.1; done
rm -rf "$1"
