#!/bin/bash
# test: timeout=600
# Stock software behind both walls: Debian installs a package from a repository of the host's, PostgreSQL answers the host's psql, Node.js
# serves a published port, a container and a machine share a volume and reach each other by name.
GUESTS="kernel debian servers"
. "$(dirname "$0")/run_lib.sh"
assets kernel debian servers
unset STRATA_ISOLATION
WALL=vm # for what waits
strata kernel import --modules "$(echo "$ASSETS"/kernel/lib/modules/*)" "$ASSETS/vmlinuz" >/dev/null || skip_all "no kernel could be imported"
strata image import -c 'CMD ["/bin/bash"]' "$ASSETS/debian.tar" debian >/dev/null
busybox_image busybox

# --- packages ----------------------------------------------------------------------------------------------------------------

mkdir -p "$TMPDIR"/repository "$TMPDIR"/package/{DEBIAN,usr/bin}
printf 'Package: greeting\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDepends: libc6\nDescription: a test\n' >"$TMPDIR/package/DEBIAN/control"
printf '#!/bin/sh\nuseradd -r greeter\n' >"$TMPDIR/package/DEBIAN/postinst"
printf '#!/bin/sh\necho "installed by $(id -un)"\n' >"$TMPDIR/package/usr/bin/greeting"
chmod 755 "$TMPDIR/package/DEBIAN/postinst" "$TMPDIR/package/usr/bin/greeting"
dpkg-deb --root-owner-group -b "$TMPDIR/package" "$TMPDIR/repository/greeting.deb" >/dev/null
{
        dpkg-deb -f "$TMPDIR/repository/greeting.deb"
        printf 'Filename: ./greeting.deb\nSize: %s\nSHA256: %s\n' "$(stat -c %s "$TMPDIR/repository/greeting.deb")" \
                "$(sha256sum <"$TMPDIR/repository/greeting.deb" | cut -d' ' -f1)"
} >"$TMPDIR/repository/Packages"
chmod -R a+rX "$TMPDIR/repository"

/usr/bin/python3 -m http.server --directory "$TMPDIR/repository" 8000 >"$TMPDIR/http.log" 2>&1 &
http=$!
repository_is_up() { curl -fs -o /dev/null http://127.0.0.1:8000/Packages; }
eventually repository_is_up
strata network create --subnet 10.77.0.0/24 mine >/dev/null
for wall in container vm; do
        strata run --name "apt-$wall" --isolation $wall --network mine debian bash -c "
                rm -f /etc/apt/sources.list.d/* && echo 'deb [trusted=yes] http://10.77.0.1:8000 ./' >/etc/apt/sources.list
                apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install greeting && greeting" >"$TMPDIR/apt.log" 2>&1
        is "$wall: apt-get install from a repository on the network" $? 0 || show "$TMPDIR/apt.log"
        is "$wall: what was installed works" "$(tail -n 1 "$TMPDIR/apt.log")" "installed by root"
        strata commit "apt-$wall" "installed-$wall" >/dev/null
        strata rm "apt-$wall" >/dev/null
done
is "what a machine installed runs in a container" "$(strata run --rm --network none installed-vm greeting)" "installed by root"
is "and the reverse" "$(strata run --rm --network none --isolation vm installed-container greeting)" "installed by root"
is "its user was made, too" "$(strata run --rm --network none -u greeter installed-vm greeting)" "installed by greeter"
kill $http

# --- servers -----------------------------------------------------------------------------------------------------------------

mkdir "$TMPDIR/context"
ln "$ASSETS/servers.tar" "$TMPDIR/context/" 2>/dev/null || cp "$ASSETS/servers.tar" "$TMPDIR/context/"
cat >"$TMPDIR/context/Dockerfile" <<'END'
FROM debian
ADD servers.tar /
RUN ldconfig && useradd -r -s /bin/sh postgres && install -d -o postgres /var/lib/postgresql && echo secret >/tmp/password
USER postgres
RUN /usr/lib/postgresql/*/bin/initdb -D /var/lib/postgresql/data --no-sync --locale=C.UTF-8 --auth=scram-sha-256 --pwfile=/tmp/password && \
        echo 'host all all all scram-sha-256' >>/var/lib/postgresql/data/pg_hba.conf
USER root
END
strata image build -q --network none -t servers "$TMPDIR/context" >/dev/null 2>"$TMPDIR/build.log"
is "an image of Debian with PostgreSQL and Node.js is built" $? 0 || show "$TMPDIR/build.log"

query() {
        PGPASSWORD=secret PGCONNECT_TIMEOUT=5 psql -h 127.0.0.1 -p "$1" -U postgres -Atc "$2" 2>"$TMPDIR/psql.log"
}
answers() {
        [ "$(query "$1" 'select 1')" = 1 ]
}
# shellcheck disable=SC2016 # the instance's shell
postgres='exec /usr/lib/postgresql/*/bin/postgres -D /var/lib/postgresql/data -c listen_addresses="*" -c unix_socket_directories=/tmp'
node='require("http").createServer((q, r) => r.end("served by " + process.version + "\n")).listen(80)'
rows=0
for wall in container vm; do
        if ! command -v psql >/dev/null; then
                skip "$wall: PostgreSQL answers the host's psql" "psql is not installed"
        else
                # One database: what the container's server wrote is the machine's to go on with.
                strata run -d --name "sql-$wall" --isolation $wall --network mine -p 5433:5432 -u postgres -v database:/var/lib/postgresql servers \
                        sh -c "$postgres" >/dev/null
                ok "$wall: PostgreSQL answers the host's psql" eventually answers 5433 || { show "$TMPDIR/psql.log"; strata logs "sql-$wall" 2>&1 | sed 's/^/# /'; }
                query 5433 'create table if not exists numbers (n int)' >/dev/null
                is "$wall: it has what there was" "$(query 5433 'select count(*) from numbers')" "$rows"
                query 5433 'insert into numbers select generate_series(1, 10000)' >/dev/null
                rows=$((rows + 10000))
                is "$wall: it counts" "$(query 5433 'select sum(n) from numbers')" $((rows / 10000 * 50005000))
                strata restart "sql-$wall" >/dev/null
                ok "$wall: it comes back" eventually answers 5433
                is "$wall: with what it had" "$(query 5433 'select count(*) from numbers')" "$rows"
                strata rm -f "sql-$wall" >/dev/null
        fi
        strata run -d --name "node-$wall" --isolation $wall --network mine -p 8081:80 servers node -e "$node" >/dev/null
        page() { curl -fsS -m 5 http://127.0.0.1:8081/ 2>/dev/null; }
        serves() { [[ $(page) == "served by v"* ]]; }
        ok "$wall: Node.js serves a published port" eventually serves || strata logs "node-$wall" 2>&1 | sed 's/^/# /'
        is "$wall: many times" "$(for _ in $(seq 50); do page; done | grep -c served)" 50
        strata rm -f "node-$wall" >/dev/null
done

# --- one volume, one network, both walls -------------------------------------------------------------------------------------------

strata run -d --name inside --isolation vm --network mine -v shared:/data busybox \
        sh -c 'echo from the machine >/data/vm; exec nc -ll -p 80 -e hostname' >/dev/null
strata run -d --name beside --network mine -v shared:/data busybox sh -c 'echo from the container >/data/container; exec nc -ll -p 80 -e hostname' >/dev/null
ok "a container sees what a machine wrote" eventually strata exec beside grep -q machine /data/vm
ok "a machine sees what a container wrote" eventually strata exec inside grep -q container /data/container
is "a container reaches a machine by name" "$(strata exec beside sh -c 'nc inside 80 </dev/null')" "$(strata exec inside hostname)"
is "a machine reaches a container by name" "$(strata exec inside sh -c 'nc beside 80 </dev/null')" "$(strata exec beside hostname)"
strata rm -f inside beside >/dev/null
strata volume prune -af >/dev/null
strata network rm mine >/dev/null
ok "nothing is left" strata system check
done_testing
