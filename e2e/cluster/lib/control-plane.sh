# shellcheck shell=bash
# etcd, kube-apiserver, kube-controller-manager and kube-scheduler: how each is started, and when it is ready.

start_etcd() {
    # Without fsync a power cut may lose the data; nobody keeps anything here, and it saves seconds on slow disks.
    launch etcd "$BIN/etcd" --name millrace --data-dir "$STATE/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster millrace=http://127.0.0.1:2380 --log-level warn
}

# Every write by somebody who is not part of Kubernetes goes to logs/audit.log: scenarios count the operator's writes there.
write_audit_policy() {
    cat >"$STATE/audit-policy.yaml" <<EOF
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: [system:apiserver, system:kube-scheduler, system:kube-controller-manager, millrace-admin]
  - level: None
    userGroups: [system:nodes, system:serviceaccounts:kube-system]
  - level: Metadata
    verbs: [create, update, patch, delete, deletecollection]
EOF
}

start_kube-apiserver() {
    write_audit_policy
    launch kube-apiserver "$BIN/kube-apiserver" \
        --etcd-servers http://127.0.0.1:2379 \
        --bind-address 0.0.0.0 --secure-port 6443 --advertise-address "$NODE_IP" \
        --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" --client-ca-file "$PKI/ca.crt" \
        --kubelet-client-certificate "$PKI/admin.crt" --kubelet-client-key "$PKI/admin.key" \
        --kubelet-preferred-address-types InternalIP \
        --service-account-key-file "$PKI/service-accounts.pub" --service-account-signing-key-file "$PKI/service-accounts.key" \
        --service-account-issuer https://kubernetes.default.svc.cluster.local \
        --authorization-mode Node,RBAC --service-cluster-ip-range "$SERVICE_CIDR" \
        --enable-admission-plugins NodeRestriction,ExtendedResourceToleration \
        --audit-policy-file "$STATE/audit-policy.yaml" --audit-log-path "$LOGS/audit.log" --audit-log-maxsize 200 --audit-log-maxbackup 1 \
        --endpoint-reconciler-type lease --shutdown-delay-duration 0s
}

# After an outage of the API server, watches come back up to half a minute late, and a node that was silent for longer than the grace period (50 s by
# default) is taken for lost: each Service loses all its endpoints for some seconds. Who means to survive a minute's outage needs more.
start_kube-controller-manager() {
    launch kube-controller-manager "$BIN/kube-controller-manager" \
        --kubeconfig "$STATE/kube-controller-manager.kubeconfig" --use-service-account-credentials \
        --root-ca-file "$PKI/ca.crt" --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key" \
        --service-account-private-key-file "$PKI/service-accounts.key" \
        --leader-elect=false --bind-address 127.0.0.1 --kube-api-qps 500 --kube-api-burst 1000 --node-monitor-grace-period 150s
}

start_kube-scheduler() {
    launch kube-scheduler "$BIN/kube-scheduler" --kubeconfig "$STATE/kube-scheduler.kubeconfig" \
        --leader-elect=false --bind-address 127.0.0.1 --kube-api-qps 500 --kube-api-burst 1000
}

etcd_is_ready() {
    answers http://127.0.0.1:2379/health
}

kube-apiserver_is_ready() {
    kubectl_here get --raw /readyz --request-timeout=5s
}

kube-controller-manager_is_ready() {
    answers https://127.0.0.1:10257/healthz
}

# Ready once it has read what is to be scheduled.
kube-scheduler_is_ready() {
    answers https://127.0.0.1:10259/readyz
}

# The cluster's built-in ClusterRoles are written by a hook after the start; until then components are refused.
api_is_set_up() {
    kubectl_here get clusterrole system:node-proxier && kubectl_here get namespace default
}
