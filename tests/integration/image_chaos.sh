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

# --- a download that is killed goes on where it was
head -c 40000000 /dev/urandom >"$TMPDIR/big"
tar -C "$TMPDIR" -cf - big | image import --root "$TMPDIR/source" - "$host/big:1" >/dev/null
image push --root "$TMPDIR/source" "$host/big:1" >/dev/null
kept=0
for try in 1 2 3 4 5; do # it may be faster than we are
        "$STRATA" image pull "$host/big:1" >"$TMPDIR/quiet" 2>&1 & # not the function: its shell would be killed
        pid=$!
        while kill -0 $pid 2>/dev/null; do
                kept=$(find "$STRATA_IMAGE_ROOT/partial" -type f -size +1M -size -30M -printf '%s\n' 2>/dev/null)
                [ -z "$kept" ] || break
        done
        kill -9 $pid 2>/dev/null
        { wait $pid; } 2>/dev/null
        kept=$(find "$STRATA_IMAGE_ROOT/partial" -type f -size +1M -size -30M -printf '%s\n')
        [ -z "$kept" ] || break
        image rm "$host/big:1" >/dev/null 2>&1
done
if [ -n "$kept" ]; then
        ok "resume: the next pull" image pull "$host/big:1"
        ok "resume: fetches what was missing" grep -qE "GET /v2/big/blobs/.* 206 " "$TMPDIR/plain.log" || show "$TMPDIR/plain.log"
        ok "resume: to the same bytes" cmp "$TMPDIR/big" "$(layer_dir "$host/big:1")/big"
else
        skip "resume" "the download is faster than a kill"
fi
image rm "$host/big:1" >/dev/null
is "progress: nothing of it in a pipe" "$(image pull "$host/big:1" 2>&1 | grep -cE 'MB|\[=')" 0
image rm "$host/big:1" >/dev/null
script -qec "$STRATA image pull $host/big:1" /dev/null </dev/null >"$TMPDIR/terminal" 2>&1
ok "progress: a bar and how much, on a terminal" grep -qaE '\[=*>? *\] +[0-9.]+ [kM]?B / 40' "$TMPDIR/terminal" || show "$TMPDIR/terminal"
ok "progress: that ends with all of it" grep -qaE '40[.0-9]* MB / 40[.0-9]* MB done' "$TMPDIR/terminal"
image rm "$host/big:1" >/dev/null

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
