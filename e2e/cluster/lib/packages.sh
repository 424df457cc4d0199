# shellcheck shell=bash
# The Debian packages that building, testing, the cluster and its images need: installed once, only those that are missing.

# Of the cluster and its images: told by dpkg, for their files are taken from where Debian puts them.
PACKAGES=(
    buildah ca-certificates conntrack containerd containernetworking-plugins curl iproute2 mmdebstrap nftables openssl procps
    runc util-linux
)

# Of everything that is built or tested, with what shows that each is there, wherever it came from: a Python of one's own is as good as
# Debian's.
declare -A BUILD_PACKAGES=(
    [ca-certificates]="test -s /etc/ssl/certs/ca-certificates.crt"
    [curl]="command -v curl"
    [gcc]="compiles_c"
    [libc6-dev]="compiles_c"
    [git]="command -v git"
    [openssl]="command -v openssl"
    [procps]="command -v ps"
    [python3]="command -v python3"
    [python3-pip]="python3 -m pip --version"
    [python3-venv]="python3 -c 'import ensurepip, venv'"
)

compiles_c() {
    cc -x c -o /dev/null - <<<$'#include <stdlib.h>\nint main(void) { return 0; }'
}

missing_build_packages() {
    local package
    for package in "${!BUILD_PACKAGES[@]}"; do
        eval "${BUILD_PACKAGES[$package]}" >/dev/null 2>&1 || echo "$package"
    done | sort
}

missing_packages() {
    local package
    for package in "${PACKAGES[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
    done
}

# install_build_packages: needs root only where one is missing.
install_build_packages() {
    local missing
    missing=$(missing_build_packages)
    [[ -n $missing ]] || return 0
    install_or_say_how "$missing"
    missing=$(missing_build_packages)
    [[ -z $missing ]] || die "installed, and yet they do not work: ${missing//$'\n'/ }; is another python3 or cc first in PATH?"
}

# install_packages: those of the cluster and its images; needs root only where one is missing.
install_packages() {
    local missing
    command -v dpkg-query >/dev/null || die "needs Debian or a relative of it"
    missing=$(missing_packages)
    [[ -z $missing ]] || install_or_say_how "$missing"
}

# install_bench_packages: wrk and h2load, and nginx beneath the cache, as Debian would start it as a service.
install_bench_packages() {
    local missing="" nginx=$MILLRACE_CACHE/peers/nginx
    command -v wrk >/dev/null || missing+="wrk "
    command -v h2load >/dev/null || missing+="nghttp2-client "
    [[ -z $missing ]] || install_or_say_how "${missing% }"
    command -v nginx >/dev/null || [[ -x $nginx/usr/sbin/nginx ]] || unpack_packages "$nginx" nginx
}

install_or_say_how() {
    local missing=${1//$'\n'/ }
    [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null || die "missing: $missing; as root: apt-get install $missing"
    say "installing from Debian: $missing"
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

# unpack_packages FOLDER PACKAGE...: their files beneath a folder. Nothing is installed, so that no service of theirs is started; the libraries
# that they need must be there.
unpack_packages() {
    local folder=$1 archive
    shift
    mkdir -p "$folder/archives" "$MILLRACE_CACHE"
    if ! (cd "$folder/archives" && { download "$@" || { apt-get update -q && download "$@"; }; }) >"$MILLRACE_CACHE/packages.log" 2>&1; then
        tail -5 "$MILLRACE_CACHE/packages.log" >&2
        die "apt-get download failed; its log is $MILLRACE_CACHE/packages.log"
    fi
    for archive in "$folder"/archives/*.deb; do dpkg-deb --extract "$archive" "$folder"; done
}

download() {
    apt-get download -q -o APT::Sandbox::User=root "$@"
}
