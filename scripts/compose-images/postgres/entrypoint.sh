#!/bin/bash
# POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD and a data directory on a volume, as the official image.
set -euo pipefail

superuser=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$superuser}
as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups)

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  install -d -o postgres -m 700 "$PGDATA"
  password_file=$(mktemp)
  printf %s "$POSTGRES_PASSWORD" >"$password_file"
  chown postgres "$password_file"
  "${as_postgres[@]}" initdb -U "$superuser" -A scram-sha-256 --auth-local=trust -E UTF8 --locale=C.UTF-8 \
    --pwfile="$password_file" >/dev/null
  rm "$password_file"
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  if [ "$database" != postgres ]; then
    echo "CREATE DATABASE \"$database\"" | "${as_postgres[@]}" postgres --single -D "$PGDATA" postgres >/dev/null
  fi
fi
exec "${as_postgres[@]}" "$@" -c listen_addresses='*' -c unix_socket_directories=/tmp
