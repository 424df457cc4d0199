# shellcheck shell=bash
# Names, folders, addresses and messages of one local cluster. Sourced by every script; reads the environment, starts nothing.

set -euo pipefail

CLUSTER_NAME=${CLUSTER_NAME:-millrace}
[[ $CLUSTER_NAME =~ ^[a-z][a-z0-9-]{0,19}$ ]] || {
    echo "CLUSTER_NAME is '$CLUSTER_NAME': use 1 to 20 lower-case letters, digits and dashes, a letter first" >&2
    exit 2
}

CLUSTER_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MILLRACE_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/millrace
BIN=$MILLRACE_CACHE/bin
CLUSTERS=/var/lib/millrace-cluster
STATE=$CLUSTERS/$CLUSTER_NAME
KUBECONFIG_FILE=$STATE/kubeconfig
LOGS=$STATE/logs
NETNS=$CLUSTER_NAME
NODE_NAME=millrace-node
CGROUP=millrace-$CLUSTER_NAME
CONTAINERD_SOCKET=$STATE/run/containerd.sock
STARTED_AT=${EPOCHREALTIME/./}

export PATH=$BIN:$PATH

# Each cluster on a machine has a slot of its own, and with it its own private addresses.
use_addresses_of_slot() {
    local slot=$1
    LINK=mr-$slot
    HOST_IP=10.200.$slot.1
    NODE_IP=10.200.$slot.2
    POD_CIDR=10.201.$slot.0/24
    SERVICE_CIDR=10.202.$slot.0/24
    SERVICE_IP=10.202.$slot.1
    DNS_IP=10.202.$slot.10
    FAKE_CIDR=10.203.$slot.1/24
    # Clients on the host keep their address on the way to a service, as pods do. Hidden behind the node's one address, one in some
    # thousand new connections would wait for a second: it gets the port of another client that has just closed, and with a kernel whose
    # timestamps differ by port the pod takes it for a late packet of that one.
    LOCAL_CIDR=10.200.0.0/15
    export LINK HOST_IP NODE_IP POD_CIDR LOCAL_CIDR SERVICE_CIDR SERVICE_IP DNS_IP FAKE_CIDR
}

say() {
    local tenths=$(((${EPOCHREALTIME/./} - STARTED_AT) / 100000))
    printf '[%3d.%d s] %s\n' $((tenths / 10)) $((tenths % 10)) "$*"
}

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

need_root() {
    [[ $EUID -eq 0 ]] || die "must run as root: it makes a network namespace and starts a kubelet"
}

# until_true SECONDS WHAT COMMAND...: waits for the command to succeed, or stops with what was awaited.
until_true() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || die "gave up waiting for $what; the logs are in $LOGS"
        sleep 0.1
    done
}

kubectl_here() {
    KUBECONFIG=$KUBECONFIG_FILE "$BIN/kubectl" "$@"
}

# One start or stop of a cluster at a time. The lock is held until the calling script ends; children close it.
lock_clusters() {
    mkdir -p "$CLUSTERS"
    exec 9>"$CLUSTERS/.lock"
    flock -w 300 9 || die "another start or stop has held $CLUSTERS/.lock for 5 minutes"
}
