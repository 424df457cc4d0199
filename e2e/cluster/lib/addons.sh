# shellcheck shell=bash
# What runs on the cluster from the start: CoreDNS, the default StorageClass with its volumes, and KWOK for simulated nodes.

VOLUMES=24

apply_dns() {
    sed -e "s|\${IMAGE}|$MILLRACE_IMAGE_COREDNS|" -e "s|\${DNS_IP}|$DNS_IP|" "$CLUSTER_DIR/manifests/coredns.yaml" |
        kubectl_here apply --server-side -f - >/dev/null
}

volume_manifest() {
    local name=$1
    cat <<EOF
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $name}
spec:
  storageClassName: standard
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce, ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: $STATE/volumes/$name}
EOF
}

# Folders of the state as volumes, empty and writable for every user. Those that a deleted claim left are emptied for the next.
apply_storage() {
    local name released
    released=$(kubectl_here get persistentvolumes -o 'jsonpath={.items[?(@.status.phase=="Released")].metadata.name}')
    for name in $released; do
        kubectl_here delete persistentvolume "$name" --wait >/dev/null
        rm -rf "${STATE:?}/volumes/$name"
    done
    for ((i = 1; i <= VOLUMES; i++)); do
        name=$(printf 'volume-%02d' "$i")
        mkdir -p "$STATE/volumes/$name"
        chmod 0777 "$STATE/volumes/$name"
        volume_manifest "$name"
    done | cat "$CLUSTER_DIR/manifests/storage-class.yaml" - | kubectl_here apply --server-side -f - >/dev/null
}

start_kwok() {
    launch kwok "$BIN/kwok" --kubeconfig "$KUBECONFIG_FILE" --config "$BIN/kwok-stages.yaml" \
        --manage-nodes-with-annotation-selector kwok.x-k8s.io/node=fake --cidr "$FAKE_CIDR" --node-ip "$NODE_IP" \
        --server-address 127.0.0.1:10247
}

# Its server starts after its controllers.
kwok_is_ready() {
    answers http://127.0.0.1:10247/readyz
}

dns_is_ready() {
    [[ $(kubectl_here -n kube-system get deployment coredns -o 'jsonpath={.status.readyReplicas}') == 1 ]]
}
