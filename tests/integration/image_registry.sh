#!/bin/bash
# test: timeout=300 fast
# Images between us, Debian's docker-registry, skopeo, umoci and podman: digests and files stay what they are.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/image_lib.sh"
needs docker-registry skopeo umoci curl

registry plain
host=localhost:$registry_port
make_rootfs "$TMPDIR/rootfs"
tar -C "$TMPDIR/rootfs" --numeric-owner --format=pax -cf - . | gzip -n >"$TMPDIR/rootfs.tar.gz"
quiet() { "$@" >"$TMPDIR/out" 2>&1 || { show "$TMPDIR/out"; return 1; }; }
copy() { quiet skopeo copy --src-tls-verify=false --dest-tls-verify=false "$@"; }

# --- what comes in is what went out
ok "import: a tar becomes an image" quiet image import -c 'CMD ["/bin/sh"]' -c 'ENV A=b' "$TMPDIR/rootfs.tar.gz" app:1
ok "import: every file is as it was" same_tree "$TMPDIR/rootfs" "$(layer_dir app:1)"
ok "push: to a registry" quiet image push app:1 "$host/app:1"
digest=$(image_digest app:1)
is "push: skopeo sees our digest" "$(skopeo inspect --tls-verify=false "docker://$host/app:1" | field '["Digest"]')" "$digest"
ok "skopeo: from the registry into a layout" copy "docker://$host/app:1" "oci:$TMPDIR/layout:app"
is "skopeo: the same digest there" "$(skopeo inspect "oci:$TMPDIR/layout:app" | field '["Digest"]')" "$digest"
ok "skopeo: from the layout to another repository" copy "oci:$TMPDIR/layout:app" "docker://$host/back:1"
ok "pull: what skopeo pushed" quiet image pull "$host/back:1"
is "pull: the digest has not changed on the way round" "$(image_digest "$host/back:1")" "$digest"
is "pull: the id neither" "$(image_id "$host/back:1")" "$(image_id app:1)"
ok "the store is an OCI layout that skopeo reads" quiet skopeo inspect "oci:$STRATA_IMAGE_ROOT:$host/back:1"
ok "umoci: unpacks what we pushed" quiet umoci raw unpack --image "$TMPDIR/layout:app" "$TMPDIR/umoci"
ok "umoci: to the same files" same_tree "$TMPDIR/umoci" "$(layer_dir app:1)"

# --- sparse files as the different tars write them
for kind in gnu:1.0 pax:0.0 pax:0.1 pax:1.0; do
        tar -C "$TMPDIR/rootfs" --numeric-owner --format="${kind%:*}" --sparse --sparse-version="${kind#*:}" -cf "$TMPDIR/sparse.tar" .
        quiet image import --root "$TMPDIR/store-sparse" "$TMPDIR/sparse.tar" "sparse:${kind/:/-}"
        ok "sparse $kind: every file is right" \
                same_tree "$TMPDIR/rootfs" "$(image inspect --root "$TMPDIR/store-sparse" "sparse:${kind/:/-}" | field '[0]["layers"][0]')"
done

# --- compressions: the id is of what is inside
for kind in gzip zstd; do
        copy --dest-compress --dest-compress-format "$kind" "oci:$TMPDIR/layout:app" "dir:$TMPDIR/$kind"
        copy "dir:$TMPDIR/$kind" "docker://$host/$kind:1"
        is "$kind: the registry has such a layer" \
                "$(skopeo inspect --raw --tls-verify=false "docker://$host/$kind:1" | grep -o "tar+$kind" | head -n 1)" "tar+$kind"
        store=$TMPDIR/store-$kind
        ok "$kind: pull" quiet image pull --root "$store" "$host/$kind:1"
        ok "$kind: the files are right" same_tree "$TMPDIR/rootfs" "$(image inspect --root "$store" "$host/$kind:1" | field '[0]["layers"][0]')"
        ok "$kind: the store is whole" quiet image check --root "$store"
done

# --- several layers, removed files
umoci_change() {
        umoci unpack --image "$TMPDIR/layout:app" "$TMPDIR/bundle" &&
                rm "$TMPDIR/bundle/rootfs/etc/passwd" && rm -r "$TMPDIR/bundle/rootfs/var/empty" && echo new >"$TMPDIR/bundle/rootfs/etc/new" &&
                umoci repack --image "$TMPDIR/layout:app2" "$TMPDIR/bundle"
}
if [ "$(id -u)" = 0 ]; then
        quiet umoci_change
        copy "oci:$TMPDIR/layout:app2" "docker://$host/app:2"
        ok "layers: pull an image of umoci's" quiet image pull "$host/app:2"
        is "layers: there are two" "$(image inspect "$host/app:2" | field '[0]["layers"].__len__()')" 2
        is "layers: the first one is shared" "$(layer_dir "$host/app:2")" "$(layer_dir app:1)"
        is "layers: a removed file is a whiteout" "$(stat -c '%F %t:%T' "$(layer_dir "$host/app:2" 1)/etc/passwd")" "character special file 0:0"
        image rm "$host/app:2" >/dev/null
else
        skip "layers: an image of umoci's" "needs root"
fi

# --- mounting a blob that another repository has
image tag "$host/back:1" "$host/third:1"
quiet image push "$host/third:1"
ok "push: a blob that the registry has elsewhere is mounted" grep -q "POST /v2/third/blobs/uploads/?mount=sha256.*201" "$TMPDIR/plain.log"
ok "push: and not sent" test "$(grep -cE 'PUT /v2/third/blobs' "$TMPDIR/plain.log")" = 0

# --- indexes
index() {
        local amd
        amd=$(curl -s -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://$host/v2/app/manifests/1" | wc -c)
        printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s,%s]}' \
                "{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"$digest\",\"size\":$amd,\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}}" \
                "{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"$digest\",\"size\":$amd,\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\"}}"
}
index | curl -s -X PUT -H 'Content-Type: application/vnd.oci.image.index.v1+json' --data-binary @- "http://$host/v2/app/manifests/index"
ok "index: pull chooses this host's image" quiet image pull "$host/app:index"
ok "index: or the one that is asked for" quiet image pull --platform linux/arm64 "$host/app:index"
image pull --platform linux/riscv64 "$host/app:index" >"$TMPDIR/out" 2>&1
is "index: a platform that is missing is an error" $? 125
ok "index: that says what there is" grep -q "linux/amd64, linux/arm64" "$TMPDIR/out"
ok "digest: pull by digest" quiet image pull "$host/app@$digest"

# --- archives
ok "save: docker's and OCI's at once" quiet image save -o "$TMPDIR/ours.tar" "$host/back:1"
for kind in docker-archive oci-archive; do
        ok "$kind: skopeo reads ours" copy "$kind:$TMPDIR/ours.tar" "dir:$TMPDIR/from-$kind"
        copy "oci:$TMPDIR/layout:app" "$kind:$TMPDIR/$kind.tar:docker.io/library/theirs:1"
        store=$TMPDIR/store-$kind
        ok "$kind: we read skopeo's" quiet image load --root "$store" -i "$TMPDIR/$kind.tar"
        is "$kind: the id is the same" "$(image inspect --root "$store" theirs:1 | field '[0]["Id"]')" "$(image_id app:1)"
        ok "$kind: the files are right" same_tree "$TMPDIR/rootfs" "$(image inspect --root "$store" theirs:1 | field '[0]["layers"][0]')"
        ok "$kind: the store is whole" quiet image check --root "$store"
done
is "load: from a pipe, compressed" "$(gzip -c "$TMPDIR/ours.tar" | image load --root "$TMPDIR/store-pipe")" "loaded: $host/back:1"
is "load: the digest is kept" "$(image inspect --root "$TMPDIR/store-pipe" "$host/back:1" | field '[0]["digest"]')" "$digest"

# --- podman
if command -v podman >/dev/null && [ "$(id -u)" = 0 ]; then
        pod() { podman --root "$TMPDIR/pod" --runroot "$TMPDIR/podrun" --storage-driver overlay --cgroup-manager cgroupfs "$@"; }
        ok "podman: loads our archive" quiet pod load -i "$TMPDIR/ours.tar"
        is "podman: sees our id" "$(pod image inspect "$host/back:1" | field '[0]["Id"]')" "$(image_id app:1 | cut -d: -f2)"
        ok "podman: saves its own" quiet pod save -o "$TMPDIR/podman.tar" "$host/back:1"
        ok "podman: we load it" quiet image load --root "$TMPDIR/store-podman" -i "$TMPDIR/podman.tar"
        is "podman: with the same id" "$(image inspect --root "$TMPDIR/store-podman" "$host/back:1" | field '[0]["Id"]')" "$(image_id app:1)"
        pod rmi -af >/dev/null 2>&1
        umount "$TMPDIR/pod/overlay" 2>/dev/null
else
        skip "podman: archives" "needs podman and root"
fi

# --- lists
is "ls: every image" "$(image ls -q | sort -u | wc -l)" 1
is "ls: json has a line for each of its names" "$(image ls --format json | wc -l)" 5
ok "ls: the table too" grep -q "$host/third" <(image ls)
is "history: one step" "$(image history --format '{{.CreatedBy}}' app:1)" "strata image import"
ok "check: the store is whole" quiet image check
image rm app:1 "$host/back:1" "$host/third:1" "$host/app:index" "$host/app@$digest" >"$TMPDIR/out" 2>&1
is "rm: nothing is left" "$(find "$STRATA_IMAGE_ROOT"/{blobs/sha256,layers,images,names,tmp,leases,partial} -type f | wc -l)" 0
image pull "$host/nothing:1" >"$TMPDIR/out" 2>&1
is "pull: what is not there is an error" $? 125
ok "pull: a clear one" grep -q "answers 404" "$TMPDIR/out"
done_testing
