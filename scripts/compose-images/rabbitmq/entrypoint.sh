#!/bin/bash
# RABBITMQ_DEFAULT_USER and RABBITMQ_DEFAULT_PASS, reachable from other containers, logs on the console.
set -euo pipefail

cat >/etc/rabbitmq/rabbitmq.conf <<CONF
default_user = ${RABBITMQ_DEFAULT_USER:-guest}
default_pass = ${RABBITMQ_DEFAULT_PASS:-guest}
loopback_users = none
log.console = true
log.file = false
CONF
chown -R rabbitmq: /var/lib/rabbitmq /etc/rabbitmq
# Debian's wrapper would start the broker behind `su`, which keeps the signal to stop for itself.
export PATH=/usr/lib/rabbitmq/bin:$PATH HOME=/var/lib/rabbitmq
exec setpriv --reuid=rabbitmq --regid=rabbitmq --clear-groups "$@"
