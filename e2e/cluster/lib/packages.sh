# shellcheck shell=bash
# The Debian packages that the cluster and its images need: installed once, only those that are missing.

PACKAGES=(
    buildah ca-certificates conntrack containerd containernetworking-plugins iproute2 mmdebstrap nftables openssl procps
    runc util-linux
)

missing_packages() {
    local package
    for package in "${PACKAGES[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
    done
}

install_packages() {
    local missing
    command -v dpkg-query >/dev/null || die "needs Debian or a relative of it, or a cluster of yours: make cluster CLUSTER=current"
    missing=$(missing_packages)
    [[ -n $missing ]] || return 0
    say "installing from Debian: ${missing//$'\n'/ }"
    mkdir -p "$MILLRACE_CACHE"
    # shellcheck disable=SC2086
    if ! { install_quietly $missing || { apt-get update -q && install_quietly $missing; }; } >"$MILLRACE_CACHE/packages.log" 2>&1; then
        tail -5 "$MILLRACE_CACHE/packages.log" >&2
        die "apt-get install failed; its log is $MILLRACE_CACHE/packages.log"
    fi
}

install_quietly() {
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}
