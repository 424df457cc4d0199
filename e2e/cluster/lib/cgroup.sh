# shellcheck shell=bash
# The cluster's own cgroup, in every hierarchy of the machine: /millrace-NAME/system holds the components, kubelet makes the
# pods' groups beside it. Whatever runs in it belongs to the cluster, so that stopping the cluster misses nothing.

cgroup_hierarchies() {
    awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts | sort -u
}

make_cgroup() {
    local top group
    while read -r top; do
        for group in "$top/$CGROUP" "$top/$CGROUP/system"; do
            mkdir -p "$group"
            # Version 1: a cpuset without cpus takes no process.
            if [[ -e $group/cpuset.cpus && -e $top/cpuset.mems ]] && ! grep -q . "$group/cpuset.cpus"; then
                cat "$top/cpuset.cpus" >"$group/cpuset.cpus"
                cat "$top/cpuset.mems" >"$group/cpuset.mems"
            fi
        done
        # Version 2: a group hands its controllers down only when told to.
        for group in "$top" "$top/$CGROUP"; do
            [[ -e $group/cgroup.subtree_control ]] || continue
            sed 's/[^ ]\+/+&/g' "$group/cgroup.controllers" >"$group/cgroup.subtree_control" 2>/dev/null || true
        done
    done < <(cgroup_hierarchies)
}

join_cgroup() {
    local top
    while read -r top; do
        echo "$BASHPID" >"$top/$CGROUP/system/cgroup.procs"
    done < <(cgroup_hierarchies)
}

cgroup_pids() {
    local top
    while read -r top; do
        find "$top/$CGROUP" -name cgroup.procs -exec cat {} + 2>/dev/null || true
    done < <(cgroup_hierarchies) | sort -un
}

kill_cgroup() {
    local pids tries=200
    while pids=$(cgroup_pids) && [[ -n $pids ]]; do
        # shellcheck disable=SC2086
        kill -KILL $pids 2>/dev/null || true
        ((tries-- > 0)) || die "these processes of the cluster do not end: $pids"
        sleep 0.05
    done
}

remove_cgroup() {
    local top
    while read -r top; do
        [[ -d $top/$CGROUP ]] || continue
        find "$top/$CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done < <(cgroup_hierarchies)
}
