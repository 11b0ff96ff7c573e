#!/bin/bash
# test: timeout=400
# Pulls, loads, removals, tags and prunes, several at a time, each killed at a random moment: the store stays whole, keeps
# what it had promised, and nothing half-made stays behind. CHAOS_ROUNDS and CHAOS_SEED change how long and which.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/image_lib.sh"
needs docker-registry

RANDOM=${CHAOS_SEED:-$$}
echo "# seed ${CHAOS_SEED:-$$}"
rounds=${CHAOS_ROUNDS:-60}

registry plain
host=localhost:$registry_port
# Images that share a layer and have one of their own, big enough that a kill hits their middle.
make_rootfs "$TMPDIR/rootfs"
for i in 1 2 3; do
        rm -rf "$TMPDIR/rootfs/own" && mkdir "$TMPDIR/rootfs/own"
        for j in $(seq 150); do head -c 20000 /dev/urandom >"$TMPDIR/rootfs/own/$j"; done
        tar -C "$TMPDIR/rootfs" -cf - . | gzip -1n | image import --root "$TMPDIR/source" - "$host/app:$i" >/dev/null
        image push --root "$TMPDIR/source" "$host/app:$i" >/dev/null
        image save --root "$TMPDIR/source" -o "$TMPDIR/app$i.tar" "$host/app:$i"
done
# One image is never removed by name: it has to survive everything.
image pull "$host/app:3" >/dev/null
image tag "$host/app:3" kept:1

operation() {
        local i=$((RANDOM % 3 + 1))
        case $((RANDOM % 7)) in
        0 | 1 | 2) exec "$STRATA" image pull "$host/app:$i" ;;
        3) exec "$STRATA" image load -i "$TMPDIR/app$i.tar" ;;
        4) exec "$STRATA" image rm "$host/app:$i" ;;
        5) exec "$STRATA" image prune ;;
        6) exec "$STRATA" image tag kept:1 "$host/app:$i" ;;
        esac
}

defects=0 lost=0 killed=0
for round in $(seq "$rounds"); do
        pids=()
        for _ in 1 2 3; do
                seed=$RANDOM
                (
                        RANDOM=$seed
                        operation
                ) >/dev/null 2>&1 &
                pids+=($!)
        done
        for pid in "${pids[@]}"; do
                sleep "0.0$((RANDOM % 10))$((RANDOM % 10))"
                if [ $((RANDOM % 4)) != 0 ]; then
                        kill -9 "$pid" 2>/dev/null && killed=$((killed + 1))
                fi
        done
        for pid in "${pids[@]}"; do
                { wait "$pid"; } 2>/dev/null # bash names the dead
        done
        if ! image check --quick >"$TMPDIR/check"; then
                echo "# after round $round:"
                show "$TMPDIR/check"
                defects=$((defects + 1))
        fi
        image inspect kept:1 >/dev/null 2>&1 || lost=$((lost + 1))
done
echo "# $killed operations were killed"
is "no kill damages the store" "$defects" 0
is "no kill loses an image" "$lost" 0
ok "every blob has its digest" image check
is "nothing temporary is left" "$(find "$STRATA_IMAGE_ROOT"/{tmp,leases} -mindepth 1 | wc -l)" 0
for i in 1 2 3; do
        image pull "$host/app:$i" >/dev/null
        ok "image $i can be pulled and is whole" same_tree "$(image inspect --root "$TMPDIR/source" "$host/app:$i" | field '[0]["layers"][0]')" "$(layer_dir "$host/app:$i")"
        image rm "$host/app:$i" >/dev/null
done
image rm kept:1 >/dev/null
image prune >/dev/null
is "in the end nothing is left" "$(find "$STRATA_IMAGE_ROOT"/{blobs/sha256,layers,images,names,tmp,leases} -type f | wc -l)" 0
done_testing
