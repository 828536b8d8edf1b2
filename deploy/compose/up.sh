#!/bin/sh
# `make up`: the secrets into .env once, the images that are missing, everything started, and a wait until it works.
# $COMPOSE is `docker compose` or `docker-compose`; $WORKERS is how many Celery workers, none when it is empty; with
# $MONITORING Prometheus and Grafana are started as well, with $DOCS the documentation.
set -eu
cd "$(dirname "$0")/../.."
what=up
. deploy/compose/prepare.sh

also() { export COMPOSE_PROFILES="${COMPOSE_PROFILES:+$COMPOSE_PROFILES,}$1"; }

start() {
    if [ "${MONITORING:-0}" -gt 0 ]; then
        also monitoring
        export E2E3D_METRICS=True
    elif [ "$(setting E2E3D_METRICS)" != True ]; then
        # Where there is none, Compose says so, which would puzzle whoever never had it.
        COMPOSE_PROFILES=monitoring $COMPOSE rm --stop --force grafana prometheus node-exporter statsd-exporter >/dev/null
    fi
    if [ "${DOCS:-0}" -gt 0 ]; then
        also docs
        build_missing_images docs
    fi
    if [ "${WORKERS:-0}" -gt 0 ]; then
        also distributed
        export E2E3D_EXECUTOR=CeleryExecutor
        set -- --scale "worker=$WORKERS"
    elif [ "$(setting E2E3D_EXECUTOR)" != CeleryExecutor ]; then
        # Workers of an earlier `make up WORKERS=2` would wait for nothing.
        COMPOSE_PROFILES=distributed $COMPOSE rm --stop --force worker redis >/dev/null
    fi
    if ! $COMPOSE up --detach "$@"; then
        init=$(docker ps --all --quiet --filter "label=com.docker.compose.project=$project" \
            --filter label=com.docker.compose.service=airflow-init)
        # Of one that went well, or of an earlier time, a page of log would hide what went wrong.
        [ "$(docker inspect --format '{{.State.ExitCode}}' "$init" 2>&1)" = 0 ] || docker logs --tail 30 "$init" >&2 || true
        fail "$COMPOSE up failed, as said above. Where a port is taken, choose another: make up E2E3D_UI_PORT=8081"
    fi
}

prepare
start
wait_until_healthy

host=$(setting E2E3D_HOST) ui=$(setting E2E3D_UI_PORT) console=$(setting E2E3D_S3_CONSOLE_PORT)
store=$(setting E2E3D_S3_ENDPOINT)
grafana=$(setting E2E3D_GRAFANA_PORT) prometheus=$(setting E2E3D_PROMETHEUS_PORT)
docs=$(setting E2E3D_DOCS_PORT)
cat <<END
Airflow:  http://${host:-localhost}:${ui:-8080}/dags/reconstruct   user admin, password ADMIN_PASSWORD in .env
Store:    ${store:-http://${host:-localhost}:${console:-9001}}   user MINIO_ROOT_USER, password MINIO_ROOT_PASSWORD in .env
END
[ "${MONITORING:-0}" -eq 0 ] || cat <<END
Grafana:  http://${host:-localhost}:${grafana:-3000}   user admin, the same password; Prometheus beside it at port ${prometheus:-9090}
END
[ "${DOCS:-0}" -eq 0 ] || echo "Docs:     http://${host:-localhost}:${docs:-8000}"
cat <<END
Press Trigger and give the capture: s3://captures/caliterra is the sample; your own go beside it, into the bucket captures.
END
