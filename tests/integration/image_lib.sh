# Sourced by the tests of images: registries on loopback, a root file system, stores of the test's own.
# shellcheck shell=bash

export STRATA_IMAGE_ROOT=$TMPDIR/store DOCKER_CONFIG=$TMPDIR/docker STRATA_REGISTRIES=$TMPDIR/registries.json
unset REGISTRY_AUTH_FILE XDG_RUNTIME_DIR
image_pids=()

image() {
        "$STRATA" image "$@"
}

needs() {
        local program
        for program in "$@"; do
                command -v "$program" >/dev/null || skip_all "$program is not installed"
        done
}

stop_registries() {
        local pid
        for pid in "${image_pids[@]}"; do
                kill "$pid" 2>/dev/null
                wait "$pid" 2>/dev/null
        done
        image_pids=()
}
trap stop_registries EXIT

free_port() {
        /usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_for_port PORT: until somebody listens.
connects() {
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}
wait_for_port() {
        eventually connects "$1" && return
        echo "# nobody listens on port $1"
        return 1
}

# registry NAME [MORE YAML]: starts Debian's docker-registry; its port is in registry_port, its log in $TMPDIR/NAME.log.
registry() {
        registry_port=$(free_port)
        cat >"$TMPDIR/$1.yml" <<-YAML
	version: 0.1
	log: {accesslog: {disabled: false}, level: info}
	storage:
	  filesystem: {rootdirectory: $TMPDIR/$1.data}
	  delete: {enabled: true}
	http:
	  addr: 127.0.0.1:$registry_port
	${2:-}
	YAML
        docker-registry serve "$TMPDIR/$1.yml" >"$TMPDIR/$1.log" 2>&1 &
        image_pids+=($!)
        wait_for_port "$registry_port"
}

# fake_registry OPTION...: the registry that misbehaves; its port is in registry_port.
fake_registry() {
        registry_port=$(free_port)
        /usr/bin/python3 "$ROOT/tests/integration/image_fake_registry.py" --port "$registry_port" "$@" >"$TMPDIR/fake.log" 2>&1 &
        image_pids+=($!)
        wait_for_port "$registry_port"
}

# make_rootfs DIR: a small root file system with something of everything.
make_rootfs() {
        local d=$1
        mkdir -p "$d"/{bin,etc,tmp,usr/lib,var/empty}
        if command -v busybox >/dev/null; then
                cp "$(command -v busybox)" "$d/bin/busybox"
                ln -s busybox "$d/bin/sh"
        fi
        echo "root:x:0:0:root:/root:/bin/sh" >"$d/etc/passwd"
        ln -s usr/lib "$d/lib"
        chmod 1777 "$d/tmp"
        head -c 300000 /dev/urandom >"$d/usr/lib/random"
        ln "$d/usr/lib/random" "$d/usr/lib/hardlink"
        cp /bin/true "$d/bin/setuid" && chmod 4755 "$d/bin/setuid"
        mkdir -p "$d/$(printf 'long%.0s' {1..40})/$(printf 'name%.0s' {1..40})"
        echo x >"$d/$(printf 'long%.0s' {1..40})/$(printf 'name%.0s' {1..40})/file"
        mkfifo "$d/var/fifo"
        truncate -s 3M "$d/var/sparse" && printf end >>"$d/var/sparse"
        touch -d '2001-02-03 04:05:06 UTC' "$d/etc/passwd" "$d/etc"
        printf 'text' >"$d/etc/ümlaut"
        [ "$(id -u)" != 0 ] || chown 1000:100 "$d/tmp"
}

# listing DIR: what a tree is made of, comparable.
listing() {
        (cd "$1" || exit
                find . \( -type f -printf '%p %y %m %U %G %s %Ts %n\n' \) -o \( -type l -printf '%p %y %l\n' \) -o -printf '%p %y %m %U %G %Ts\n' | LC_ALL=C sort
                find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
}

same_tree() {
        diff <(listing "$1") <(listing "$2") >"$TMPDIR/tree.diff" || {
                show "$TMPDIR/tree.diff"
                return 1
        }
}

# field JSON-PATH: of `image inspect` or any JSON on standard input, as in "[0].digest"
field() {
        /usr/bin/python3 -c 'import json, sys; print(eval("json.load(sys.stdin)" + sys.argv[1]))' "$1"
}

image_digest() { image inspect "$1" | field '[0]["digest"]'; }
image_id() { image inspect "$1" | field '[0]["Id"]'; }
layer_dir() { image inspect "$1" | field "[0][\"layers\"][${2:-0}]"; }
