# shellcheck shell=bash
# The cluster's network namespace and the one veth pair that joins it to the host. Nothing of the host is reachable from inside
# but its end of the pair; the host reaches nodes, pods and services through it.

# The lowest slot that no other cluster of this machine holds.
choose_slot() {
    local slot taken
    [[ -s $STATE/slot ]] && return
    taken=$(cat "$CLUSTERS"/*/slot 2>/dev/null || true)
    for slot in {0..15}; do
        grep -qx "$slot" <<<"$taken" && continue
        echo "$slot" >"$STATE/slot"
        return
    done
    die "16 clusters exist already in $CLUSTERS: stop one with CLUSTER_NAME=... make cluster-down"
}

in_netns() {
    nsenter --net="/run/netns/$NETNS" -- "$@"
}

make_network() {
    [[ -e /run/netns/$NETNS ]] || ip netns add "$NETNS"
    if ! in_netns ip link show eth0 >/dev/null 2>&1; then
        ip link add "$LINK" type veth peer name eth0 netns "$NETNS"
    fi
    ip address replace "$HOST_IP/30" dev "$LINK"
    ip link set "$LINK" up
    in_netns ip link set lo up
    in_netns ip address replace "$NODE_IP/30" dev eth0
    in_netns ip link set eth0 up
    in_netns ip route replace default via "$HOST_IP"
    in_netns sysctl -qw net.ipv4.ip_forward=1
    ip route replace "$POD_CIDR" via "$NODE_IP"
    ip route replace "$SERVICE_CIDR" via "$NODE_IP"
}

remove_network() {
    ip link delete "$LINK" 2>/dev/null || true
    ip netns delete "$NETNS" 2>/dev/null || true
    # `ip netns add` mounts the folder on itself; take that away with the last namespace.
    if [[ -d /run/netns && -z $(ls -A /run/netns) ]]; then
        umount /run/netns 2>/dev/null || true
        rmdir /run/netns 2>/dev/null || true
    fi
}
