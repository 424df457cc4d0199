# shellcheck shell=bash
# Sources the whole library: one line for each script that works on a cluster.

LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in common packages binaries process cgroup network certs control-plane node addons; do
    # shellcheck source=/dev/null
    . "$LIB/$part.sh"
done

# The components in the order of their start. Each has a start_NAME function and, but for mounts, NAME_is_ready.
COMPONENTS=(etcd kube-apiserver kube-controller-manager kube-scheduler mounts containerd kubelet kube-proxy network-policies kwok)
# shellcheck source=/dev/null
[[ ! -s $STATE/slot ]] || use_addresses_of_slot "$(cat "$STATE/slot")"
