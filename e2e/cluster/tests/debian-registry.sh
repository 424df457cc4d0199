# shellcheck shell=bash
# Debian's docker-registry, as the tests beside a registry run it. Sourced; touches the folder it is given.

# registry_settings FOLDER: writes a configuration that keeps what is pushed in that folder; its path.
registry_settings() {
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s/stored}}\nhttp: {addr: "127.0.0.1:5000"}\nlog: {level: error}\n' "$1" >"$1/registry.yml"
    echo "$1/registry.yml"
}
