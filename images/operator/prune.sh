#!/bin/sh
# Takes out of the venv $1 what the running operator never imports. The build then imports the operator and what it
# calls: taking out too much fails it.
set -eu
site=$(echo "$1"/lib/python3*/site-packages)
kubernetes=$site/kubernetes

rm -rf "$site"/pip "$site"/pip-* "$site"/setuptools "$site"/setuptools-* "$site"/pkg_resources "$site"/_distutils_hack \
    "$site"/distutils-precedence.pth
find "$1" -name '*.a' -delete
echo /opt/podium/app >"$site/podium.pth"

# Of the Kubernetes client the operator uses the connection: configuration, credentials and transport of the
# asynchronous half. The generated classes, one for each type of the API in either half, are 9 tenths of the image.
for part in "$kubernetes"/*; do
    case $part in */aio | */py.typed) ;; *) rm -rf "$part" ;; esac
done
rm -rf "$kubernetes"/aio/client/api "$kubernetes"/aio/client/models "$kubernetes"/aio/dynamic \
    "$kubernetes"/aio/leaderelection "$kubernetes"/aio/stream "$kubernetes"/aio/watch
find "$kubernetes" -name '*_test.py' -delete
mkdir "$kubernetes/aio/client/models"
: >"$kubernetes/__init__.py"
: >"$kubernetes/aio/__init__.py"
: >"$kubernetes/aio/client/models/__init__.py"
cat >"$kubernetes/aio/client/__init__.py" <<'PYTHON'
from kubernetes.aio.client.api_client import ApiClient as ApiClient
from kubernetes.aio.client.configuration import Configuration as Configuration
from kubernetes.aio.client.exceptions import ApiException as ApiException
PYTHON
