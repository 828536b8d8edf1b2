#!/bin/sh
# `make down`: stages save their checkpoints while the store still answers, then everything stops; the data stay.
set -eu
cd "$(dirname "$0")/../.."
export COMPOSE_PROFILES=distributed,monitoring,docs
$COMPOSE stop scheduler triggerer worker
project=${COMPOSE_PROJECT_NAME:-$(sed -n 's/^COMPOSE_PROJECT_NAME=//p' .env)}
stages=$(docker ps --quiet --filter label=e2e3d --filter "network=${project}_stages")
[ -z "$stages" ] || docker stop -t 110 $stages
$COMPOSE down
