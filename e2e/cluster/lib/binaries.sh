# shellcheck shell=bash
# Builds the programs pinned in tools/go.mod into the cache. A program is built again when go.mod, go.sum or the Go version changes.

TOOLS=$CLUSTER_DIR/tools

# What each is built from: a package, of the module in tools/ or of the one in tools/NAME.
declare -A PROGRAMS=(
    [etcd]=go.etcd.io/etcd/server/v3
    [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
    [kubectl]=k8s.io/kubernetes/cmd/kubectl
    [kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
    [kube-scheduler]=k8s.io/kubernetes/cmd/kube-scheduler
    [kubelet]=k8s.io/kubernetes/cmd/kubelet
    [kube-proxy]=k8s.io/kubernetes/cmd/kube-proxy
    [kwok]=sigs.k8s.io/kwok/cmd/kwok
    [coredns]=github.com/coredns/coredns
    [helm]=helm.sh/helm/v3/cmd/helm
    [pause]=./pause
    [network-policies]=./network-policies
)
CONTROL_PLANE_PROGRAMS=(etcd kube-apiserver kubectl)
ALL_PROGRAMS=("${CONTROL_PLANE_PROGRAMS[@]}" kube-controller-manager kube-scheduler kubelet kube-proxy kwok coredns helm pause network-policies)

module_of() {
    if [[ -f $TOOLS/$1/go.mod ]]; then echo "$TOOLS/$1"; else echo "$TOOLS"; fi
}

# What a program depends on: the Go version, its module's pins, and its source where that is ours.
program_stamp() {
    local module
    module=$(module_of "$1")
    {
        go version
        version_flags
        cat "$module/go.mod" "$module/go.sum"
        [[ ${PROGRAMS[$1]} != ./* ]] || cat "$module/${PROGRAMS[$1]}"/*.go
    } | sha256sum | cut -c1-16
}

kubernetes_version() {
    awk '$1 == "k8s.io/kubernetes" { print $2 }' "$TOOLS/go.mod"
}

# The versions that programs report and, helm, compares charts with: by themselves they would say v0.0.0 and v1.20.
version_flags() {
    local version helm major minor package
    version=$(kubernetes_version)
    helm=$(awk '$1 == "helm.sh/helm/v3" { print $2 }' "$TOOLS/go.mod")
    IFS=. read -r major minor _ <<<"${version#v}"
    echo "-X k8s.io/component-base/version.gitVersion=$version"
    echo "-X k8s.io/component-base/version.gitMajor=$major -X k8s.io/component-base/version.gitMinor=$minor"
    echo "-X helm.sh/helm/v3/internal/version.version=$helm"
    for package in chartutil lint/rules; do
        echo "-X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=$major -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$minor"
    done
}

# Go does not try a download again by itself, and on a new machine a build is a thousand of them.
build_program() {
    local name=$1
    go_build "$name" || { say "building $name failed: once more, as it may have been a download" && go_build "$name"; } || die "building $name failed"
    mv "$BIN/.$name" "$BIN/$name"
}

go_build() {
    local name=$1 flags
    flags="-s -w $(version_flags | tr '\n' ' ')"
    (cd "$(module_of "$name")" && CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly \
        go build -trimpath -ldflags "$flags" -o "$BIN/.$name" "${PROGRAMS[$name]}")
}

# The stages that KWOK's own module ships: without them its nodes and pods stay as they are.
copy_kwok_stages() {
    local module stage
    module=$(cd "$TOOLS/kwok" && GOTOOLCHAIN=local GOFLAGS=-mod=readonly go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)
    for stage in node/fast/node-initialize node/heartbeat/node-heartbeat pod/fast/pod-{ready,complete,delete}; do
        echo "---"
        cat "$module/kustomize/stage/$stage.yaml"
    done >"$BIN/kwok-stages.yaml"
}

# build_programs NAME...: those of them that are not in the cache yet.
build_programs() {
    local stamp name began announced=
    command -v go >/dev/null || die "needs Go 1.26 or newer in PATH to build Kubernetes $(kubernetes_version)"
    mkdir -p "$BIN"
    # Two clusters that start at once on an empty cache share one build.
    exec 8>"$BIN/.lock"
    flock -n 8 || { say "another build of them is under way" && flock 8; }
    for name in "$@"; do
        stamp=$(program_stamp "$name")
        [[ -x $BIN/$name && $(cat "$BIN/.$name.stamp" 2>/dev/null) == "$stamp" ]] && continue
        [[ $announced ]] || say "building Kubernetes $(kubernetes_version) and its tools, once: about 10 minutes on 2 cores"
        announced=1
        say "building $name"
        began=$SECONDS
        build_program "$name"
        [[ $name != kwok ]] || copy_kwok_stages
        echo "$stamp" >"$BIN/.$name.stamp"
        say "built $name in $((SECONDS - began)) s"
    done
    exec 8>&-
}
