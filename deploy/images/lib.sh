# shellcheck shell=bash
# Folders, names and messages of the image scripts. Sourced; starts nothing.

set -euo pipefail

IMAGES_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(cd "$IMAGES_DIR/../.." && pwd)
MILLRACE_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/millrace
BIN=$MILLRACE_CACHE/bin
CACHE=$MILLRACE_CACHE/images
IMAGE_PREFIX=${IMAGE_PREFIX:-localhost/millrace}
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$MILLRACE_CACHE/target}
# The profile of Cargo whose programs go into the images, and where it puts them.
PROFILE=${PROFILE:-dev}
BUILT=$CARGO_TARGET_DIR/${PROFILE/%dev/debug}
# The Debian release that images are made of: this machine's, for the programs in them are linked with its libc.
DEBIAN=${DEBIAN:-$(. /etc/os-release && [[ ${ID:-} == debian ]] && echo "${VERSION_CODENAME:-}" || true)}
DEBIAN=${DEBIAN:-bookworm}
BASE_IMAGE=localhost/debian:$DEBIAN-slim
export BUILDAH_ISOLATION=chroot

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# The builder that is there, or that BUILDER asks for.
builder() {
    if [[ ${BUILDER:-} ]]; then
        echo "$BUILDER"
    elif command -v buildah >/dev/null && [[ $EUID -eq 0 ]]; then
        echo buildah
    elif command -v docker >/dev/null; then
        echo docker
    else
        die "needs buildah (as root) or docker to build images"
    fi
}

# buildah with a store of its own, so that no other use of it on the machine is touched.
our_buildah() {
    buildah --root "$CACHE/buildah" --runroot "$CACHE/buildah-run" --storage-driver "${IMAGE_STORAGE:-overlay}" "$@"
}

mebibytes() {
    echo $(($(stat -c %s "$1") / 1048576))
}

# The variable of images.env that names an image: trainer-sklearn is MILLRACE_IMAGE_TRAINER_SKLEARN.
variable_of() {
    local upper=${1^^}
    echo "MILLRACE_IMAGE_${upper//-/_}"
}
