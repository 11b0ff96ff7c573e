#!/bin/bash
# test: timeout=600
# One image, several programs: what we build runs under podman and what podman builds runs under us, `strata run` fetches
# from a registry by itself, and a stock Debian installs packages.
. "$(dirname "$0")/podman.bash"
. "$(dirname "$0")/image_lib.sh"
needs docker-registry skopeo curl dpkg-deb

export STRATA_ROOT=$TMPDIR/root
unset STRATA_IMAGE_ROOT DOCKER_CONFIG
strata() {
        "$STRATA" "$@"
}
clean_up() {
        local ids
        ids=$(strata ps -aq 2>/dev/null)
        # shellcheck disable=SC2086 # words
        [ -z "$ids" ] || strata rm -fv $ids >/dev/null 2>&1
        strata network prune -f >/dev/null 2>&1
        pod_clean_up
        stop_registries
}
trap clean_up EXIT

registry plain
host=localhost:$registry_port
copy() { quiet skopeo copy --src-tls-verify=false --dest-tls-verify=false "$@"; }

# One Dockerfile, without a FROM from elsewhere, whose result says what it should be.
mkdir "$TMPDIR/context"
make_busybox "$TMPDIR/context/rootfs"
tar -C "$TMPDIR/context/rootfs" -cf "$TMPDIR/context/rootfs.tar" .
rm -r "$TMPDIR/context/rootfs"
cat >"$TMPDIR/context/Dockerfile" <<'END'
FROM scratch
ADD rootfs.tar /
ENV GREETING="hello world"
WORKDIR /work
RUN echo made > file && rm /bin/yes && chmod 2755 . && chown 1000:1000 file
USER user
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["echo $GREETING $(pwd) $(id -u) $(cat file) $(stat -c %a:%u:%g . file) $(test -e /bin/yes || echo gone)"]
LABEL made=here
EXPOSE 80/tcp
STOPSIGNAL SIGINT
END
wanted="hello world /work 1000 made 2755:0:0 644:1000:1000 gone"

# --- ours, run by podman
ok "build" quiet strata image build -t "$host/ours:1" "$TMPDIR/context"
is "ours: under strata run" "$(strata run --rm "$host/ours:1" 2>/dev/null)" "$wanted"
ok "ours: push" quiet strata image push "$host/ours:1"
ok "ours: podman pulls it" quiet pod pull --tls-verify=false "$host/ours:1"
pod_run --rm "$host/ours:1"
is "ours: under podman run" "$out" "$wanted"
is "ours: podman sees the configuration" "$(pod image inspect -f '{{.Config.StopSignal}} {{.Labels.made}} {{.Config.ExposedPorts}}' "$host/ours:1")" \
        "SIGINT here map[80/tcp:{}]"
ok "ours: podman pushes it on" quiet pod push --tls-verify=false "$host/ours:1" "$host/through-podman:1"
ok "ours: we pull what podman pushed" quiet strata image pull "$host/through-podman:1"
is "ours: the id has not changed" "$(image_id "$host/through-podman:1")" "$(image_id "$host/ours:1")"

# --- podman's, run by us: through a registry and through an archive
ok "podman builds the same file" quiet pod build "${pod_limits[@]}" --network none --isolation oci -t "$host/theirs:1" "$TMPDIR/context"
ok "theirs: podman pushes it" quiet pod push --tls-verify=false "$host/theirs:1"
is "theirs: strata run fetches it by itself" "$(strata run --rm "$host/theirs:1" 2>"$TMPDIR/errors")" "$wanted"
ok "theirs: and says so" grep -q "pulling it" "$TMPDIR/errors"
is "theirs: the second time it is here" "$(strata run --rm "$host/theirs:1" 2>&1)" "$wanted"
is "theirs: the digest is the registry's" "$(image_digest "$host/theirs:1")" "$(skopeo inspect --tls-verify=false "docker://$host/theirs:1" | field '["Digest"]')"
for format in docker-archive oci-archive; do
        quiet pod save --format "$format" -o "$TMPDIR/$format.tar" "$host/theirs:1"
        strata image rm -f "$host/theirs:1" >/dev/null
        ok "theirs: load podman's $format" quiet strata image load -i "$TMPDIR/$format.tar"
        is "theirs: and run it" "$(strata run --rm --pull never "$host/theirs:1" 2>&1)" "$wanted"
done
strata run --rm "$host/nothing:1" >"$TMPDIR/out" 2>&1
is "run: an image that no registry has" $? 125
ok "run: is an error that says so" grep -q "answers 404" "$TMPDIR/out" || show "$TMPDIR/out"
is "run: of which nothing is left" "$(strata ps -aq)" ""

# --- the same files of the same Dockerfile, by whomever it is built
context=$TMPDIR/context2
mkdir -p "$context"/{dir/sub,.hidden,left-out}
echo a >"$context/a.txt" && echo b >"$context/b.txt" && echo n >"$context/dir/sub/n" && echo no >"$context/dir/x.log" && echo s >"$context/left-out/s"
echo h >"$context/.hidden/h" && chmod 700 "$context/dir/sub" && chmod 711 "$context/b.txt" && ln -s a.txt "$context/link" && ln -s dir "$context/to-dir"
printf '*.log\n**/*.log\nleft-out\n' >"$context/.dockerignore"
tar -C "$context" -czf "$context/a.tgz" a.txt dir && tar -C "$context" -cJf "$context/a.txz" a.txt && gzip -c "$context/a.txt" >"$context/a.gz"
cp "$TMPDIR/context/rootfs.tar" "$context/"
cat >"$context/Dockerfile" <<'END'
FROM scratch AS one
ADD rootfs.tar /
ARG V=1
ENV A=1 B="x y" C='single $A' D=$A-${NONE:-default}-${A:+set} E="esc \"q\" \$A"
ENV OLD style value
WORKDIR /w
WORKDIR sub/deep
COPY a.txt b.txt ./
COPY dir /copied/
COPY dir/ /copied2
COPY link /by-link
COPY to-dir /by-dir-link
COPY *.txt /globs/
COPY --chown=1000:1000 a.txt /own/f
COPY --chown=user dir /own/d
COPY --chmod=0604 a.txt /mode/f
COPY . /all/
ADD a.tgz /unpacked/
ADD a.txz /unpacked-xz/
ADD a.gz /no-archive/
RUN echo "$A|$B|$C|$D|$E|$OLD|$V" > /env; pwd >> /env; umask >> /env
RUN ["/bin/sh", "-c", "echo exec $A > /ex"]
RUN mkdir /d1 && touch /d1/f && ln /d1/f /d1/hard && ln -s f /d1/soft && mkfifo /d1/p && chmod 1777 /d1 && chown 5:6 /d1/f
RUN rm /etc/group && rm -rf /home && mkdir /home
RUN --mount=type=tmpfs,target=/tm --mount=type=bind,target=/ctx --mount=type=cache,target=/ca cp /ctx/a.txt /from-context && touch /tm/x /ca/y
USER user
RUN touch /tmp/as-user
FROM scratch
COPY --from=one / /copy-of-one/
COPY --from=one /w/sub/deep/a.txt /own/f /flat/
LABEL a=b "c d"="e f"
END
# What they have made, without what podman puts into a container that is only created.
contents() {
        mkdir "$2" && tar -C "$2" -xf "$1" && (cd "$2" && rm -rf etc/hostname etc/hosts etc/mtab run copy-of-one/etc/hostname copy-of-one/run &&
                find . ! -type l -printf '%p %y %m %U %G %n\n' -o -printf '%p %y %l\n' | grep -Ev '^\./?(dev|proc|sys|etc)? ' | LC_ALL=C sort &&
                find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
}
for stage in one ""; do
        ok "same: we build ${stage:-the last stage}" quiet strata image build -t same:1 ${stage:+--target $stage} "$context"
        ok "same: podman does" quiet pod build "${pod_limits[@]}" --network none --isolation oci --layers=false -t same:1 ${stage:+--target $stage} "$context"
        strata export "$(strata create --network none same:1 x)" >"$TMPDIR/ours.tar"
        pod export "$(pod create --network none same:1 x)" >"$TMPDIR/theirs.tar"
        contents "$TMPDIR/ours.tar" "$TMPDIR/ours-$stage" >"$TMPDIR/ours.list"
        contents "$TMPDIR/theirs.tar" "$TMPDIR/theirs-$stage" >"$TMPDIR/theirs.list"
        ok "same: files, modes, owners, links of ${stage:-the last stage}" diff "$TMPDIR/ours.list" "$TMPDIR/theirs.list"
        ok "same: which are many" test "$(wc -l <"$TMPDIR/ours.list")" -gt 300
done

# --- skopeo: layout, registry and back
copy "docker://$host/theirs:1" "oci:$TMPDIR/layout:theirs"
copy "oci:$TMPDIR/layout:theirs" "docker://$host/again:1"
ok "skopeo: pull what went through a layout" quiet strata image pull "$host/again:1"
is "skopeo: the same digest" "$(image_digest "$host/again:1")" "$(skopeo inspect --tls-verify=false "docker://$host/theirs:1" | field '["Digest"]')"
ok "skopeo: our store is a layout to copy from" copy "oci:$TMPDIR/root/images:$host/again:1" "docker://$host/straight:1"
is "skopeo: with that digest too" "$(skopeo inspect --tls-verify=false "docker://$host/straight:1" | field '["Digest"]')" "$(image_digest "$host/again:1")"

# --- an image that brings the host's disk as a device node
/usr/bin/python3 - "$TMPDIR/context/rootfs.tar" <<'END'
import os, sys, tarfile
with tarfile.open(sys.argv[1], "a") as tar:
    for path in ("/", "/dev/null"): # the disk that the root is on, and one that is known to exist
        number = os.stat(path).st_dev if path == "/" else os.stat(path).st_rdev
        node = tarfile.TarInfo("disk" if path == "/" else "null")
        node.type, node.mode = (tarfile.BLKTYPE if path == "/" else tarfile.CHRTYPE), 0o666
        node.devmajor, node.devminor = os.major(number), os.minor(number)
        tar.addfile(node)
END
ok "devices: import" quiet strata image import "$TMPDIR/context/rootfs.tar" devices:1
strata run --rm --network none devices:1 sh -c 'test -b /disk && head -c 1 /disk' >"$TMPDIR/out" 2>&1
ok "devices: a node of the image opens nothing" grep -q "/disk: Operation not permitted" "$TMPDIR/out" || show "$TMPDIR/out"
ok "devices: one that every container may have does" strata run --rm --network none devices:1 sh -c 'echo >/null'
is "devices: nobody else reaches what is unpacked" "$(stat -c %a "$TMPDIR/root/images/layers")" 700

# --- Debian as it comes, with a repository of packages on the host
assets debian
mkdir -p "$TMPDIR"/repository "$TMPDIR"/package/{DEBIAN,usr/bin,var/lib/strata-test}
package() { # NAME DEPENDS SCRIPT
        printf 'Package: %s\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDepends: %s\nDescription: a test\n' "$1" "$2" >"$TMPDIR/package/DEBIAN/control"
        printf '#!/bin/sh\n%s\n' "$3" >"$TMPDIR/package/DEBIAN/postinst"
        printf '#!/bin/sh\necho %s works\n' "$1" >"$TMPDIR/package/usr/bin/$1"
        chmod 755 "$TMPDIR/package/DEBIAN/postinst" "$TMPDIR/package/usr/bin/$1"
        dpkg-deb --root-owner-group -b "$TMPDIR/package" "$TMPDIR/repository/$1.deb" >/dev/null
        rm "$TMPDIR/package/usr/bin/$1"
        {
                dpkg-deb -f "$TMPDIR/repository/$1.deb"
                printf 'Filename: ./%s.deb\nSize: %s\nSHA256: %s\n\n' "$1" "$(stat -c %s "$TMPDIR/repository/$1.deb")" "$(sha256sum <"$TMPDIR/repository/$1.deb" | cut -d' ' -f1)"
        } >>"$TMPDIR/repository/Packages"
}
package strata-test-base "libc6, passwd" 'useradd -r -M strata-test && install -d -o strata-test -m 750 /var/lib/strata-test && chown -h strata-test /var/lib/strata-test'
package strata-test "strata-test-base" 'su -s /bin/sh strata-test -c "id -un > /var/lib/strata-test/user"'
chmod -R a+rX "$TMPDIR/repository"
port=$(free_port)
/usr/bin/python3 -m http.server --directory "$TMPDIR/repository" "$port" >"$TMPDIR/http.log" 2>&1 &
image_pids+=($!)
wait_for_port "$port"
ok "debian: import" quiet strata image import -c 'CMD ["/bin/bash"]' "$ASSETS/debian.tar" "$host/debian:12"
ok "debian: push" quiet strata image push "$host/debian:12"
strata image rm "$host/debian:12" >/dev/null
is "debian: run fetches it" "$(strata run --rm "$host/debian:12" cat /etc/os-release 2>"$TMPDIR/errors" | sed -n 's/^ID=//p')" debian
gateway=$(ip -4 -o addr show scope global | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1) # of the bridge: nothing else is in this namespace
strata run --name apt "$host/debian:12" bash -c "
        rm -f /etc/apt/sources.list.d/* && echo 'deb [trusted=yes] http://$gateway:$port ./' > /etc/apt/sources.list
        apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install strata-test && strata-test && cat /var/lib/strata-test/user" >"$TMPDIR/apt.log" 2>&1
is "debian: apt-get install from a repository over the bridge" $? 0 || show "$TMPDIR/apt.log"
is "debian: what was installed works, as its own user" "$(tail -n 2 "$TMPDIR/apt.log" | tr '\n' ' ')" "strata-test works strata-test "
ok "debian: with what it depends on" grep -q '^Setting up strata-test-base' "$TMPDIR/apt.log"
ok "debian: commit" quiet strata commit apt with-package:1
is "debian: the package is in the image" "$(strata run --rm with-package:1 dpkg-query -Wf '${Status}' strata-test 2>&1)" "install ok installed"
is "debian: its user may go where root said" "$(strata run --rm -u strata-test with-package:1 cat /var/lib/strata-test/user 2>&1)" strata-test
strata rm -f apt >/dev/null 2>&1
ok "debian: under podman too" quiet pod run "${pod_limits[@]}" --network none --rm --tls-verify=false "$host/debian:12" dpkg --audit

ok "the store is whole" quiet strata image check
done_testing
