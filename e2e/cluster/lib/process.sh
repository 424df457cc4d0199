# shellcheck shell=bash
# Starts and stops the cluster's components, each known by a pid file that also holds its start time, so that a reused pid is
# never taken for it. Everything runs in the cluster's cgroup; see cgroup.sh.

started_ticks() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    # Field 22 of the whole line is the 20th after the command name.
    cut -d' ' -f20 <<<"$stat"
}

pid_of() {
    local pid ticks
    read -r pid ticks 2>/dev/null <"$STATE/pids/$1" || return 1
    [[ $(started_ticks "$pid") == "$ticks" ]] || return 1
    [[ $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) != Z* ]] || return 1
    echo "$pid"
}

running() {
    pid_of "$1" >/dev/null
}

# start NAME: unless it runs. A running component's files are not even written again: kube-proxy ends when its configuration is.
start() {
    running "$1" || "start_$1"
}

# await NAME: until the component is ready, by its own NAME_is_ready. Some end when what they need does not answer at their start, and
# nothing starts them again: that is told at once.
await() {
    local name=$1 deadline=$((SECONDS + 60))
    while running "$name"; do
        if "${name}_is_ready" >/dev/null 2>&1; then return; fi
        ((SECONDS < deadline)) || die "gave up waiting for $name; its log is $LOGS/$name.log"
        sleep 0.1
    done
    die "$name has ended before it was ready; its log is $LOGS/$name.log"
}

# answers URL: prints what it answers in the cluster's network namespace, and fails unless that is a success. Certificates that the
# components make for themselves are not checked.
answers() {
    in_netns curl --silent --fail --insecure --noproxy '*' --max-time 5 "$1"
}

# launch NAME COMMAND...: a background process in the cluster's network namespace, logging to logs/NAME.log.
launch() {
    local name=$1 pid
    shift
    mkdir -p "$STATE/pids" "$LOGS"
    (
        join_cgroup
        exec setsid nsenter --net="/run/netns/$NETNS" -- "$@" </dev/null >>"$LOGS/$name.log" 2>&1 9>&-
    ) &
    pid=$!
    echo "$pid $(started_ticks "$pid")" >"$STATE/pids/$name"
    disown "$pid"
}

# launch_mounting NAME COMMAND...: the same, in the private mount namespace of the node.
launch_mounting() {
    local name=$1
    shift
    launch "$name" nsenter --mount="/proc/$(pid_of mounts)/ns/mnt" -- "$@"
}

# stop NAME: asks the process to end, and after 10 s kills it.
stop() {
    local name=$1 pid tries=100
    pid=$(pid_of "$name") || return 0
    kill "$pid" 2>/dev/null || true
    while running "$name" && ((tries-- > 0)); do sleep 0.1; done
    running "$name" && kill -KILL "$pid" 2>/dev/null
    while running "$name"; do sleep 0.05; done
    rm -f "$STATE/pids/$name"
}
