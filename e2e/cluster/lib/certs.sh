# shellcheck shell=bash
# A certificate authority, the components' certificates and their kubeconfigs: made once for each start from nothing.

PKI=$STATE/pki

make_authority() {
    local name=$1
    openssl ecparam -genkey -name prime256v1 -noout -out "$PKI/$name.key"
    openssl req -x509 -new -key "$PKI/$name.key" -subj "/CN=millrace-$name" -days 365 -out "$PKI/$name.crt"
}

# issue NAME SUBJECT [SUBJECT-ALTERNATIVE-NAMES]: a certificate for both client and server use, signed by the authority.
issue() {
    local name=$1 subject=$2 names=${3:-}
    openssl ecparam -genkey -name prime256v1 -noout -out "$PKI/$name.key"
    {
        echo "extendedKeyUsage=clientAuth,serverAuth"
        [[ -z $names ]] || echo "subjectAltName=$names"
    } >"$PKI/$name.ext"
    openssl req -new -key "$PKI/$name.key" -subj "$subject" |
        openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -set_serial "0x$(openssl rand -hex 8)" -days 365 \
            -extfile "$PKI/$name.ext" -out "$PKI/$name.crt" 2>/dev/null
}

# write_kubeconfig FILE SERVER NAME: everything inline, so that the one file can be copied.
write_kubeconfig() {
    local file=$1 server=$2 name=$3
    cat >"$file" <<EOF
apiVersion: v1
kind: Config
current-context: millrace
contexts: [{name: millrace, context: {cluster: millrace, user: $name}}]
clusters: [{name: millrace, cluster: {server: "$server", certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}}]
users: [{name: $name, user: {client-certificate-data: $(base64 -w0 "$PKI/$name.crt"), client-key-data: $(base64 -w0 "$PKI/$name.key")}}]
EOF
    chmod 600 "$file"
}

make_service_account_keys() {
    openssl ecparam -genkey -name prime256v1 -noout -out "$PKI/service-accounts.key"
    openssl ec -in "$PKI/service-accounts.key" -pubout -out "$PKI/service-accounts.pub" 2>/dev/null
}

make_certificates() {
    local component server=https://$NODE_IP:6443
    mkdir -p "$PKI"
    make_authority ca
    issue apiserver /CN=kube-apiserver \
        "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$NODE_IP,IP:$SERVICE_IP"
    issue admin /O=system:masters/CN=millrace-admin
    issue kubelet "/O=system:nodes/CN=system:node:$NODE_NAME" "DNS:$NODE_NAME,IP:$NODE_IP"
    for component in kube-controller-manager kube-scheduler kube-proxy; do
        issue "$component" "/CN=system:$component"
        write_kubeconfig "$STATE/$component.kubeconfig" "$server" "$component"
    done
    write_kubeconfig "$STATE/kubelet.kubeconfig" "$server" kubelet
    write_kubeconfig "$KUBECONFIG_FILE" "$server" admin
    make_service_account_keys
}
