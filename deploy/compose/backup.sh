#!/bin/sh
# `make backup TO=folder`: the metadata database, the secrets and the artifact store of the running platform. Into a
# folder that has an earlier backup comes what is new or has changed; nothing is taken out of it.
set -eu
cd "$(dirname "$0")/../.."
umask 077
mkdir -p "$TO/store"
TO=$(cd "$TO" && pwd)

# The database first: then the store has all that it speaks of.
$COMPOSE exec -T postgres pg_dump --username=airflow --format=custom airflow >"$TO/airflow.dump.new"
mv "$TO/airflow.dump.new" "$TO/airflow.dump"
cp .env "$TO/env"
$COMPOSE run --rm --no-deps -T --user "$(id -u):0" -e HOME=/home/airflow \
    --volume "$TO/store:/backup" airflow-init python -c "$(cat deploy/compose/store.py)" save
echo "$TO holds everything but captures, checkpoints and tasks' logs; its secrets are readable for you only."
echo "Bring it back, where nothing is, with: make restore BACKUP=$TO"
