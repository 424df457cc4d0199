# shellcheck shell=bash
# The one real node: containerd, kubelet, kube-proxy and what enforces NetworkPolicies, in a mount namespace of their own. All mounts of pods live in it and go
# with its last process, and /run, /var/log, /var/lib/kubelet and /var/lib/cni in it are folders of the cluster's state.

start_mounts() {
    # These exist on the host only as places to mount on; `down` takes them away when they are empty.
    mkdir -p /var/lib/kubelet /var/lib/cni "$STATE"/{run,kubelet,cni,containerd,volumes,var-log}
    # The variables are for the inner shell.
    # shellcheck disable=SC2016
    launch mounts unshare --mount --propagation slave -- bash -euc '
        mount --make-rshared /
        mount -t tmpfs -o mode=755 "run-of-$2" /run
        for folder in kubelet:/var/lib/kubelet cni:/var/lib/cni var-log:/var/log; do
            mount --bind "$1/${folder%%:*}" "${folder##*:}"
        done
        touch "$1/pids/mounts.ready"
        exec sleep infinity' mounts "$STATE" "$CLUSTER_NAME"
    until_true 10 "the node's mounts" test -e "$STATE/pids/mounts.ready"
}

write_containerd_config() {
    cat >"$STATE/containerd.toml" <<EOF
version = 2
root = "$STATE/containerd"
state = "/run/containerd"
# The opt plugin makes a folder on the host, the other snapshotters probe devices.
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "$CONTAINERD_SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$MILLRACE_IMAGE_PAUSE"
  # Without CAP_SYS_RESOURCE a score cannot be lowered, and every sandbox fails.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$STATE/cni-config"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
EOF
    mkdir -p "$STATE/cni-config"
    cat >"$STATE/cni-config/10-millrace.conflist" <<EOF
{
  "cniVersion": "1.0.0",
  "name": "millrace",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": "/var/lib/cni/addresses",
        "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
EOF
}

start_containerd() {
    write_containerd_config
    launch_mounting containerd containerd --config "$STATE/containerd.toml" --log-level warn
}

containerd_is_ready() {
    ctr --address "$CONTAINERD_SOCKET" version
}

start_kubelet() {
    # Pods resolve names by CoreDNS alone: there is no network behind the cluster.
    : >"$STATE/resolv.conf"
    cat >"$STATE/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$PKI/ca.crt"}}
authorization: {mode: Webhook}
tlsCertFile: "$PKI/kubelet.crt"
tlsPrivateKeyFile: "$PKI/kubelet.key"
containerRuntimeEndpoint: "unix://$CONTAINERD_SOCKET"
clusterDomain: cluster.local
clusterDNS: ["$DNS_IP"]
resolvConf: "$STATE/resolv.conf"
cgroupDriver: cgroupfs
cgroupRoot: "/$CGROUP"
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
localStorageCapacityIsolation: false
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
# Images come from this machine and from nowhere else, so nothing may collect them.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 200
serializeImagePulls: false
# How soon pods see a Secret that has changed.
syncFrequency: 10s
nodeStatusUpdateFrequency: 5s
shutdownGracePeriod: 0s
EOF
    launch_mounting kubelet "$BIN/kubelet" --config "$STATE/kubelet.yaml" --kubeconfig "$STATE/kubelet.kubeconfig" \
        --hostname-override "$NODE_NAME" --node-ip "$NODE_IP" --root-dir /var/lib/kubelet \
        --node-labels millrace.dev/node=real --v 1
}

# By itself, and by way of kube-apiserver, as exec and logs reach it.
kubelet_is_ready() {
    answers http://127.0.0.1:10248/healthz && kubectl_here get --raw "/api/v1/nodes/$NODE_NAME/proxy/healthz" --request-timeout=5s
}

start_kube-proxy() {
    cat >"$STATE/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: "$STATE/kube-proxy.kubeconfig"}
clusterCIDR: "$LOCAL_CIDR"
hostnameOverride: "$NODE_NAME"
oomScoreAdj: 0
bindAddress: 0.0.0.0
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: 100ms, syncPeriod: 30s}
EOF
    launch_mounting kube-proxy "$BIN/kube-proxy" --config "$STATE/kube-proxy.yaml"
}

# It calls itself healthy before it has written any rule, so its count of that is asked too.
kube-proxy_is_ready() {
    answers http://127.0.0.1:10256/healthz &&
        answers http://127.0.0.1:10249/metrics | grep '^kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} [1-9]'
}

start_network-policies() {
    launch network-policies "$BIN/network-policies" --kubeconfig "$KUBECONFIG_FILE" --health 127.0.0.1:10246
}

network-policies_is_ready() {
    answers http://127.0.0.1:10246/healthz
}

node_is_ready() {
    [[ $(kubectl_here get node "$NODE_NAME" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

# ctr of the cluster's containerd, in the namespace where Kubernetes looks.
containerd_images() {
    ctr --address "$CONTAINERD_SOCKET" --namespace k8s.io images "$@"
}
