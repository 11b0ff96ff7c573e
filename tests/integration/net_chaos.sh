#!/bin/bash
# test: timeout=240
# Attaching, detaching, creating and removing, several at a time, each killed at a random moment: afterwards net_check repairs, and
# nothing is left in kernel or store. CHAOS_ROUNDS and CHAOS_SEED change how long and which.
. "$(dirname "$0")/net_lib.sh"

seed=${CHAOS_SEED:-$(($(date +%s%N) % 100000))}
RANDOM=$seed
echo "# seed $seed"
rounds=${CHAOS_ROUNDS:-120}

net create web >/dev/null
containers=()
for i in 0 1 2 3; do
        container pid
        containers+=("$pid")
done

operation() {
        local i=$((RANDOM % 4))
        local ns=/proc/${containers[i]}/ns/net
        case $((RANDOM % 10)) in
        0 | 1) exec "$DRIVER" attach web "c$i" "$ns" --name "n$i" --pid "${containers[i]}" -p "$((7000 + i)):80" -p 90/udp ;;
        2 | 3) exec "$DRIVER" attach bridge "c$i" "$ns" --pid "${containers[i]}" -p "$((7100 + i)):80" ;;
        4) exec "$DRIVER" detach "c$i" ;;
        5) exec "$DRIVER" detach "c$i" web ;;
        6) exec "$DRIVER" create "net$i" ;;
        7) exec "$DRIVER" rm "net$i" ;;
        8) exec "$DRIVER" prune ;;
        9) exec "$DRIVER" create web ;;
        esac
}

killed=0 defects=0
for _ in $(seq "$rounds"); do
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
                sleep "0.00$((RANDOM % 5))$((RANDOM % 10))"
                if [ $((RANDOM % 3)) != 0 ]; then
                        kill -9 "$pid" 2>/dev/null && killed=$((killed + 1))
                fi
        done
        for pid in "${pids[@]}"; do
                { wait "$pid"; } 2>/dev/null
        done
        if [ $((RANDOM % 10)) = 0 ]; then
                # a check that is killed, then one that is not
                net check >/dev/null 2>&1 &
                sleep "0.00$((RANDOM % 10))"
                kill -9 $! 2>/dev/null
                { wait $!; } 2>/dev/null
                net check >/dev/null 2>&1 || defects=$((defects + 1))
                nothing net check || defects=$((defects + 1))
        fi
done 2>/dev/null # bash names the dead
echo "# $killed operations were killed"
is "every check repairs what it finds" "$defects" 0
net check >/dev/null
ok "all is well after one check" nothing net check
for i in 0 1 2 3; do
        net detach "c$i"
done
is "nobody is on a network" "$(net endpoints)" ""
end "${containers[@]}"
net check >/dev/null
net prune >/dev/null
is "nothing is left" "$(leftovers)" ""
is "nor a definition" "$(net ls | awk '{ print $2 }' | paste -sd' ')" "bridge none host"
is "nor a temporary file" "$(find "$STRATA_NET_ROOT" -name '.*' -mindepth 1)" ""
done_testing
