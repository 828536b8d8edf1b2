#!/bin/sh
# `make restore BACKUP=folder`: what `make backup` wrote becomes a platform, on a machine or in a place that has none.
set -eu
cd "$(dirname "$0")/../.."
what=restore
. deploy/compose/prepare.sh

[ -f "$BACKUP/airflow.dump" ] || fail "there is no backup in $BACKUP: it has no airflow.dump"
BACKUP=$(cd "$BACKUP" && pwd)
if [ ! -e .env ]; then
    # This machine's group of the socket may be another.
    (umask 077 && grep -v '^DOCKER_GID=' "$BACKUP/env" >.env)
elif [ "$(sed -n 's/^FERNET_KEY=//p' .env)" != "$(sed -n 's/^FERNET_KEY=//p' "$BACKUP/env")" ]; then
    fail ".env has other secrets than the backup: move it away"
fi
project=$(setting COMPOSE_PROJECT_NAME)
for volume in postgres minio; do
    ! docker volume inspect "${project}_$volume" >/dev/null 2>&1 || fail "there are data already: keep them, or
    make down, and give them up with: docker volume rm ${project}_postgres ${project}_minio ${project}_logs"
done
prepare

$COMPOSE up --detach postgres minio
wait_until_healthy
$COMPOSE exec -T postgres pg_restore --username=airflow --dbname=airflow --exit-on-error <"$BACKUP/airflow.dump"
$COMPOSE run --rm --no-deps -T --user "$(id -u):0" -e HOME=/home/airflow \
    --volume "$BACKUP/store:/backup:ro" airflow-init python -c "$(cat deploy/compose/store.py)" put
exec sh deploy/compose/up.sh
