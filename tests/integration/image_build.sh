#!/bin/bash
# test: timeout=240
# Images from Dockerfiles: files where and whose they should be, layers done once, the same digests for the same inputs, and
# nothing taken from outside the context.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/image_lib.sh"
[ "$(id -u)" = 0 ] || skip_all "needs root to mount overlays"
needs busybox
quiet() { "$@" >"$TMPDIR/out" 2>&1 || { show "$TMPDIR/out"; return 1; }; }

make_rootfs "$TMPDIR/rootfs"
mkdir -p "$TMPDIR/rootfs"/{proc,dev,sys,root}
ln -s ../etc "$TMPDIR/rootfs/root/etc"
printf 'root:x:0:\napp:x:77:\n' >"$TMPDIR/rootfs/etc/group"
echo 'app:x:55:77:app:/home/app:/bin/sh' >>"$TMPDIR/rootfs/etc/passwd"
tar -C "$TMPDIR/rootfs" -cf - . | image import -c 'CMD ["base"]' -c 'ENV PATH=/bin' - base:1 >/dev/null

context=$TMPDIR/context
mkdir -p "$context"/{dir/sub,skipped}
echo one >"$context/one.txt"
echo two >"$context/two.txt"
echo nested >"$context/dir/sub/nested"
echo no >"$context/skipped/file"
echo no >"$context/note.log"
echo outside >"$TMPDIR/outside"
ln -s ../outside "$context/leaving"
printf 'skipped\n**/*.log\n' >"$context/.dockerignore"
tar -C "$context" -czf "$context/archive.tgz" one.txt dir

# build NAME [OPTION...]: the Dockerfile comes on standard input; messages are in $TMPDIR/build.log.
build() {
        local name=$1
        shift
        image build -f - -t "$name" "$@" "$context" >"$TMPDIR/id" 2>"$TMPDIR/build.log"
}
built() { # as a test point
        local name=$1
        shift
        if build "$@"; then ok "$name" true; else ok "$name" false; show "$TMPDIR/build.log"; fi
}
# The last layer, counted from the top.
top() { image inspect "$1" | field "[0]['layers'][-1-${2:-0}]"; }
config() { image inspect "$1" | field "[0]['config']['config']$2"; }

# --- COPY
built "copy: files, directories, patterns" copy:1 <<'DOCKERFILE'
FROM base:1
WORKDIR /work
COPY one.txt renamed
COPY *.txt into/
COPY --chown=app:app --chmod=640 dir /dir
COPY . /all/
COPY <<END /heredoc
content
END
DOCKERFILE
is "copy: a file gets the name" "$(cat "$(top copy:1 4)/work/renamed")" one
is "copy: a pattern takes all that match" "$(cd "$(top copy:1 3)/work/into" && echo *)" "one.txt two.txt"
is "copy: the content of a directory, owner, mode" "$(stat -c '%u:%g %a' "$(top copy:1 2)/dir/sub/nested")" "55:77 640"
is "copy: .dockerignore leaves out" "$(cd "$(top copy:1 1)/all" && ls -A | tr '\n' ' ')" ".dockerignore archive.tgz dir leaving one.txt two.txt "
ok "copy: a link stays a link" test -L "$(top copy:1 1)/all/leaving"
is "copy: a heredoc" "$(cat "$(top copy:1)/heredoc")" content
is "copy: files of the context are root's" "$(stat -c %u:%g "$(top copy:1 4)/work/renamed")" 0:0
is "workdir: is made" "$(stat -c %F "$(top copy:1 5)/work")" directory

for bad in 'COPY ../outside /x' 'COPY leaving /x' 'COPY nothing /x' 'COPY skipped/file /x' 'COPY *.nope /x' 'COPY one.txt' 'COPY --from=nobody/nothing:1 a /x' \
        'COPY --chown=nobody one.txt /x' 'ADD git@example.com:x /x'; do
        if printf 'FROM base:1\n%s\n' "$bad" | build bad:1; then
                ok "refused: $bad" false
        else
                ok "refused: $bad" grep -q '^strata: Dockerfile line 2' "$TMPDIR/build.log" || show "$TMPDIR/build.log"
        fi
done
built "copy: through the image's links stays in the image" links:1 <<'DOCKERFILE'
FROM base:1
COPY one.txt /root/etc/one.txt
DOCKERFILE
is "copy: to where the link leads" "$(cat "$(top links:1)/etc/one.txt")" one

ln -s dir "$context/to-dir"
built "copy: a link to a directory, directories on the way" dirs:1 <<'DOCKERFILE'
FROM base:1
COPY to-dir /linked
COPY --chown=app:app --chmod=600 one.txt /made/on/the/way/one.txt
COPY --from=base:1 /var /var2
DOCKERFILE
is "copy: a link to a directory is the directory" "$(cat "$(top dirs:1 2)/linked/sub/nested")" nested
is "copy: --chown is for new directories, too, --chmod is not" "$(cd "$(top dirs:1 1)" && stat -c '%u:%g %a' made made/on/the/way made/on/the/way/one.txt | tr '\n' ' ')" \
        "55:77 755 55:77 755 55:77 600 "
ok "copy: a pipe of another image" test -p "$(top dirs:1)/var2/fifo"

# --- ADD
tar -C "$context" -cJf "$context/archive.txz" two.txt
for word in zst:--zstd tbz:-j tar:; do
        echo "$word" >"$context/by-${word%:*}"
        # shellcheck disable=SC2086 # none of one word
        tar -C "$context" ${word#*:} --remove-files -cf "$context/archive.${word%:*}" "by-${word%:*}"
done
{ # two streams, as parallel programs write them
        head -c 700 "$context/archive.tar" | bzip2
        tail -c +701 "$context/archive.tar" | bzip2
} >"$context/two-streams.tbz"
head -c 60 "$context/archive.tbz" >"$context/cut-off.tbz"
rm "$context/archive.tar" && tar -C "$context" -cf "$context/archive.tar" two.txt --transform 's/two.txt/BZh91A/'
built "add: an archive is unpacked" add:1 <<'DOCKERFILE'
FROM scratch
ADD archive.tgz archive.txz archive.zst archive.tbz archive.tar two-streams.tbz cut-off.tbz one.txt /to/
DOCKERFILE
is "add: archives and files" "$(cd "$(top add:1)/to" && find . -type f | sort | tr '\n' ' ')" \
        "./BZh91A ./by-tar ./by-tbz ./by-zst ./cut-off.tbz ./dir/sub/nested ./one.txt ./two.txt "
tar -C "$context" -cf "$TMPDIR/plain.tar" one.txt dir
gzip -n <"$TMPDIR/plain.tar" | image import - imported:gz >/dev/null
for word in xz bzip2; do
        $word <"$TMPDIR/plain.tar" | image import - "imported:$word" >/dev/null
        is "import: $word gives the same layer" "$(top imported:$word)" "$(top imported:gz)"
done
rm "$context"/archive.{tar,zst} "$context"/*.tbz

# --- stages, variables, configuration
built "stages: only what is needed is built" stages:1 --build-arg FROM_USER=given <<'DOCKERFILE'
ARG VERSION=1
FROM base:${VERSION} AS first
ARG FROM_USER=default
ENV A=$FROM_USER B="two words" C=${NOPE:-fallback}
COPY one.txt /made
FROM broken:never AS unused
FROM first AS second
ENTRYPOINT ["run"]
FROM scratch
COPY --from=first /made /copied
COPY --from=base:1 /etc/passwd /passwd
LABEL text="$VERSION"
USER app
EXPOSE 80
DOCKERFILE
is "stages: a file of another stage" "$(cat "$(top stages:1 1)/copied")" one
ok "stages: a file of an image" grep -q app: "$(top stages:1)/passwd"
is "stages: an ARG before FROM is not seen in a stage" "$(config stages:1 "['Labels']['text']")" ""
built "target: a stage in the middle" target:1 --target second --build-arg FROM_USER=given <<'DOCKERFILE'
FROM base:1 AS first
ARG FROM_USER=default
ENV A=$FROM_USER B="two words" C=${NOPE:-fallback}
FROM first AS second
ENTRYPOINT ["run"]
FROM scratch
DOCKERFILE
is "env: variables are put in" "$(config target:1 "['Env']")" "['PATH=/bin', 'A=given', 'B=two words', 'C=fallback']"
is "entrypoint: drops the base's CMD" "$(config target:1 ".get('Cmd')")" None
built "onbuild: is kept" onbuild:1 <<'DOCKERFILE'
FROM base:1
ONBUILD COPY one.txt /by-onbuild
DOCKERFILE
built "onbuild: and carried out" onbuild:2 <<'DOCKERFILE'
FROM onbuild:1
DOCKERFILE
is "onbuild: in the next image" "$(cat "$(top onbuild:2)/by-onbuild")" one

# --- contexts on standard input
printf 'FROM base:1\nCOPY one.txt /from-archive\n' >"$context/Dockerfile"
tar -C "$context" -cz . | image build -q -t stdin:1 - >/dev/null
is "context -: an archive" "$(cat "$(top stdin:1)/from-archive")" one
printf 'FROM base:1\nLABEL only=text\n' | image build -q -t stdin:2 - >/dev/null
is "context -: a Dockerfile alone" "$(image inspect -f '{{.Config.Labels.only}}' stdin:2)" text
printf 'one.txt\n' >"$TMPDIR/other.Dockerfile.dockerignore"
cp "$context/Dockerfile" "$TMPDIR/other.Dockerfile"
if image build -q -f "$TMPDIR/other.Dockerfile" "$context" 2>"$TMPDIR/build.log"; then
        ok "a .dockerignore of the Dockerfile's own" false
else
        ok "a .dockerignore of the Dockerfile's own" grep -q 'dockerignore leaves it out' "$TMPDIR/build.log"
fi
rm "$context/Dockerfile"
image build https://example.invalid/x.git 2>"$TMPDIR/build.log"
is "an address as context: a usage of its own" "$?" 125
image build --platform linux/s390x "$context" 2>"$TMPDIR/build.log"
ok "another platform is refused" grep -q 'are not built on' "$TMPDIR/build.log"

# --- the cache
cache() {
        build cache:1 <<'DOCKERFILE'
FROM base:1
COPY one.txt /one
COPY two.txt /two
DOCKERFILE
        grep -c cached "$TMPDIR/build.log"
}
cache >/dev/null
is "cache: nothing is done twice" "$(cache)" 2
touch "$context/one.txt"
is "cache: times do not matter" "$(cache)" 2
echo changed >"$context/two.txt"
is "cache: what has changed is done" "$(cache)" 1
is "cache: and new" "$(cat "$(top cache:1)/two")" changed

# --- the same inputs, the same image
reproducible() {
        rm -rf "$TMPDIR/context2" "$STRATA_IMAGE_ROOT-$1"
        cp -r "$context" "$TMPDIR/context2"
        SOURCE_DATE_EPOCH=1000000000 image build --no-cache -q -f - "$TMPDIR/context2" <<'DOCKERFILE'
FROM base:1
WORKDIR /new/dir
COPY . /all
DOCKERFILE
}
first=$(reproducible 1)
sleep 1.1
is "SOURCE_DATE_EPOCH: the id is the same every time" "$(reproducible 2)" "$first"

# --- RUN
runtime=
for candidate in "$BUILD/strata-oci" "$(command -v runc)" "$(command -v crun)"; do
        [ -x "$candidate" ] || continue
        if build probe:1 --no-cache --runtime "$candidate" <<<$'FROM base:1\nRUN true'; then
                runtime=$candidate
                break
        fi
done
if [ -n "$runtime" ]; then
        echo "# RUN with $runtime"
        echo "a secret" >"$TMPDIR/secret"
        built "run: commands, heredocs, mounts" run:1 --runtime "$runtime" --secret "id=token,src=$TMPDIR/secret" --build-arg ARGUMENT=argument <<'DOCKERFILE'
FROM base:1 AS tools
COPY one.txt /tools/one
FROM base:1
ARG ARGUMENT
ENV VARIABLE=variable
WORKDIR /work
RUN echo $ARGUMENT $VARIABLE $PWD > one && rm /etc/passwd
RUN ["/bin/busybox", "touch", "two words"]
RUN <<END
echo a > three
echo b >> three
END
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/tmpfs --mount=type=bind,from=tools,source=/tools,target=/tools \
    --mount=type=bind,target=/context --mount=type=secret,id=token \
    echo run >> /cache/runs && cat /tools/one /context/dir/sub/nested /run/secrets/token > four && touch /tmpfs/gone
USER 55:77
RUN busybox id -u > /tmp/id
RUN --mount=type=bind,source=one.txt,target=here --mount=type=bind,from=tools,source=/tools/one,target=/tmp/there --mount=type=cache,target=/mine,uid=55,mode=700 \
    --mount=type=secret,id=token,uid=55,target=/run/mine cat here /tmp/there /run/mine > /tmp/five && touch /mine/cached
DOCKERFILE
        is "run: variables and directory" "$(cat "$(top run:1 5)/work/one")" "argument variable /work"
        is "run: a removed file is a whiteout" "$(stat -c %t:%T "$(top run:1 5)/etc/passwd")" 0:0
        ok "run: a list is no shell's" test -e "$(top run:1 4)/work/two words"
        is "run: a heredoc is a script" "$(tr '\n' ' ' <"$(top run:1 3)/work/three")" "a b "
        is "run: binds and secrets" "$(tr '\n' ' ' <"$(top run:1 2)/work/four")" "one nested a secret "
        ok "run: what was mounted is not in the layer" test -z "$(find "$(top run:1 2)" -name runs -o -name gone -o -name token -type f -size +0)"
        is "run: nor where it was mounted" "$(cd "$(top run:1 2)" && find . -mindepth 1 ! -path ./work/four | sort | tr '\n' ' ')" "./etc ./work "
        is "run: files as mounts, relative targets, caches and secrets of the user" "$(tr '\n' ' ' <"$(top run:1)/tmp/five")" "one one a secret "
        is "run: as the user" "$(cat "$(top run:1 1)/tmp/id")" 55
        echo kept >"$context/skipped/kept"
        mkdir "$context/dir/logs" && touch "$context/dir/logs/a.log"
        cat >>"$context/.dockerignore" <<<$'!skipped/kept\ndir/logs'
        built "run: binds without what .dockerignore leaves out, and changes that are gone" hidden:1 --runtime "$runtime" <<'DOCKERFILE'
FROM base:1
RUN --mount=type=bind,target=/in cd /in && find . | sort > /seen && ! touch one.txt new
RUN --mount=type=bind,target=/in,rw cd /in && rm one.txt && echo changed > two.txt && touch new dir/new && find . | sort > /changed
RUN --mount=type=bind,source=dir,target=/in,rw --mount=type=bind,source=two.txt,target=/two,rw cd /in && touch more && echo changed > /two && find . | sort > /part
RUN --mount=type=bind,from=base:1,target=/base,rw rm -r /base/etc && touch /base/new && ls /base/etc /base/new > /from 2>&1 || true
RUN --mount=type=bind,target=/in --mount=type=bind,from=base:1,target=/base cat /in/two.txt && ls -d /base/etc > /last
DOCKERFILE
        seen=". ./.dockerignore ./archive.tgz ./archive.txz ./dir ./dir/sub ./dir/sub/nested ./leaving ./one.txt ./skipped ./skipped/kept ./to-dir ./two.txt "
        is "run: what a bind shows" "$(tr '\n' ' ' <"$(top hidden:1 4)/seen")" "$seen"
        is "run: what one with rw shows, and takes" "$(tr '\n' ' ' <"$(top hidden:1 3)/changed")" "$(sed 's|./dir/sub |./dir/new ./dir/sub |; s|./one.txt|./new|' <<<"$seen")"
        is "run: of a directory" "$(tr '\n' ' ' <"$(top hidden:1 2)/part")" ". ./more ./sub ./sub/nested "
        is "run: of another image" "$(tail -n 1 "$(top hidden:1 1)/from")" /base/new
        is "run: what was written is gone" "$(cat "$context/two.txt")$(cat "$(top hidden:1)/last")" changed/base/etc
        ok "run: nor is it in the context" test ! -e "$context/new" -a ! -e "$context/dir/new" -a -e "$context/one.txt"
        if build bad:1 --runtime "$runtime" <<<$'FROM base:1\nRUN --mount=type=bind,source=note.log,target=/in true'; then
                ok "run: a source that .dockerignore leaves out" false
        else
                ok "run: a source that .dockerignore leaves out" grep -q 'dockerignore leaves it out' "$TMPDIR/build.log"
        fi
        printf 'skipped\n**/*.log\n' >"$context/.dockerignore"
        bound() {
                build bound:1 --runtime "$runtime" <<'DOCKERFILE'
FROM base:1
RUN --mount=type=bind,source=two.txt,target=/in cat /in > /out
DOCKERFILE
                cat "$(top bound:1)/out"
        }
        echo first >"$context/two.txt"
        is "run: what is bound from the context" "$(bound)" first
        touch "$context/one.txt"
        bound >/dev/null
        ok "run: is cached as long as it is the same" grep -q cached "$TMPDIR/build.log"
        echo second >"$context/two.txt"
        is "run: and done again when it is not" "$(bound)" second
        hosts() {
                build hosts:1 --runtime "$runtime" "$@" <<<$'FROM base:1\nRUN busybox cat /etc/hosts /proc/net/dev > /seen; busybox df -k /dev/shm >> /seen'
        }
        hosts --add-host db:10.1.2.3 --network none --shm-size 3m --iidfile "$TMPDIR/iidfile" --rm --progress plain
        seen=$(top hosts:1)/seen
        ok "run: --add-host" grep -q '^10.1.2.3.db$' "$seen"
        is "run: --network none" "$(grep -c ': ' "$seen")" 1
        ok "run: --shm-size" grep -q ' 3072 ' "$seen"
        is "--iidfile" "$(cat "$TMPDIR/iidfile")" "$(image inspect -f '{{.Id}}' hosts:1)"
        hosts --add-host db:10.1.2.4 --network none
        ok "run: other hosts are another step" grep -q '^10.1.2.4.db$' "$(top hosts:1)/seen"
        if build fails:1 --runtime "$runtime" <<<$'FROM base:1\nRUN exit 7'; then
                ok "run: a failure ends the build" false
        else
                ok "run: a failure ends the build" grep -q 'line 2, RUN: the command ended with status 7' "$TMPDIR/build.log"
        fi
else
        skip "run" "no OCI runtime works here"
fi

ok "the store is whole" quiet image check
is "nothing temporary is left" "$(find "$STRATA_IMAGE_ROOT"/{tmp,leases} -mindepth 1 | wc -l)" 0
ok "nothing is mounted" test -z "$(grep -F "$TMPDIR" /proc/self/mounts)"
image prune --all >/dev/null
is "prune --all: takes images and what builds remember" "$(find "$STRATA_IMAGE_ROOT" -mindepth 2 -type f | wc -l)" 0
done_testing
