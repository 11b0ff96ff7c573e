#!/bin/bash
# test: timeout=240 fast
# Registries that hang up, lie, ask for tokens, passwords and certificates.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/image_lib.sh"
needs docker-registry skopeo htpasswd openssl

quiet() { "$@" >"$TMPDIR/out" 2>&1 || { show "$TMPDIR/out"; return 1; }; }
make_rootfs "$TMPDIR/rootfs"
head -c 3000000 /dev/urandom >"$TMPDIR/rootfs/big"
tar -C "$TMPDIR/rootfs" -cf "$TMPDIR/rootfs.tar" .
image import --root "$TMPDIR/layout" "$TMPDIR/rootfs.tar" app:1 >/dev/null
layer=$(image inspect --root "$TMPDIR/layout" app:1 | field '[0]["manifest"]["layers"][0]["digest"]')
id=$(image inspect --root "$TMPDIR/layout" app:1 | field '[0]["Id"]')

# fails NAME WORDS COMMAND...: with status 125 and those words, and the store stays whole and empty.
fails() {
        local name=$1 words=$2
        shift 2
        "$@" >"$TMPDIR/out" 2>&1
        is "$name: is refused" $? 125
        ok "$name: and says why" grep -q "$words" "$TMPDIR/out" || show "$TMPDIR/out"
        ok "$name: the store is whole" quiet image check
        is "$name: and has no image" "$(image ls -q)" ""
}
fresh() { rm -rf "$STRATA_IMAGE_ROOT"; }

# --- a connection that breaks every million bytes
fake_registry --layout "$TMPDIR/layout" --cut 1000000
ok "hang-ups: the pull goes on where it was" quiet image pull "localhost:$registry_port/app:1"
ok "hang-ups: with ranges" grep -q "GET /v2/app/blobs/$layer bytes=1000000-" "$TMPDIR/fake.log"
ok "hang-ups: the store is whole" quiet image check
stop_registries

fresh
fake_registry --layout "$TMPDIR/layout" --no-ranges
mkdir -p "$STRATA_IMAGE_ROOT" && image ls >/dev/null
head -c 700000 "$TMPDIR/layout/blobs/sha256/${layer#sha256:}" >"$STRATA_IMAGE_ROOT/partial/${layer#sha256:}"
ok "resume: from a registry without ranges" quiet image pull "localhost:$registry_port/app:1"
ok "resume: the store is whole" quiet image check
fresh
image ls >/dev/null
head -c 700000 /dev/urandom >"$STRATA_IMAGE_ROOT/partial/${layer#sha256:}"
ok "resume: a bad beginning is thrown away" quiet image pull "localhost:$registry_port/app:1"
ok "resume: the store is whole then" quiet image check
stop_registries

fresh
fake_registry --layout "$TMPDIR/layout" --flaky 2 --redirect
ok "503 and redirections: the pull succeeds" quiet image pull "localhost:$registry_port/app:1"
stop_registries

# --- lies
for lie in blob:"digest is" long:"longer than" manifest:"another manifest" huge:"longer than"; do
        fresh
        fake_registry --layout "$TMPDIR/layout" --corrupt "${lie%%:*}"
        fails "lie about ${lie%%:*}" "${lie#*:}" image pull "localhost:$registry_port/app:1"
        stop_registries
done

# --- tokens
fresh
fake_registry --layout "$TMPDIR/layout" --token
fails "token without credentials" "wants credentials" image pull "localhost:$registry_port/app:1"
fails "token with wrong credentials" "does not take these credentials" image pull --creds user:wrong "localhost:$registry_port/app:1"
ok "token: with the right ones" quiet image pull --creds user:password "localhost:$registry_port/app:1"
stop_registries

# --- passwords
fresh
htpasswd -Bbn alice 'secret:with colon' >"$TMPDIR/htpasswd"
registry basic "auth: {htpasswd: {realm: test, path: $TMPDIR/htpasswd}}"
host=localhost:$registry_port
image push --root "$TMPDIR/layout" app:1 "$host/app:1" >"$TMPDIR/out" 2>&1
is "basic: push needs credentials" $? 125
ok "login: the right password" quiet image login -u alice --password-stdin "$host" <<<'secret:with colon'
is "login: the file is its owner's" "$(stat -c %a "$DOCKER_CONFIG/config.json")" 600
ok "basic: push with what login kept" quiet image push --root "$TMPDIR/layout" app:1 "$host/app:1"
ok "basic: pull" quiet image pull "$host/app:1"
ok "basic: skopeo uses the same file" quiet skopeo inspect --authfile "$DOCKER_CONFIG/config.json" --tls-verify=false "docker://$host/app:1"
image login -u alice -p wrong "$host" >"$TMPDIR/out" 2>&1
is "login: a wrong password is refused" $? 125
ok "login: and the old one kept" quiet image pull "$host/app:1"
ok "logout" quiet image logout "$host"
image pull "$host/app:1" >"$TMPDIR/out" 2>&1
is "logout: then nobody gets in" $? 125
ok "logout: the hint says what to do" grep -q "hint: strata image login" "$TMPDIR/out"
stop_registries

# --- certificates
fresh
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout "$TMPDIR/key.pem" -out "$TMPDIR/cert.pem" \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost >/dev/null 2>&1
registry tls "  tls: {certificate: $TMPDIR/cert.pem, key: $TMPDIR/key.pem}"
host=localhost:$registry_port
image push --root "$TMPDIR/layout" app:1 "$host/app:1" >"$TMPDIR/out" 2>&1
is "tls: a certificate of nobody is refused" $? 125
ok "tls: the message says so" grep -q "certificate" "$TMPDIR/out"
ok "tls: --insecure" quiet image push --insecure --root "$TMPDIR/layout" app:1 "$host/app:1"
echo "{\"registries\": {\"$host\": {\"ca\": \"$TMPDIR/cert.pem\"}}}" >"$STRATA_REGISTRIES"
ok "tls: a certificate authority of registries.json" quiet image pull "$host/app:1"

# --- mirrors
fresh
echo "{\"registries\": {\"mirrored.invalid\": {\"mirrors\": [\"http://localhost:1\", \"https://$host\"]}, \"$host\": {\"ca\": \"$TMPDIR/cert.pem\"}}}" >"$STRATA_REGISTRIES"
ok "mirrors: the first that has it" quiet image pull mirrored.invalid/app:1
is "mirrors: under the name that was asked for" "$(image ls --format '{{.Repository}}:{{.Tag}}')" mirrored.invalid/app:1
is "mirrors: it is the image" "$(image_id mirrored.invalid/app:1)" "$id"
done_testing
