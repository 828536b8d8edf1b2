# Sourced by up.sh and restore.sh, whose name is in $what: the secrets in .env, the version, the images, and
# the wait until what was started works.
WAIT_SECONDS=300

fail() { echo "make $what: $*" >&2; exit 1; }

# What a name stands for, as Compose sees it: the environment first, then .env.
setting() {
    eval "value=\${$1:-}"
    [ -n "$value" ] || value=$(sed -n "s/^$1=//p" .env | tail -n 1)
    printf '%s' "$value"
}

# add NAME VALUE: into .env, unless the name is there.
add() { grep -q "^$1=" .env || printf '%s=%s\n' "$1" "$2" >>.env; }

# 160 bits in the 40 characters that every S3 server takes.
secret() { od -An -N20 -tx1 /dev/urandom | tr -d ' \n'; }

write_secrets() {
    umask 077
    touch .env
    chmod 600 .env
    add COMPOSE_PROJECT_NAME "${COMPOSE_PROJECT_NAME:-e2e3d}"
    project=$(setting COMPOSE_PROJECT_NAME)
    if ! grep -q '^POSTGRES_PASSWORD=' .env && docker volume inspect "${project}_postgres" >/dev/null 2>&1; then
        fail "there are data of an earlier .env: bring that file back, or give the data up with
    docker volume rm ${project}_postgres ${project}_minio ${project}_logs"
    fi
    add POSTGRES_PASSWORD "$(secret)"
    add REDIS_PASSWORD "$(secret)"
    add MINIO_ROOT_USER "$(secret | cut -c 1-20)"
    add MINIO_ROOT_PASSWORD "$(secret)"
    add S3_ACCESS_KEY "$(secret | cut -c 1-20)"
    add S3_SECRET_KEY "$(secret)"
    add LOGS_ACCESS_KEY "$(secret | cut -c 1-20)"
    add LOGS_SECRET_KEY "$(secret)"
    add ADMIN_PASSWORD "$(secret)"
    add API_SECRET_KEY "$(secret)"
    add JWT_SECRET "$(secret)$(secret)"
    add FERNET_KEY "$(head -c 32 /dev/urandom | base64 | tr '+/' '-_')"
}

# A stage that takes more is ended, and tried again with less, before the machine stands still.
write_limits() {
    [ -r /proc/meminfo ] && memory=$(awk '/^MemTotal/ {printf "%dm", $2 * 3 / 4096}' /proc/meminfo)
    add E2E3D_STAGE_MEMORY "${memory:-8g}"
}

# The images' version follows the checkout, unlike the secrets.
write_version() {
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' containers/e2e3d_stages/__init__.py)
    if ! grep -qx "E2E3D_VERSION=$version" .env; then
        others=$(grep -v '^E2E3D_VERSION=' .env)
        printf '%s\n' "$others" "E2E3D_VERSION=$version" >.env
    fi
}

build_missing_images() {
    for name in "$@"; do
        if ! docker image inspect "e2e3d/$name:$version" >/dev/null 2>&1; then
            echo "Building e2e3d/$name:$version; the first time takes a while."
            make "image-$name"
        fi
    done
}

# The group that a container sees on the engine's socket; on this side of a virtual machine it may be another.
write_socket_group() {
    grep -q '^DOCKER_GID=' .env && return
    socket=$(setting DOCKER_SOCKET)
    group=$(docker run --rm --volume "${socket:-/var/run/docker.sock}:/docker.sock" --entrypoint stat \
        "e2e3d/airflow:$version" -c %g /docker.sock) || fail "the engine's socket cannot be mounted: set DOCKER_SOCKET"
    add DOCKER_GID "$group"
}

prepare() {
    docker info >/dev/null || fail "no Docker engine answers: start it, or let this user speak to it"
    write_secrets
    write_limits
    write_version
    build_missing_images airflow sfm 3dgs compressor
    write_socket_group
}

# `NAME SERVICE STATUS` of every container that does not work yet.
waiting() {
    docker ps --all --filter "label=com.docker.compose.project=$project" \
        --format '{{.Names}} {{.Label "com.docker.compose.service"}} {{.Status}}' |
        grep -v -e '(healthy)$' -e ' airflow-init Exited (0)' || true
}

# One line that changes on a terminal, one for each change elsewhere.
tell() {
    if [ -t 1 ]; then
        printf '\r\033[K%3d s: %s' "$seconds" "$1"
    elif [ "$1" != "${told:-}" ]; then
        printf '%3d s: %s\n' "$seconds" "$1"
    fi
    told=$1
}

wait_until_healthy() {
    started=$(date +%s) seconds=0
    while left=$(waiting) && [ -n "$left" ]; do
        seconds=$(($(date +%s) - started))
        if [ "$seconds" -gt "$WAIT_SECONDS" ]; then
            echo "$left" | while read -r name service status; do
                echo "--- $service is not healthy: $status; its last lines:"
                docker logs --tail 20 "$name" 2>&1
            done >&2
            fail "not everything works after $WAIT_SECONDS s. More: $COMPOSE logs SERVICE"
        fi
        tell "waiting for $(echo "$left" | cut -d ' ' -f 2 | sort -u | tr '\n' ' ')"
        sleep 2
    done
    tell "everything is healthy"
    echo
}
